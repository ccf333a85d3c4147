"""The minimised block: written from what a gate admitted, and read back, checked and taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.control import reasons
from infra.control.gate import Admitted, Drops
from infra.control.records import Policy
from schemas.catalogue import MINIMISED_EVENT_COLUMNS
from schemas.codec import Codec, Decoded
from streams.columns import heads
from streams.data import Column, DeadLetter, Longs, WindowSpec
from streams.window import CHUNK_TYPES, Chunk, RowKey, Rows

# Block and batch times stay below 2^44 ms (the year 2527): sums of them fit in 64 bits with room to spare.
_TIME_LIMIT = 2**44
# Header lists that have one item for each row of a group of columns.
_TEXTS = {
    "batch": ("batch_session", "batch_subject"),
    "drop": ("drop_reason",),
    "dead": ("dead_reason", "dead_digest"),
}
_BY_PRODUCER, _BY_MINIMISER = 0, 1  # codes of Stage in minimised_block.avsc


@dataclass(frozen=True, slots=True)
class Cover:
    """What a block says of itself: where it stands, and under which policy it was made (None: there was none)."""

    partition: int
    raw_from: int
    raw_through: int
    append_time: int
    worker: str
    policy: Policy | None

    def header(self) -> dict[str, Any]:
        """Return the header of a block of no batch: a tick."""
        policy = self.policy
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "policy": policy.name if policy else "",
            "policy_version": policy.version if policy else 0,
            "notice": policy.notice if policy else "",
            "window_kind": policy.window_kind if policy else "tumbling",
            "window_size_ms": policy.window_size_ms if policy else 0,
            "window_step_ms": policy.window_step_ms if policy else 0,
            "window_gap_ms": policy.window_gap_ms if policy else 0,
            "lateness_ms": policy.lateness_ms if policy else 0,
            "purposes": [rule.name for rule in policy.purposes] if policy else [],
            "applications": [""],
            **{name: [] for names in _TEXTS.values() for name in names},
        }


@dataclass(frozen=True, slots=True, eq=False)
class BatchRows:
    """What a block says of each batch beside its events, one value a batch."""

    session: Sequence[str]
    subject: Sequence[str]
    """Pseudonyms."""
    producer_dropped: Sequence[Mapping[str, int]]
    columns: Mapping[str, Column]
    """The batch columns by name, without `batch_kept`."""


def write_block(
    codec: Codec,
    cover: Cover,
    admitted: Admitted,
    applications: Sequence[str],
    rows: BatchRows,
    drops: Drops,
    dead: Sequence[DeadLetter],
) -> bytes:
    """Encode a block. Events come from a gate or not at all: `admitted.events.batch` indexes `rows`."""
    kept = np.bincount(admitted.events.batch, minlength=len(rows.session))
    # (batch, stage, reason, count)
    counted = [
        (batch, _BY_PRODUCER, reason, count)
        for batch, by_reason in enumerate(rows.producer_dropped)
        if by_reason
        for reason, count in sorted(by_reason.items())
    ]
    for batch, code, count in zip(drops.batch.tolist(), drops.reason.tolist(), drops.count.tolist(), strict=True):
        counted.append((batch, _BY_MINIMISER, reasons.REASONS[code], count))
    header = {
        **cover.header(),
        "applications": list(applications),
        "batch_session": list(rows.session),
        # A batch of which nothing was kept names nobody.
        "batch_subject": [name if n else "" for name, n in zip(rows.subject, kept.tolist(), strict=True)],
        "drop_reason": [reason for _, _, reason, _ in counted],
        "dead_reason": [letter.reason for letter in dead],
        "dead_digest": [letter.digest for letter in dead],
    }
    columns: dict[str, Column] = {
        **rows.columns,
        "batch_kept": kept,
        "drop_batch": _longs([batch for batch, _, _, _ in counted]),
        "drop_by": _longs([stage for _, stage, _, _ in counted]),
        "drop_count": _longs([count for _, _, _, count in counted]),
        "dead_offset": _longs([letter.offset for letter in dead]),
        "dead_schema_id": _longs([letter.schema_id for letter in dead]),
        "dead_size": _longs([letter.size for letter in dead]),
        **{name: admitted.events.columns[name] for name in MINIMISED_EVENT_COLUMNS},
    }
    return codec.encode(header, columns)


def _longs(values: Sequence[int]) -> Longs:
    return np.array(values, np.int64)


class BlockError(Exception):
    """The bytes are Avro, but no minimiser of ours wrote them. The message is a constant."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One block. Batch arrays have one value a batch, in order of raw offset; events follow batch by batch."""

    partition: int
    raw_from: int
    raw_through: int
    append_time: int
    spec: WindowSpec | None
    """None where the block holds no event."""
    applications: Sequence[str]
    keys: Sequence[RowKey]
    batches: Mapping[str, Longs]
    """The batch columns by name, without `batch_`."""
    producer_dropped: Sequence[Mapping[str, int]]
    dropped: Sequence[Mapping[str, int]]
    dead: Mapping[str, Sequence[Any]]
    """`reason`, `digest`, `offset`, `schema_id`, `size` of each dead letter."""
    columns: Mapping[str, Longs]
    """The event columns, without those that are all zeros, and without `offset_ms`."""
    time: Longs
    """Time of each event."""
    batch: NDArray[np.int64]
    """Batch of each event."""

    def receipt_only(self) -> Block:
        """Return the block without its events, which may stay in memory longer than they are needed."""
        none = np.zeros(0, np.int64)
        return replace(self, columns={}, time=none, batch=none)

    def only(self, batches: Longs) -> Block:
        """Return the block with these batches alone, by position and in order."""
        if len(batches) == len(self.keys):
            return self
        numbers = batches.tolist()
        place = np.full(len(self.keys), -1)
        place[batches] = np.arange(len(batches))
        return replace(
            self._events(place[self.batch] >= 0, place),
            keys=[self.keys[number] for number in numbers],
            batches={name: column[batches] for name, column in self.batches.items()},
            producer_dropped=[self.producer_dropped[number] for number in numbers],
            dropped=[self.dropped[number] for number in numbers],
        )

    def refuse(self, pieces: Mapping[int, tuple[int, int]]) -> Block:
        """Return the block without the events of these batches.

        Of each, numbers `low` to `high` (left out) stay in its receipt, as malformed.
        """
        batches = {name: column.copy() for name, column in self.batches.items()}
        dropped = list(self.dropped)
        for at, (low, high) in pieces.items():
            batches["first_number"][at], batches["count"][at], batches["kept"][at] = low, high - low, 0
            dropped[at] = {reasons.MALFORMED: high - low}
        events = ~np.isin(self.batch, list(pieces))
        return replace(self._events(events, np.arange(len(self.keys))), batches=batches, dropped=dropped)

    def _events(self, chosen: NDArray[np.bool_], place: Longs) -> Block:
        """Return the block with the events chosen; `place` is the new position of each batch."""
        columns = {name: column[chosen] for name, column in self.columns.items()}
        return replace(self, columns=columns, time=self.time[chosen], batch=place[self.batch[chosen]])

    def chunk(self, rows: Rows, slot_start: int) -> Chunk:
        """Cut out the events at `rows`, in order, for one slot. Columns are narrowed to their types."""
        batch = self.batch[rows]
        first = heads(batch)
        numbers = batch[first]
        columns: dict[str, Column] = {
            name: column[rows].astype(CHUNK_TYPES[name]) for name, column in self.columns.items()
        }
        columns["offset_ms"] = (self.time[rows] - slot_start).astype(CHUNK_TYPES["offset_ms"])
        return Chunk(
            keys=[self.keys[number] for number in numbers.tolist()],
            raw_offset=self.batches["offset"][numbers],
            counts=np.diff(first, append=len(batch)),
            applications=self.applications,
            columns=columns,
        )


def read_block(decoded: Decoded, partition: int) -> Block:
    """Take apart the one message that was decoded. Raises BlockError when its parts do not fit together."""
    header, columns = decoded.headers[0], decoded.columns
    rows = {group: int(counts[0]) for group, counts in decoded.counts.items()}
    batches = {name.removeprefix("batch_"): c for name, c in columns.items() if name.startswith("batch_")}
    if header["partition"] != partition:
        raise BlockError("block_partition")
    _check(header, columns, batches, rows)
    batch = np.repeat(np.arange(rows["batch"]), batches["kept"])
    produced, refused = _drops(header["drop_reason"], columns, rows["batch"])
    return Block(
        partition=header["partition"],
        raw_from=header["raw_from"],
        raw_through=header["raw_through"],
        append_time=header["append_time"],
        spec=_spec(header) if rows["event"] else None,
        applications=header["applications"] or [""],
        keys=_keys(header, batches),
        batches=batches,
        producer_dropped=produced,
        dropped=refused,
        dead={
            "reason": header["dead_reason"],
            "digest": header["dead_digest"],
            **{name: columns[f"dead_{name}"].tolist() for name in ("offset", "schema_id", "size")},
        },
        columns={
            n: columns[n] for n in MINIMISED_EVENT_COLUMNS if n != "offset_ms" and (n in _NEEDED or columns[n].any())
        },
        time=batches["base_time"][batch] + columns["offset_ms"],
        batch=batch,
    )


_CHUNKED = tuple(name for name in MINIMISED_EVENT_COLUMNS if name != "offset_ms")
_NEEDED = ("number", "kind")  # a chunk's length and order hang on them


def _check(
    header: Mapping[str, Any], columns: Mapping[str, Longs], batches: Mapping[str, Longs], rows: Mapping[str, int]
) -> None:
    if any(len(header[name]) != rows[group] for group, names in _TEXTS.items() for name in names):
        raise BlockError("block_lengths")
    offset, kept = batches["offset"], batches["kept"]
    if kept.min(initial=0) < 0 or int(kept.sum()) != rows["event"]:
        raise BlockError("block_counts")
    if (batches["count"] < kept).any() or batches["first_number"].min(initial=0) < 0:
        raise BlockError("block_numbers")
    if (np.diff(offset) <= 0).any():
        raise BlockError("block_order")
    if rows["batch"] and not header["raw_from"] <= offset[0] <= offset[-1] <= header["raw_through"]:
        raise BlockError("block_range")
    pointers = ((columns["drop_batch"], rows["batch"]), (columns["application"], max(len(header["applications"]), 1)))
    if any(len(c) and not 0 <= c.min() <= c.max() < limit for c, limit in pointers):
        raise BlockError("block_indexes")
    times = (batches["base_time"], columns["offset_ms"])
    if any(len(c) and not -_TIME_LIMIT < c.min() <= c.max() < _TIME_LIMIT for c in times):
        raise BlockError("block_times")


def _spec(header: Mapping[str, Any]) -> WindowSpec:
    try:
        return WindowSpec(
            kind=header["window_kind"],
            size_ms=header["window_size_ms"],
            step_ms=header["window_step_ms"],
            gap_ms=header["window_gap_ms"],
            lateness_ms=header["lateness_ms"],
        )
    except ValueError as error:
        raise BlockError("block_windows") from error


def _keys(header: Mapping[str, Any], batches: Mapping[str, Longs]) -> list[RowKey]:
    bits = batches["purposes"].tolist()
    purposes = {
        word: tuple(name for bit, name in enumerate(header["purposes"]) if word >> bit & 1) for word in set(bits)
    }
    policy, version, notice = header["policy"], header["policy_version"], header["notice"]
    return [
        RowKey(session, subject, policy, version, notice, purposes[word], width, height, epoch)
        for session, subject, word, width, height, epoch in zip(
            header["batch_session"],
            header["batch_subject"],
            bits,
            batches["screen_width"].tolist(),
            batches["screen_height"].tolist(),
            batches["epoch"].tolist(),
            strict=True,
        )
    ]


def _drops(
    reasons: Sequence[str], columns: Mapping[str, Longs], batches: int
) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    by: tuple[list[dict[str, int]], ...] = ([{} for _ in range(batches)], [{} for _ in range(batches)])
    counts = (columns["drop_batch"].tolist(), columns["drop_by"].tolist(), columns["drop_count"].tolist())
    for reason, batch, stage, count in zip(reasons, *counts, strict=True):
        of_batch = by[stage][batch]  # drop_by is an enum of two: the producer's and the minimiser's
        of_batch[reason] = of_batch.get(reason, 0) + count
    return by[0], by[1]
