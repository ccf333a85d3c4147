"""Why bytes were refused: constants that may be logged, counted and put into a dead letter."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """A reason, and nothing of what was refused."""

    NOT_FRAMED = "not_framed"
    """The payload does not begin as its topic's framing says."""
    UNKNOWN_SCHEMA = "unknown_schema"
    """The framing names a schema that is not ours."""
    TRUNCATED = "truncated"
    """The bytes end before the record does."""
    TRAILING_BYTES = "trailing_bytes"
    """The record ends before the bytes do."""
    BAD_VARINT = "bad_varint"
    """An integer of more than 10 bytes or 64 bits."""
    BAD_COUNT = "bad_count"
    """A block says that it holds more items than there are bytes."""
    BAD_SIZE = "bad_size"
    """A block's size is not that of its items, or a length is negative."""
    BAD_TEXT = "bad_text"
    """A string that is not UTF-8."""
    BAD_VALUE = "bad_value"
    """A boolean, union branch or enum index that does not exist, or an int beyond 32 bits."""
    UNEQUAL_COLUMNS = "unequal_columns"
    """Columns of one group with different numbers of rows."""
    TOO_MANY_ROWS = "too_many_rows"
    """More rows than the reader takes in one message."""
    UNRESOLVABLE = "unresolvable"
    """Read well, but the reader's schema has no place for a value."""


class RefusedError(Exception):
    """Ends the reading of one message; caught where the message is, never shown."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
