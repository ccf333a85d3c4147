"""What records hold, as people may read it. Pure, and never at a loss: a record may hold anything."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(ms: int, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """Return UTC epoch ms in a form of strftime, or as the number where no calendar has it."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms after 1970"


def printable(text: str) -> str:
    """Return a text without what a terminal would obey instead of show."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
