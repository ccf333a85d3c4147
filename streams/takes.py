"""One take of raw messages, decoded and checked, in order of their offsets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas import wire
from schemas.catalogue import EVENT_COLUMNS, SchemaError
from schemas.codec import Codec, Decoded
from schemas.events import Events
from schemas.refusals import Refusal
from streams.columns import expand
from streams.data import MAX_BATCH_EVENTS, DeadLetter, Longs, RawMessage, UnknownSchemaError
from streams.minimise import EARLIEST_MS, LATEST_MS

RAW_TOPIC = "interactions.raw"

# Reasons of dead letters beside those of schemas.refusals.
BAD_HEADER = "bad_header"
"""Read well, but the header says what cannot be: a negative count, events beyond `captured`, a time out of range."""
BAD_APPLICATION = "bad_application"
"""An event points to an application that the message does not name."""

_NO_EVENTS = np.zeros(0, np.int64)
_MAX_SESSION = 128  # characters; ours are 32
_MAX_ID = 2**31 - 1  # a registry's ids are positive ints; beyond, the frame is noise


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """The good messages of a take. Lists and arrays have one value a batch; columns follow batch by batch."""

    position: Sequence[int]
    """Which message of the take each batch is."""
    headers: Sequence[Mapping[str, Any]]
    counts: Longs
    columns: Mapping[str, Longs]

    def of_header(self, name: str) -> Longs:
        """Return one header field as an array."""
        return np.array([header[name] for header in self.headers], np.int64)

    def events(self) -> Events:
        """Return the events, with their numbers; `batch` indexes the lists here."""
        batch = np.repeat(np.arange(len(self.headers), dtype=np.int32), self.counts)
        starts = np.cumsum(self.counts) - self.counts
        number = (self.of_header("first_number") - starts)[batch] + np.arange(len(batch))
        columns = {name: self.columns.get(name, _NO_EVENTS) for name in EVENT_COLUMNS}
        return Events(batch, {**columns, "number": number})

    def select(self, batches: Longs) -> Batches:
        """Return these batches, in this order."""
        rows = expand(self.counts, batches)
        numbers = batches.tolist()
        return Batches(
            position=[self.position[number] for number in numbers],
            headers=[self.headers[number] for number in numbers],
            counts=self.counts[batches],
            columns={name: column[rows] for name, column in self.columns.items()},
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a message of the take is a dead letter."""

    position: int
    reason: str
    schema_id: int


def read_take(messages: Sequence[RawMessage], codec_for: Callable[[int], Codec]) -> tuple[Batches, list[Fault]]:
    """Decode a take in one pass a schema, and set aside what cannot be read or cannot be so."""
    faults: list[Fault] = []
    framed: dict[int, list[tuple[int, bytes]]] = {}
    for position, message in enumerate(messages):
        frame = wire.unframe(message.value)
        if isinstance(frame, Refusal):
            faults.append(Fault(position, frame, -1))
        else:
            framed.setdefault(frame.schema_id, []).append((position, frame.body))
    schema_of: dict[int, int] = {}
    parts: list[Batches] = []
    for schema_id, bodies in framed.items():
        schema_of.update((position, min(schema_id, _MAX_ID)) for position, _ in bodies)
        decoded = _decode(schema_id, bodies, codec_for, faults)
        if decoded is not None:
            parts.append(_checked(decoded, [position for position, _ in bodies], faults, schema_of))
    faults.sort(key=lambda fault: fault.position)
    return _in_order(parts), faults


def _decode(
    schema_id: int, bodies: Sequence[tuple[int, bytes]], codec_for: Callable[[int], Codec], faults: list[Fault]
) -> Decoded | None:
    claimed = min(schema_id, _MAX_ID)
    try:
        codec = codec_for(schema_id)
    except (UnknownSchemaError, SchemaError):
        faults.extend(Fault(position, Refusal.UNKNOWN_SCHEMA, claimed) for position, _ in bodies)
        return None
    decoded = codec.decode([body for _, body in bodies])
    faults.extend(Fault(bodies[number][0], reason, claimed) for number, reason in decoded.refused)
    return decoded


def _checked(decoded: Decoded, positions: Sequence[int], faults: list[Fault], schema_of: Mapping[int, int]) -> Batches:
    counts = decoded.counts["event"]
    position = [positions[number] for number in decoded.index]
    reasons = [_flaw(header, count) for header, count in zip(decoded.headers, counts.tolist(), strict=True)]
    batches = Batches(position, decoded.headers, counts, decoded.columns)
    for number in _pointing_nowhere(batches):
        reasons[number] = reasons[number] or BAD_APPLICATION
    if not any(reasons):
        return batches
    faults.extend(Fault(at, why, schema_of[at]) for at, why in zip(position, reasons, strict=True) if why)
    return batches.select(np.array([number for number, why in enumerate(reasons) if not why], np.int64))


def _flaw(header: Mapping[str, Any], count: int) -> str:
    """Say what a header makes impossible; "" for nothing."""
    first = header["first_number"]
    dropped = header["dropped"]
    sound = (
        first >= 0
        and first + count <= header["captured"]
        and EARLIEST_MS <= header["base_time"] < LATEST_MS
        and header["epoch"] >= 0
        and 0 < len(header["session"]) <= _MAX_SESSION
        and not (dropped and min(dropped.values()) < 0)
    )
    if not sound:
        return BAD_HEADER
    return Refusal.TOO_MANY_ROWS if count > MAX_BATCH_EVENTS else ""


def _pointing_nowhere(batches: Batches) -> list[int]:
    """Name the batches in which `application` leaves the list. Index 0 is always there: it means none."""
    application = batches.columns["application"]
    if not application.any():
        return []
    known = np.array([max(len(header["applications"]), 1) for header in batches.headers], np.int64)
    wrong = (application < 0) | (application >= np.repeat(known, batches.counts))
    if not wrong.any():
        return []
    owners = np.repeat(np.arange(len(known)), batches.counts)
    return [int(number) for number in np.unique(owners[wrong])]


def _in_order(parts: Sequence[Batches]) -> Batches:
    """Join what was decoded by schema, in order of the take. Nearly always there is one schema."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Batches([], [], np.zeros(0, np.int64), {})
    joined = Batches(
        position=[at for part in parts for at in part.position],
        headers=[header for part in parts for header in part.headers],
        counts=np.concatenate([part.counts for part in parts]),
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
    )
    return joined.select(np.argsort(np.array(joined.position), kind="stable"))


def dead_letters(
    partition: int, messages: Sequence[RawMessage], faults: Sequence[Fault], now_ms: int
) -> tuple[DeadLetter, ...]:
    """Write the dead letters of a take: where each message stood, its size and digest, and why; never its payload."""
    return tuple(
        DeadLetter(
            topic=RAW_TOPIC,
            partition=partition,
            offset=messages[fault.position].offset,
            reason=str(fault.reason),
            schema_id=fault.schema_id,
            size=len(messages[fault.position].value),
            digest=hashlib.sha256(messages[fault.position].value).hexdigest(),
            at=now_ms,
        )
        for fault in faults
    )
