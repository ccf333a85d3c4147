"""From captured events to numbered batches, and the session's books.

Columns in, columns out: nothing here knows Kafka, threads' timing or a clock.

The books of a session, all running totals: every event captured is either
*numbered* (it entered a batch) or *refused* (dropped before that, by reason).
A batch that is dropped after numbering is *lost*, by reason.

    captured = numbered + refused
    dropped  = refused + lost            (what a batch's header carries)
    captured - dropped = what is stored or still on its way
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.control.gate import admit
from infra.control.reasons import EPOCH
from producers.permit import Permit
from schemas.events import Events

Ints = NDArray[np.int64]

PRODUCER = "tidegate/0.1.0"
TEXT_MAX = 200
"""Characters of an application identifier or a label; what is longer is cut there."""


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """Some events of one session in order of capture, as columns; never changed after it is made.

    `columns` holds `time` (ms since 1970 UTC by the device's clock), `kind`,
    and any other event column, all int64 and of one length; a column that is
    missing reads as zeros. `application` and `label` index `applications` and
    `labels`, whose first entry is the empty string.
    """

    columns: Mapping[str, Ints]
    applications: tuple[str, ...] = ("",)
    labels: tuple[str, ...] = ("",)

    def __len__(self) -> int:
        return len(self.columns["time"])

    def part(self, start: int, stop: int) -> Capture:
        """Return the events from `start` up to `stop`, with the same tables."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        return Capture(columns, self.applications, self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One message's content: what `Codec.encode` takes. `events` is the length of its columns."""

    header: Mapping[str, Any]
    columns: Mapping[str, Ints]
    events: int


def pass_gate(capture: Capture, permit: Permit) -> tuple[Capture, Counter[str]]:
    """Return what the gate admits, with only the fields that it allows, and how many it refused by reason.

    Fields that the policy does not list are zeroed here: they never leave the device.
    """
    events = Events(np.zeros(len(capture), np.int32), capture.columns)
    # What a caller dates back to before the release happened while it was stopped.
    early = capture.columns["time"] < permit.since
    if early.any():
        events = events.take(~early)
    admitted, drops = admit(events, [permit.verdict], [capture.applications])
    columns = {name: column.astype(np.int64, copy=False) for name, column in admitted.events.columns.items()}
    for name in permit.withheld:
        if name in columns:
            columns[name] = np.where(admitted.allowed(name), columns[name], 0)
    refused = Counter(drops.by_reason())
    refused[EPOCH] += int(early.sum())
    return Capture(columns, capture.applications, capture.labels), +refused


def join(captures: Sequence[Capture]) -> Capture:
    """Put captures one behind the other, their tables made one."""
    if len(captures) == 1:
        return captures[0]
    names = {name for capture in captures for name in capture.columns}
    applications, labels = _Table(), _Table()
    parts: dict[str, list[Ints]] = {name: [] for name in names}
    for capture in captures:
        moved = dict(capture.columns)
        if "application" in moved:
            moved["application"] = applications.place(capture.applications)[moved["application"]]
        if "label" in moved:
            moved["label"] = labels.place(capture.labels)[moved["label"]]
        for name in names:
            parts[name].append(moved[name] if name in moved else np.zeros(len(capture), np.int64))
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return Capture(columns, applications.entries, labels.entries)


class _Table:
    def __init__(self) -> None:
        self._index = {"": 0}

    def place(self, entries: Sequence[str]) -> Ints:
        """Return, for each entry, its place in this table."""
        return np.array([self._index.setdefault(entry, len(self._index)) for entry in entries], np.int64)

    @property
    def entries(self) -> tuple[str, ...]:
        return tuple(self._index)


@dataclass(slots=True)
class _Pending:
    epoch: int
    captures: list[Capture] = field(default_factory=list)
    events: int = 0


class Session:
    """One session: what waits to be batched, its numbering and its books.

    Several threads may call it (a source adds, a ticker cuts, the publisher
    settles); whoever cuts holds `order` until the batches are handed on, so
    that they leave in the order of their numbers.
    """

    def __init__(self, subject: str, *, screen: tuple[int, int] = (0, 0), batch_events: int = 64) -> None:
        self.id = uuid.uuid4().hex
        self.subject = subject
        self.screen = screen
        self.order = threading.RLock()
        self.unsettled = 0
        """Batches handed on of which it is not known yet whether they were taken."""
        self._batch_events = batch_events
        self._lock = threading.Lock()
        self._pending: list[_Pending] = []
        self._oldest: float | None = None
        self._numbered = 0
        self._refused: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._ended = False

    @property
    def pending(self) -> int:
        """Events that are in no batch yet."""
        return sum(pending.events for pending in self._pending)

    @property
    def captured(self) -> int:
        """Events captured so far, refused ones among them, those still pending not."""
        with self._lock:
            return self._numbered + self._refused.total()

    @property
    def dropped(self) -> Counter[str]:
        """Events dropped so far, by reason."""
        with self._lock:
            return self._refused + self._lost

    @property
    def ended(self) -> bool:
        """Whether the final batch has been cut."""
        return self._ended

    def add(self, capture: Capture, permit: Permit, now: float) -> None:
        """Take events captured under `permit`; what it refuses is counted. `now` is monotonic seconds."""
        passed, refused = pass_gate(capture, permit)
        with self._lock:
            self._refused += refused
            if not len(passed):
                return
            if not self._pending or self._pending[-1].epoch != permit.epoch:
                self._pending.append(_Pending(permit.epoch))
            self._pending[-1].captures.append(passed)
            self._pending[-1].events += len(passed)
            if self._oldest is None:
                self._oldest = now

    def refuse(self, reason: str, count: int) -> None:
        """Count events that were dropped before they could be added."""
        with self._lock:
            self._refused[reason] += count

    def hand_on(self) -> None:
        """Note that a batch has left, whose fate is open."""
        with self._lock:
            self.unsettled += 1

    def settle(self, events: int, lost: str) -> None:
        """Note a batch's fate: `lost` is empty when Kafka or the spool has taken it, else why it was dropped."""
        with self._lock:
            self.unsettled -= 1
            if lost:
                self._lost[lost] += events

    def due(self, now: float, max_age: float) -> bool:
        """Say whether a batch is full, or its oldest event has waited for `max_age` seconds."""
        oldest = self._oldest  # read once: another thread may cut meanwhile
        return oldest is not None and (self.pending >= self._batch_events or now - oldest >= max_age)

    def cut(self, permit: Permit) -> list[Batch]:
        """Turn what is pending into batches, in order.

        The gate is asked again, as it stands now: what it no longer allows, and
        what was captured in an earlier epoch, is dropped and counted.
        """
        with self._lock:
            pending, self._pending, self._oldest = self._pending, [], None
            batches: list[Batch] = []
            for group in pending:
                if group.epoch != permit.epoch:
                    self._refused["epoch"] += group.events
                    continue
                passed, refused = pass_gate(join(group.captures), permit)
                self._refused += refused
                for start in range(0, len(passed), self._batch_events):
                    batches.append(self._batch(passed.part(start, start + self._batch_events), permit))
            return batches

    def end(self, permit: Permit, now_ms: int) -> Batch:
        """Return the last batch, which holds no event and closes the books. Call it once, after everything settled."""
        with self._lock:
            self._ended = True
            nothing = np.zeros(0, np.int64)
            return self._batch(Capture({"time": nothing, "kind": nothing}), permit, base=now_ms, final=True)

    def _batch(self, part: Capture, permit: Permit, *, base: int = 0, final: bool = False) -> Batch:
        first = self._numbered
        self._numbered += len(part)
        if len(part):
            base = int(part.columns["time"][0])
        columns, applications, labels = _compact(part)
        columns["offset_ms"] = columns.pop("time") - base
        positions = not permit.verdict.fields.isdisjoint(("x", "y"))
        header = {
            "session": self.id,
            "subject": self.subject,
            "producer": PRODUCER,
            "epoch": permit.epoch,
            "first_number": first,
            "captured": self._numbered + self._refused.total(),
            "dropped": dict(self._refused + self._lost),
            "final": final,
            "base_time": base,
            "screen_width": self.screen[0] if positions else 0,
            "screen_height": self.screen[1] if positions else 0,
            "applications": applications,
            "labels": labels,
        }
        return Batch(header, columns, len(part))


def _compact(part: Capture) -> tuple[dict[str, Ints], list[str], list[str]]:
    """Leave out the table entries that no event refers to."""
    columns = dict(part.columns)
    tables: dict[str, list[str]] = {"application": [""], "label": [""]}
    for name, entries in (("application", part.applications), ("label", part.labels)):
        if name in columns:
            used, places = np.unique(columns[name], return_inverse=True)
            # Place 0 stays the empty string, whether an event refers to it or not.
            columns[name] = (places + (1 if len(used) and used[0] else 0)).astype(np.int64)
            tables[name] += [entries[index] for index in used.tolist() if index]
    return columns, tables["application"], tables["label"]
