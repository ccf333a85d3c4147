"""What the stream processors hand to one another: plain, frozen types.

Times are UTC epoch milliseconds. Nothing in here knows Kafka, Faust or ClickHouse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.control.gate import Admitted
from infra.control.records import MAX_COPIES, MAX_WINDOW_MS, Policy

Longs = NDArray[np.int64]
Column = NDArray[np.integer[Any]]

WINDOW_KINDS = ("tumbling", "hopping", "session")
MAX_BATCH_EVENTS = 2**16  # a producer flushes a thousand times earlier
MAX_TAKE_BYTES = 256 * 1024
"""How much raw payload one take should hold, if it is more than one message.

An event takes a byte at least in a raw message and, with its number, at most
about four times its size in the block: so blocks stay near 1 MiB even where
every message is made to swell, and at 13 bytes an event hold some 20,000 events.
"""


class NotFreshError(Exception):
    """The gate's view is not fresh. Nothing passes and nothing is lost: wait, and call again with a fresh one."""


class UnknownSchemaError(Exception):
    """The registry answered that it has no schema of this id. An answer, not a failure to ask."""


class RawMessage(NamedTuple):
    """One message of interactions.raw as the consumer gave it."""

    offset: int
    timestamp_ms: int
    append_time_known: bool
    """True where the broker itself stamped the message (LogAppendTime)."""
    value: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be read: where it stood and why, never what it held. Fields as dead_letter.avsc."""

    topic: str
    partition: int
    offset: int
    reason: str
    schema_id: int
    """-1 where the message claimed none."""
    size: int
    digest: str
    at: int


@dataclass(frozen=True, slots=True, order=True)
class WindowSpec:
    """How a policy cuts event time into windows.

    Raises ValueError when the numbers make no windows: every event must fall
    into at least one window and into no more than MAX_COPIES.
    """

    kind: str
    size_ms: int
    step_ms: int
    gap_ms: int
    lateness_ms: int

    def __post_init__(self) -> None:
        if self.kind not in WINDOW_KINDS:
            raise ValueError(f"unknown kind of window: {self.kind!r}; known are {', '.join(WINDOW_KINDS)}")
        if not 0 < self.size_ms <= MAX_WINDOW_MS:
            raise ValueError(f"window size is {self.size_ms} ms, must be 1 to {MAX_WINDOW_MS}")
        if self.lateness_ms < 0:
            raise ValueError(f"lateness is {self.lateness_ms} ms, must not be negative")
        if self.kind == "hopping" and not 0 < self.step_ms <= self.size_ms <= self.step_ms * MAX_COPIES:
            raise ValueError(
                f"hopping windows of {self.size_ms} ms every {self.step_ms} ms: the step must be positive, "
                f"at most the size and at least 1/{MAX_COPIES} of it"
            )
        if self.kind == "session" and not 0 < self.gap_ms <= self.size_ms:
            raise ValueError(f"session gap is {self.gap_ms} ms, must be 1 to the window size {self.size_ms}")

    @property
    def every_ms(self) -> int:
        """From the start of one slot to the start of the next."""
        return self.step_ms if self.kind == "hopping" else self.size_ms

    def closes_at(self, time: int) -> int:
        """Return the watermark at which the last slot that may hold an event of this time closes."""
        return time // self.every_ms * self.every_ms + self.size_ms + self.lateness_ms


@dataclass(frozen=True, slots=True)
class Split:
    """Where the events of an input went. Raises ValueError unless kept + dropped + late == input."""

    input: int
    kept: int
    dropped: int
    late: int

    def __post_init__(self) -> None:
        parts = (self.kept, self.dropped, self.late)
        if min(parts) < 0 or sum(parts) != self.input:
            raise ValueError(f"kept {self.kept} + dropped {self.dropped} + late {self.late} is not input {self.input}")


@dataclass(frozen=True, slots=True)
class BlockStats:
    """What one block did, for the metrics. No subject, no session."""

    messages: int = 0
    split: Split = field(default_factory=lambda: Split(0, 0, 0, 0))
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Events the minimiser refused, by reason."""
    dead: Mapping[str, int] = field(default_factory=dict)
    """Messages that could not be read, by reason."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Where the minimiser stands in a partition once a block has been sent; `MinimisePipeline.confirm` needs it."""

    append_time: int
    """Reference append time of the last message."""
    open_until: int
    """The watermark at which the last window that may hold an event of the block closes; -1 where it holds none."""
    policy: Policy | None
    at: int
    """When the block was made, on this worker's clock."""


@dataclass(frozen=True, slots=True)
class BlockOut:
    """One message for interactions.minimized, and what belongs beside it."""

    partition: int
    body: bytes
    """Avro body of a MinimisedBlock in the catalogue's schema, without the Confluent frame."""
    raw_from: int
    raw_through: int
    dead_letters: tuple[DeadLetter, ...] = ()
    """For interactions.deadletter; the block holds them too, so losing these loses no count."""
    stats: BlockStats = field(default_factory=BlockStats)
    reached: Reached | None = None
    """None of a tick."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """How far one partition is stored. The truth about progress; committed offsets only follow."""

    log: str
    partition: int
    closed_through: int
    """Every slot whose end plus lateness is at most this is stored."""
    replay_from: int
    """Oldest offset of interactions.minimized still needed."""
    watermark: int
    """As it was before `replay_from`; -1 before anything."""
    raw_through: int
    """Highest raw offset seen, as it was before `replay_from`; -1 before anything."""


@dataclass(frozen=True, slots=True, eq=False)
class DeadRows:
    """Columns of the `deadletters` table, one row a raw message that could not be read."""

    log: str
    partition: int
    raw_offset: Sequence[int]
    reason: Sequence[str]
    schema_id: Sequence[int]
    size: Sequence[int]
    digest: Sequence[str]
    append_time: Sequence[int]

    def __len__(self) -> int:
        return len(self.raw_offset)


@dataclass(frozen=True, slots=True, eq=False)
class Receipts:
    """Columns of the `batches` table, one row a raw batch, and the dead letters that came with them."""

    log: str
    partition: int
    raw_offset: Sequence[int]
    block_offset: Sequence[int]
    session: Sequence[str]
    first_number: Sequence[int]
    count: Sequence[int]
    captured: Sequence[int]
    final: Sequence[int]
    kept: Sequence[int]
    """Events that the block held, the late ones among them."""
    late: Sequence[int]
    producer_dropped: Sequence[Mapping[str, int]]
    """Running totals of the session, by reason."""
    dropped: Sequence[Mapping[str, int]]
    """What the minimiser refused of this batch, by reason."""
    append_time: Sequence[int]
    dead: DeadRows
    blocks: int = 0
    """How many blocks these rows come from; `WindowPipeline.confirm_receipts` needs it."""

    def __len__(self) -> int:
        return len(self.raw_offset)


WINDOW_EVENT_TYPES: Mapping[str, type[np.integer[Any]]] = MappingProxyType(
    {
        "number": np.int64,
        "offset_ms": np.uint32,
        "kind": np.uint8,
        "application": np.uint16,
        "x": np.int32,
        "y": np.int32,
        "button": np.uint8,
        "pressed": np.uint8,
        "wheel_x": np.int32,
        "wheel_y": np.int32,
        "key_class": np.uint8,
        "role": np.uint8,
    }
)
"""The event columns of `windows`, as they are written. Enums are one byte; what Avro calls int is int32."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowRows:
    """Columns of the `windows` table for one slot of one partition, one row a window of one session.

    Event columns are flat: row i holds `events[name][offsets[i]:offsets[i + 1]]`,
    which is what `pyarrow.ListArray.from_arrays(offsets, values)` takes. Within
    a row events are sorted by time, then number. Rows are sorted by session and
    start, so the same events make the same rows whatever blocks they came in.

    The events are an `Admitted`: only a gate makes one, so there is no row of
    events that no gate has judged.
    """

    log: str
    partition: int
    slot: int
    window_kind: str
    window_start: Sequence[int]
    window_end: Sequence[int]
    step_ms: Sequence[int]
    """Events before window_start + step_ms have this as their primary window."""
    session: Sequence[str]
    subject: Sequence[str]
    """Pseudonyms; empty where the gate left no event in the row."""
    policy: Sequence[str]
    policy_version: Sequence[int]
    notice: Sequence[str]
    purposes: Sequence[Sequence[str]]
    screen_width: Sequence[int]
    screen_height: Sequence[int]
    applications: Sequence[Sequence[str]]
    """What the row's `application` column refers to; the first is the empty string."""
    stored: Sequence[int]
    """Events whose primary window this is."""
    refused: Sequence[Mapping[str, int]]
    """Primary events that the gate before the INSERT refused, by reason."""
    offsets: NDArray[np.int32]
    """Where each row's events begin in the flat columns; one more than there are rows."""
    admitted: Admitted
    """Those of WINDOW_EVENT_TYPES, row after row; `offset_ms` counts from window_start."""

    def __len__(self) -> int:
        return len(self.session)

    @property
    def events(self) -> Mapping[str, Column]:
        """The flat columns by name."""
        return self.admitted.events.columns


class SlotKey(NamedTuple):
    """One slot of one partition. Sorts by the time at which it closes."""

    closes_at: int
    """The watermark at which nothing more may come: slot end plus lateness."""
    start: int
    spec: WindowSpec


@dataclass(frozen=True, slots=True, eq=False)
class ClosedSlot:
    """One INSERT: all windows of a slot, judged once more."""

    key: SlotKey
    token: str
    """`<log>/<partition>/<kind>/<size>/<step>/<gap>/<lateness>/<slot>`, the same in every replay."""
    slot_start: int
    rows: WindowRows
    split: Split
    """Of the slot's primary events: kept is stored, dropped is refused, late is 0 (counted as the block arrived)."""
