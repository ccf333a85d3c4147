"""A strict reader of Avro's binary encoding, for bytes from anywhere.

fastavro trusts what it reads: it takes an enum index of -1 for the last symbol
and varints of any length. This reader refuses everything that Avro does not
allow, in time and memory bounded by the number of bytes, and is as fast on the
headers of batches. The encoding is that of the Avro specification 1.12,
section "Binary encoding".

A reader is a function `(body, position) -> (value, next position)`. It raises
RefusedError, or IndexError where the bytes end too early; `read_all` and the
codec turn both into a Refusal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from schemas.catalogue import SchemaError
from schemas.refusals import Refusal, RefusedError

Reader = Callable[[bytes, int], tuple[Any, int]]

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")


def read_long(body: bytes, pos: int) -> tuple[int, int]:
    """Read a zigzag varint of at most 10 bytes and 64 bits."""
    byte = body[pos]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), pos + 1
    value, shift = byte & 0x7F, 7
    while True:
        pos += 1
        byte = body[pos]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:  # the tenth byte begins at bit 63; there is no eleventh
            raise RefusedError(Refusal.BAD_VARINT)
    if value >> 64:
        raise RefusedError(Refusal.BAD_VARINT)
    return (value >> 1) ^ -(value & 1), pos + 1


def read_int(body: bytes, pos: int) -> tuple[int, int]:
    """Read a long that must fit 32 bits."""
    value, pos = read_long(body, pos)
    if not INT_MIN <= value <= INT_MAX:
        raise RefusedError(Refusal.BAD_VALUE)
    return value, pos


def read_bytes(body: bytes, pos: int) -> tuple[bytes, int]:
    """Read a length and as many bytes."""
    size, pos = read_long(body, pos)
    if size < 0:
        raise RefusedError(Refusal.BAD_SIZE)
    return _exactly(body, pos, size)


def read_string(body: bytes, pos: int) -> tuple[str, int]:
    """Read bytes that must be UTF-8."""
    size = body[pos]
    if size & 0x81:  # longer than 63 bytes, or negative
        data, end = read_bytes(body, pos)
    else:
        # Nearly every string; worth a branch, for a header holds many of them.
        end = pos + 1 + (size >> 1)
        data = body[pos + 1 : end]
        if end > len(body):
            raise RefusedError(Refusal.TRUNCATED)
    try:
        return data.decode(), end
    except UnicodeDecodeError as error:
        raise RefusedError(Refusal.BAD_TEXT) from error


def read_boolean(body: bytes, pos: int) -> tuple[bool, int]:
    """Read a byte that must be 0 or 1."""
    byte = body[pos]
    if byte > 1:
        raise RefusedError(Refusal.BAD_VALUE)
    return byte == 1, pos + 1


def read_block(body: bytes, pos: int) -> tuple[int, int, int]:
    """Read the head of an array's or a map's block.

    Returns (items, end, next position): `end` is where the block says it ends,
    -1 where it gives no size. An item takes at least a byte here, so a count
    beyond the bytes left is refused before anything is made of it.
    """
    byte = body[pos]
    if not byte & 0x81 and byte >> 1 < len(body) - pos:
        return byte >> 1, -1, pos + 1  # up to 63 items without a size: most lists of a header
    count, pos = read_long(body, pos)
    end = -1
    if count < 0:
        count = -count
        size, pos = read_long(body, pos)
        end = pos + size
        if size < 0:
            raise RefusedError(Refusal.BAD_SIZE)
        if end > len(body):
            raise RefusedError(Refusal.TRUNCATED)
    if count > len(body) - pos:
        raise RefusedError(Refusal.BAD_COUNT)
    return count, end, pos


def read_all(reader: Reader, body: bytes) -> Any:  # an Avro value may be anything
    """Read a value that must fill the bytes exactly. Raises RefusedError."""
    try:
        value, pos = reader(body, 0)
    except IndexError as error:
        raise RefusedError(Refusal.TRUNCATED) from error
    if pos != len(body):
        raise RefusedError(Refusal.TRAILING_BYTES)
    return value


def record_reader(parsed: Mapping[str, Any]) -> Reader:
    """Make a reader of a record as a dict.

    `parsed` is a schema as fastavro parses it. Raises SchemaError where a type
    refers to itself: no bound on depth would hold.
    """
    return _record(parsed, {})


def field_readers(parsed: Mapping[str, Any], names: Sequence[str]) -> dict[str, Reader]:
    """Make the readers of a record's first fields, which are `names`. Raises SchemaError like `record_reader`."""
    named: dict[str, Reader | None] = {}
    return {field["name"]: _reader(field["type"], named) for field in parsed["fields"][: len(names)]}


def _exactly(body: bytes, pos: int, size: int) -> tuple[bytes, int]:
    end = pos + size
    if end > len(body):
        raise RefusedError(Refusal.TRUNCATED)
    return body[pos:end], end


def _read_null(body: bytes, pos: int) -> tuple[None, int]:
    return None, pos


def _read_float(body: bytes, pos: int) -> tuple[float, int]:
    data, pos = _exactly(body, pos, 4)
    return _FLOAT.unpack(data)[0], pos


def _read_double(body: bytes, pos: int) -> tuple[float, int]:
    data, pos = _exactly(body, pos, 8)
    return _DOUBLE.unpack(data)[0], pos


_PRIMITIVES: Mapping[str, Reader] = {
    "null": _read_null,
    "boolean": read_boolean,
    "int": read_int,
    "long": read_long,
    "float": _read_float,
    "double": _read_double,
    "bytes": read_bytes,
    "string": read_string,
}


def _reader(type_: Any, named: dict[str, Reader | None]) -> Reader:  # a JSON value
    if isinstance(type_, list):
        return _union([_reader(branch, named) for branch in type_])
    if isinstance(type_, str):
        found = _PRIMITIVES.get(type_) or named.get(type_)
        if found is None:
            raise SchemaError(f"type {type_} is unknown, or refers to itself")
        return found
    match type_["type"]:
        case "array":
            return _array(_reader(type_["items"], named))
        case "map":
            return _map(_reader(type_["values"], named))
        case "record":
            made = _record(type_, named)
        case "enum":
            made = _enum(tuple(type_["symbols"]))
        case "fixed":
            made = _fixed(type_["size"])
        case inner:
            return _reader(inner, named)
    named[type_["name"]] = made
    return made


def _record(parsed: Mapping[str, Any], named: dict[str, Reader | None]) -> Reader:
    return in_turn([(field["name"], _reader(field["type"], named)) for field in parsed["fields"]])


def in_turn(plan: Sequence[tuple[str, Reader]]) -> Reader:
    """Make a reader of fields that follow each other, as a dict."""

    def read(body: bytes, pos: int) -> tuple[dict[str, Any], int]:
        record = {}
        for name, reader in plan:
            record[name], pos = reader(body, pos)
        return record, pos

    return read


def _enum(symbols: tuple[str, ...]) -> Reader:
    def read(body: bytes, pos: int) -> tuple[str, int]:
        index, pos = read_long(body, pos)
        if not 0 <= index < len(symbols):
            raise RefusedError(Refusal.BAD_VALUE)
        return symbols[index], pos

    return read


def _fixed(size: int) -> Reader:
    return lambda body, pos: _exactly(body, pos, size)


def _union(branches: Sequence[Reader]) -> Reader:
    def read(body: bytes, pos: int) -> tuple[Any, int]:
        index, pos = read_long(body, pos)
        if not 0 <= index < len(branches):
            raise RefusedError(Refusal.BAD_VALUE)
        return branches[index](body, pos)

    return read


def _array(item: Reader) -> Reader:
    if item is _read_null:
        raise SchemaError("an array of nulls has no bound: its items take no bytes")

    def read(body: bytes, pos: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        while body[pos]:
            count, end, pos = read_block(body, pos)
            if not count:  # a zero in two bytes or more ends the blocks as well
                return items, pos
            for _ in range(count):
                value, pos = item(body, pos)
                items.append(value)
            if end not in (-1, pos):
                raise RefusedError(Refusal.BAD_SIZE)
        return items, pos + 1

    return read


def _map(value_reader: Reader) -> Reader:
    def read(body: bytes, pos: int) -> tuple[dict[str, Any], int]:
        items: dict[str, Any] = {}
        while body[pos]:
            count, end, pos = read_block(body, pos)
            if not count:  # a zero in two bytes or more ends the blocks as well
                return items, pos
            for _ in range(count):
                key, pos = read_string(body, pos)
                items[key], pos = value_reader(body, pos)
            if end not in (-1, pos):
                raise RefusedError(Refusal.BAD_SIZE)
        return items, pos + 1

    return read
