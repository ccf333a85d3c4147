"""A clock of its own for a process, which a test sets while it runs. Needs Debian's faketime; without it, the real one."""

from __future__ import annotations

from pathlib import Path


def settings(home: Path, name: str) -> dict[str, str]:
    """Return the environment of a process that lives by a clock of this name; right at first."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        return {}
    set_clock(home, name, 0)
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(_file(home, name)),
        "FAKETIME_NO_CACHE": "1",
        # A machine's monotonic clock does not follow when somebody sets the other.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(home: Path, name: str, seconds: int) -> None:
    """Set a clock so far from the machine's, in one step."""
    written = _file(home, f"{name}-new")
    written.write_text(f"{seconds:+d}\n")
    written.rename(_file(home, name))


def _file(home: Path, name: str) -> Path:
    return home / f"{name}.clock"
