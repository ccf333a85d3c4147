"""What the codec does to one column: match two versions of it, cut it out of a message, put its rows in place."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np
from numpy.typing import NDArray

from schemas.catalogue import Column, Schema, SchemaError
from schemas.refusals import Refusal, RefusedError
from schemas.strict import INT_MAX, INT_MIN, read_block

Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a column that was read belongs."""

    name: str
    codes: Longs | None
    """The reader's index for each of the writer's; -1 where it has none. None where they are the same."""


def targets(writer: Schema, reader: Schema) -> list[Target | None]:
    """Find the reader's column for each of the writer's; None where it is dropped. Raises SchemaError."""
    by_name = {name: column for column in reader.columns for name in (*column.aliases, column.name)}
    for one, other in ((writer, reader), (reader, writer)):
        mixed = {column.name for column in one.columns} & set(other.header)
        if mixed:
            raise SchemaError(f"`{min(mixed)}` is a column in one version of {reader.name} and none in another")
    return [_target(column, by_name.get(column.name), reader) for column in writer.columns]


def _target(written: Column, wanted: Column | None, reader: Schema) -> Target | None:
    if wanted is None:
        return None
    same_type = wanted.type == written.type or (written.type, wanted.type) == ("int", "long")
    if wanted.group != written.group or not same_type:
        raise SchemaError(f"column `{wanted.name}` of {reader.name} cannot be read from this writer's schema")
    if wanted.symbols == written.symbols:
        return Target(wanted.name, None)
    codes = {symbol: code for code, symbol in enumerate(wanted.symbols)}
    unknown = codes.get(wanted.default_symbol, -1)
    return Target(wanted.name, np.array([codes.get(symbol, unknown) for symbol in written.symbols], np.int64))


def limits(column: Column) -> tuple[int, int]:
    """Return the least and the greatest value that a column's type allows."""
    if column.type == "enum":
        return 0, len(column.symbols) - 1
    return (INT_MIN, INT_MAX) if column.type == "int" else (-(2**63), 2**63 - 1)


def header_only(schema: Schema) -> Any:  # fastavro's own type for a parsed schema
    """Make a schema of the fields before the first column, to read and write those with fastavro."""
    fields = [f for f in schema.definition["fields"] if "column" not in f]
    return fastavro.parse_schema({**schema.definition, "fields": fields}, named_schemas={})


def spread(found: Longs | None, filled: NDArray[np.bool_], rows: Longs) -> Longs:
    """Put a column's numbers where the rows of the messages are that filled it; the others have zeros."""
    total = int(rows.sum())
    if found is not None and len(found) == total:
        return found
    values = np.zeros(total, np.int64)
    if found is not None:
        values[np.repeat(filled, rows)] = found
    return values


def owners(broken: NDArray[np.bool_], counts: Longs, refusal: Refusal) -> dict[int, Refusal]:
    """Name the messages that the broken rows belong to; `counts` says how many rows each message gave."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return dict.fromkeys(np.unique(owner[broken]).tolist(), refusal)


def cut(body: bytes, pos: int) -> tuple[int, bytes, int]:
    """Cut out an array of varints. Returns (rows, varints, position after the array)."""
    count, end, start = read_block(body, pos)
    if count and 0 <= end < len(body) and not body[end]:
        if end - start < count:
            raise RefusedError(Refusal.BAD_SIZE)
        return count, body[start:end], end + 1
    return _cut_blocks(body, pos)


def _cut_blocks(body: bytes, pos: int) -> tuple[int, bytes, int]:
    """Cut out an array of several blocks, or of blocks without sizes: count the varints' last bytes."""
    ends = np.flatnonzero(np.frombuffer(body, np.uint8) < 0x80).tolist()
    parts: list[bytes] = []
    total = 0
    while True:
        count, end, start = read_block(body, pos)
        if not count:
            return total, b"".join(parts), start
        last = bisect_left(ends, start) + count - 1
        if last >= len(ends):
            raise RefusedError(Refusal.TRUNCATED)
        pos = ends[last] + 1
        if end not in (-1, pos):
            raise RefusedError(Refusal.BAD_SIZE)
        parts.append(body[start:pos])
        total += count
