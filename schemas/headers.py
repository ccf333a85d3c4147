"""Reads the header of a message: strictly, and what was read before without reading it again.

The messages of one session begin alike: the same session, subject and
producer, the same screen and applications. Bytes that were read once mean the
same when they come again, so such fields are looked up by their bytes.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from schemas.catalogue import Schema
from schemas.strict import Reader, field_readers, in_turn

# They are found by their first bytes: past the length, 23 hex digits of an identifier.
_FIRST_BYTES = 24
# 4096 times 512 bytes, as bytes and as values, are some 6 MB: the most that anybody can make us keep.
_MOST = 4096
_LONGEST = 512


def header_reader(schema: Schema) -> Reader:
    """Make a reader of a schema's header as a dict. Lists in it may be shared with other headers."""
    readers = field_readers(schema.parsed, schema.header)
    runs = [list(names) for _, names in groupby(schema.header, lambda name: _repeats(schema, name))]
    steps: list[Reader] = []
    for names in runs:
        run = in_turn([(name, readers[name]) for name in names])
        steps.append(_remembered(run) if _repeats(schema, names[0]) else run)

    def read(body: bytes, pos: int) -> tuple[dict[str, Any], int]:
        header: dict[str, Any] = {}
        for step in steps:
            values, pos = step(body, pos)
            header |= values
        return header, pos

    return read


def _repeats(schema: Schema, name: str) -> bool:
    """Say whether a session's messages are likely to repeat a field: names and sizes, not counters and times (longs).

    What people read or write is never kept, be it repeated or not.
    """
    field = next(field for field in schema.definition["fields"] if field["name"] == name)
    likely = field["type"] in ("string", "int", {"type": "array", "items": "string"})
    return likely and field.get("sensitivity") != "content"


def _remembered(read_anew: Reader) -> Reader:
    known: dict[bytes, tuple[bytes, Any]] = {}

    def read(body: bytes, pos: int) -> tuple[Any, int]:
        first = body[pos : pos + _FIRST_BYTES]
        data, values = known.get(first, (b"", None))
        if data and body.startswith(data, pos):
            return values, pos + len(data)
        values, end = read_anew(body, pos)
        if _FIRST_BYTES <= end - pos <= _LONGEST:
            if len(known) >= _MOST:
                known.clear()
            known[first] = body[pos:end], values
        return values, end

    return read
