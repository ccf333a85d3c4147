"""One encoded batch on its way: in memory, in the spool, on the wire."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

# schema id (0: not known when it was spooled), events, length of the key, schema fingerprint; then key, body.
_SPOOLED = struct.Struct("<IIH8s")


@dataclass(frozen=True, slots=True)
class Message:
    """One encoded batch."""

    key: bytes
    body: bytes
    """Avro, without the wire frame: the schema id may not be known yet."""
    events: int
    settled: Callable[[str], None]
    """Called once, from the publisher's thread: with "" when Kafka or the spool has taken it, else with the reason."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that was handed to librdkafka."""

    message: Message
    number: int | None
    """The spool's number of it; None where it came straight from the inbox."""


def to_spool(message: Message, schema_id: int, fingerprint: bytes) -> bytes:
    """Return a message as a record of the spool; `schema_id` is 0 while it is not known."""
    return _SPOOLED.pack(schema_id, message.events, len(message.key), fingerprint) + message.key + message.body


def from_spool(record: bytes, schema_id: int, fingerprint: bytes) -> tuple[Message, int]:
    """Return a spooled message and its schema id.

    One spooled before the id was known takes `schema_id` when it was written
    with the schema of `fingerprint`; its id is 0 when it was written with
    another, whose id nobody knows any more.
    """
    known, events, key_length, written_with = _SPOOLED.unpack_from(record)
    if not known and written_with == fingerprint:
        known = schema_id
    body = _SPOOLED.size + key_length
    return Message(record[_SPOOLED.size : body], record[body:], events, _nobody), known


def _nobody(_: str) -> None:
    """Settle a message of the spool: its session was told when it was spooled."""
