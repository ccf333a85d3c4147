"""How records stand in a Kafka message: the Confluent frame, and Avro's single-object encoding.

Confluent: a zero byte, the registry's schema id in 4 bytes big-endian, the
record. Single-object (Avro specification 1.12, "Single-object encoding"): the
bytes C3 01, the schema's CRC-64-AVRO fingerprint, the record. The second names
its schema by content, so a switch can be read with no registry in reach.

What does not fit is answered with a Refusal, never raised: it is data.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import fastavro

from schemas.catalogue import Schema, load, names
from schemas.refusals import Refusal, RefusedError
from schemas.strict import Reader, read_all, record_reader

_FRAME = struct.Struct(">BI")
FRAME_SIZE = _FRAME.size
_SINGLE = b"\xc3\x01"
_SINGLE_SIZE = 10


class Frame(NamedTuple):
    """A payload taken apart: the registry's id of the schema it was written with, and the record's bytes."""

    schema_id: int
    body: bytes


class Single(NamedTuple):
    """A single-object payload, read."""

    schema: Schema
    record: dict[str, Any]


def frame(schema_id: int, body: bytes) -> bytes:
    """Put a record's bytes into the Confluent wire format."""
    return _FRAME.pack(0, schema_id) + body


def unframe(payload: bytes | None) -> Frame | Refusal:
    """Take a payload in the Confluent wire format apart; the id is what the payload claims, nothing more."""
    if payload is None or len(payload) < FRAME_SIZE or payload[0] != 0:
        return Refusal.NOT_FRAMED
    return Frame(_FRAME.unpack_from(payload)[1], payload[FRAME_SIZE:])


def encode_single(schema: Schema, record: Mapping[str, Any]) -> bytes:
    """Write a record in single-object encoding. The same record gives the same bytes.

    Maps are written in the order of their keys, for Avro leaves it open. Raises
    what fastavro raises for a record that does not fit its schema: a bug.
    """
    out = io.BytesIO()
    out.write(_SINGLE + schema.fingerprint)
    ordered = {name: _ordered(value) for name, value in record.items()}
    fastavro.schemaless_writer(out, schema.parsed, ordered, strict_allow_default=True)
    return out.getvalue()


def decode_single(payload: bytes | None) -> Single | Refusal:
    """Read a payload in single-object encoding with the schema of the catalogue that it names."""
    if payload is None or len(payload) < _SINGLE_SIZE or payload[:2] != _SINGLE:
        return Refusal.NOT_FRAMED
    known = _by_fingerprint().get(payload[2:_SINGLE_SIZE])
    if known is None:
        return Refusal.UNKNOWN_SCHEMA
    schema, reader = known
    try:
        return Single(schema, read_all(reader, payload[_SINGLE_SIZE:]))
    except RefusedError as error:
        return error.refusal


@cache
def _by_fingerprint() -> Mapping[bytes, tuple[Schema, Reader]]:
    return {schema.fingerprint: (schema, record_reader(schema.parsed)) for schema in map(load, names())}


def _ordered(value: Any) -> Any:  # a record's value may be anything
    return dict(sorted(value.items())) if isinstance(value, dict) else value
