"""A view that follows what changes, until Ctrl-C: drawn on a terminal, line by line for programs."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from infra.control.commands.plain import say
from infra.control.readable import printable
from infra.control.reader import wall_ms

Rows = Mapping[tuple[str, str], Mapping[str, Any]]
"""What there is, by kind and name; no ages, which always change."""

_TICK = 0.5
"""Seconds after which it is drawn again though nothing has changed: ages grow."""


def follow(
    take: Callable[[], Rows], draw: Callable[[], list[str]], wait: Callable[[float], None], *, as_json: bool
) -> None:
    """Show what `take` and `draw` (its lines) return whenever it changes, until Ctrl-C.

    `wait` returns when something may have changed, or after so many seconds. On a
    terminal `draw` is shown in place; elsewhere it is printed after each change; with
    `as_json` each change is a line: first what there is, as "is", then "new",
    "changed" and "gone".
    """
    # A shell that starts it in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if as_json:
            _lines(take, wait)
        elif sys.stdout.isatty():
            _drawn(draw, wait)
        else:
            _printed(take, draw, wait)
    except KeyboardInterrupt:
        return


def _lines(take: Callable[[], Rows], wait: Callable[[float], None]) -> None:
    before: Rows = {}
    first = True
    while True:
        now = take()
        for (what, name), row in now.items():
            old = before.get((what, name))
            if old is None or _differs(old, row):
                _line(what, name, "is" if first else "new" if old is None else "changed", row)
        for what, name in before:
            if (what, name) not in now:
                _line(what, name, "gone", {})
        before, first = now, False
        wait(_TICK)


def _differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether there is something new: a reason in other words is not, it may hold an age."""
    return {**old, "why": ""} != {**new, "why": ""}


def _line(what: str, name: str, change: str, row: Mapping[str, Any]) -> None:
    print(json.dumps({"at": wall_ms(), "what": what, "name": name, "change": change, **row}), flush=True)


def _printed(take: Callable[[], Rows], draw: Callable[[], list[str]], wait: Callable[[float], None]) -> None:
    before: Rows | None = None
    while True:
        now = take()
        if before is None or before.keys() != now.keys() or any(_differs(before[key], now[key]) for key in now):
            say([*draw(), ""])
        before = now
        wait(_TICK)


def _drawn(draw: Callable[[], list[str]], wait: Callable[[float], None]) -> None:
    from rich.live import Live
    from rich.text import Text

    def drawn() -> Text:
        # What people wrote is no markup; a line too long is cut, not folded.
        return Text("\n".join(printable(line) for line in draw()), no_wrap=True, overflow="ellipsis")

    with Live(drawn(), auto_refresh=False) as live:
        while True:
            wait(_TICK)
            live.update(drawn(), refresh=True)
