"""Reads the header of a message: strictly, and what its session repeats without reading it again.

The messages of a session carry the same names, screen and applications nearly
every time. Bytes mean the same when they come again, so a field whose bytes
are those of the session's message before has the value that it had there.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from schemas.catalogue import Schema
from schemas.strict import Reader, field_readers, in_turn

# What is kept of a session is some 2 KB, so 8 MB in all; in the worst case that
# anybody can send, 15 KB and 60 MB: many short strings in three runs of fields.
_SESSIONS = 4096
_LONGEST = 256

_Last = tuple[bytes, dict[str, Any]]


def header_reader(schema: Schema) -> Reader:
    """Make a reader of a schema's header as a dict. The lists and maps in it may be shared with other headers.

    The first field, where it is a string, is taken for the session's name. That
    is a guess which costs nothing when it is wrong: a hit is a hit by its bytes.
    """
    readers = field_readers(schema.parsed, schema.header)
    if not schema.header or not _repeats(schema, schema.header[0]):
        return in_turn(list(readers.items()))
    runs = [
        (repeats, in_turn([(name, readers[name]) for name in names]))
        for repeats, names in groupby(schema.header, lambda name: _repeats(schema, name))
    ]
    known: dict[bytes, list[_Last]] = {}

    def read(body: bytes, pos: int) -> tuple[dict[str, Any], int]:
        session = body[pos : pos + 1 + (body[pos] >> 1)]
        last = known.get(session)
        if last is None:
            if len(known) >= _SESSIONS:
                known.clear()
            last = known[session] = [(b"", {})] * len(runs)
        header: dict[str, Any] = {}
        for number, (repeats, run) in enumerate(runs):
            data, values = last[number]
            if data and body.startswith(data, pos):
                pos += len(data)
            else:
                values, end = run(body, pos)
                if repeats and end - pos <= _LONGEST:
                    last[number] = body[pos:end], values
                pos = end
            header |= values
        return header, pos

    return read


def _repeats(schema: Schema, name: str) -> bool:
    """Say whether messages of a session are likely to repeat a field: not its counters and times, which are longs.

    What people read or write is never kept, be it repeated or not.
    """
    field = next(field for field in schema.definition["fields"] if field["name"] == name)
    return bool(field["type"] != "long" and field.get("sensitivity") != "content")
