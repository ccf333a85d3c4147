"""Plain text for terminals and pipes alike: columns, times, counts. Without rich, which takes 0.15 s to import."""

from __future__ import annotations

import getpass
import os
import shlex
from collections.abc import Iterable, Sequence

from infra.control.readable import moment, printable


def say(lines: Iterable[str]) -> None:
    """Print lines, of which records may have written some: none of it reaches the terminal as an order or a line."""
    for line in lines:
        print(printable(line), flush=True)


def columns(header: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "") -> list[str]:
    """Return the lines of a table of what records may have written: every column as wide as its widest cell."""
    lines = [[printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def word(text: str) -> str:
    """Return a text as one word of a command that can be pasted into a shell."""
    return shlex.quote(text)


def count(number: int, what: str) -> str:
    """Return a number of things: `1 gate`, `2 gates`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}es" if what.endswith("ch") else f"{number} {what}s"


def length(ms: float) -> str:
    """Return a length of time as people say it: `143 ms`, `12 s`, `5 min`, `3 h`, `2 days`."""
    for limit, unit, name in ((1_000, 1, "ms"), (120_000, 1_000, "s"), (5_400_000, 60_000, "min")):
        if ms < limit:
            return f"{max(0, ms) / unit:.0f} {name}"
    return f"{ms / 3_600_000:.0f} h" if ms < 172_800_000 else f"{ms / 86_400_000:.0f} days"


def clock(ms: int) -> str:
    """Return the time of day of UTC epoch ms."""
    return moment(ms, "%H:%M:%S UTC")


def listed(names: Iterable[str]) -> str:
    """Return names as in a sentence: `a`, `a and b`, `a, b and c`."""
    *most, last = list(names) or ["nobody"]
    return f"{', '.join(most)} and {last}" if most else last


def whoami() -> str:
    """Return this user's name or, where the machine knows none, their number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid {os.getuid()}"
