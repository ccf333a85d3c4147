"""The gate: the one place where it is decided what may be recorded.

It stands in the producer, in the minimiser, right before the INSERT and in the
sampler, and it is the same pure functions everywhere: no broker, store, clock or
log in here. `judge` decides once for a subject and a state of the control plane;
`admit` applies verdicts to columns of events, without Python per event.

An event passes only while the view is fresh, a policy is in force, its subject
has consented to a purpose under the current notice, that purpose may use the
event's source, no engaged switch covers it, and it was captured in the current
epoch. Whatever is missing means no.

What makes a way round the gate hard to build: encoders of blocks and writers of
rows take an `Admitted` and nothing else, only `admit` makes one, and an
`Admitted` can lose events but never gain any or change what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.control import reasons
from infra.control.purposes import known_purposes, served_fields
from infra.control.state import View
from infra.control.verdict import Judge, Verdict, judge, kinds_open
from schemas.catalogue import KIND_NAMES, POLICY_FIELDS, SOURCE_OF_KIND
from schemas.events import Column, Events

__all__ = [
    "Admitted",
    "Drops",
    "Judge",
    "Verdict",
    "View",
    "admit",
    "judge",
    "kinds_open",
    "known_purposes",
    "served_fields",
]

_KINDS = len(KIND_NAMES)


@dataclass(frozen=True, slots=True, eq=False)
class Drops:
    """How many events of which batch were refused, and why. One row a batch and reason, no zero counts."""

    batch: NDArray[np.int32]
    reason: NDArray[np.uint8]
    """Codes of `infra.control.reasons`."""
    count: NDArray[np.int64]

    @classmethod
    def of(cls, batch: Column, reason: Column) -> Drops:
        """Count events, one entry of `batch` and `reason` (code) for each event refused."""
        width = len(reasons.REASONS)
        counts = np.bincount(batch.astype(np.int64) * width + reason)
        pairs = np.flatnonzero(counts)
        return cls((pairs // width).astype(np.int32), (pairs % width).astype(np.uint8), counts[pairs])

    @classmethod
    def none(cls) -> Drops:
        """Return the drops of nothing."""
        return cls(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def total(self) -> int:
        """How many events."""
        return int(self.count.sum())

    def merge(self, *others: Drops) -> Drops:
        """Return these and those, over the same batches."""
        width = len(reasons.REASONS)
        parts = (self, *others)
        pair = np.concatenate([part.batch.astype(np.int64) * width + part.reason for part in parts])
        pairs, place = np.unique(pair, return_inverse=True)
        counts = np.zeros(len(pairs), np.int64)
        np.add.at(counts, place, np.concatenate([part.count for part in parts]))
        return Drops((pairs // width).astype(np.int32), (pairs % width).astype(np.uint8), counts)

    def by_reason(self) -> dict[str, int]:
        """Return the counts by reason, over all batches."""
        sums = np.bincount(self.reason, weights=self.count, minlength=len(reasons.REASONS))
        return {reason: int(sums[code]) for code, reason in enumerate(reasons.REASONS) if sums[code]}


_TOKEN = object()
"""Proof that an Admitted is made in this file."""


class Admitted:
    """Events that a gate let through, and the verdicts by which it did.

    Only this module makes one: the constructor asks for a token that does not leave
    it. That is what ties every block and every row to a gate. What is offered here
    can only remove: events, columns, or detail within a column.
    """

    __slots__ = ("_bits", "_events", "_verdicts")

    def __init__(self, token: object, events: Events, verdicts: tuple[Verdict, ...]) -> None:
        if token is not _TOKEN:
            raise TypeError("only infra.control.gate.admit makes an Admitted")
        self._events = events
        self._verdicts = verdicts
        self._bits: NDArray[np.uint16] | None = None

    @property
    def events(self) -> Events:
        """The events, read-only."""
        return self._events

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """By batch: what `events.batch` refers to."""
        return self._verdicts

    def __len__(self) -> int:
        return len(self._events)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Admitted:
        """Return some of the events: a mask, or indexes in the order wanted, none twice.

        Raises ValueError when an index stands there twice.
        """
        if rows.dtype != np.bool_ and len(rows):
            counts = np.bincount(np.where(rows < 0, rows + len(self), rows), minlength=len(self))
            if counts.max() > 1:
                raise ValueError("an admitted event cannot be taken twice")
        return Admitted(_TOKEN, self._events.take(rows), self._verdicts)

    def with_columns(self, columns: Mapping[str, Column]) -> Admitted:
        """Return the events with the values of some columns replaced (minimised); `kind` cannot be.

        Raises ValueError for `kind`, and for a column that is not there.
        """
        wrong = [name for name in columns if name == "kind" or name not in self._events.columns]
        if wrong:
            raise ValueError(f"an admitted event's {', '.join(wrong)} cannot be set")
        return Admitted(_TOKEN, Events(self._events.batch, {**self._events.columns, **columns}), self._verdicts)

    def without(self, *names: str) -> Admitted:
        """Return the events without some columns."""
        kept = {name: column for name, column in self._events.columns.items() if name not in names}
        return Admitted(_TOKEN, Events(self._events.batch, kept), self._verdicts)

    def allowed(self, field_name: str) -> NDArray[np.bool_]:
        """Return by event whether it may keep a field of POLICY_FIELDS."""
        if self._bits is None:
            table = np.frombuffer(b"".join(verdict.bits for verdict in self._verdicts), dtype=np.uint16)
            self._bits = table[_cells(self._events)] if len(self) else np.zeros(0, np.uint16)
        kept: NDArray[np.bool_] = (self._bits & np.uint16(1 << POLICY_FIELDS.index(field_name))) != 0
        return kept


def admit(
    events: Events, verdicts: Sequence[Verdict], applications: Sequence[Sequence[str]] | None = None
) -> tuple[Admitted, Drops]:
    """Let through what the verdicts allow; every event is in exactly one of the two results.

    `events` has the column `kind`; `events.batch` indexes `verdicts`. `applications`
    holds by batch the names that the column `application` indexes. Without them,
    and for an event whose application is not known, a switch over any application
    holds (except for the session's own events, which belong to none).

    Raises ValueError when an event belongs to no verdict.
    """
    if not len(events):
        return Admitted(_TOKEN, events, tuple(verdicts)), Drops.none()
    if int(events.batch.min()) < 0 or int(events.batch.max()) >= len(verdicts):
        raise ValueError("an event belongs to a batch that has no verdict")
    table = np.frombuffer(b"".join(verdict.codes for verdict in verdicts), dtype=np.uint8)
    reason = table[_cells(events)]
    if any(verdict.stopped_applications for verdict in verdicts):
        stopped = _application_stopped(events, verdicts, applications)
        reason = np.where((reason == 0) & stopped, np.uint8(reasons.CODES[reasons.SWITCH]), reason)
    passed = reason == 0
    if passed.all():
        return Admitted(_TOKEN, events, tuple(verdicts)), Drops.none()
    refused = np.flatnonzero(~passed)
    drops = Drops.of(events.batch[refused], reason[refused])
    # Indexes, not the mask: taking many columns by them costs half as much.
    return Admitted(_TOKEN, events.take(np.flatnonzero(passed)), tuple(verdicts)), drops


def _cells(events: Events) -> NDArray[np.int64]:
    """Each event's place in a table of [batch, kind]. What is no kind counts as `unknown`, which never passes."""
    kind = events.columns["kind"]
    if int(kind.min()) < 0 or int(kind.max()) >= _KINDS:
        kind = np.where((kind < 0) | (kind >= _KINDS), 0, kind)
    cells: NDArray[np.int64] = events.batch.astype(np.int64) * _KINDS + kind
    return cells


_OF_NO_APPLICATION = np.array([source == "session" for source in SOURCE_OF_KIND])


def _application_stopped(
    events: Events, verdicts: Sequence[Verdict], applications: Sequence[Sequence[str]] | None
) -> NDArray[np.bool_]:
    names: Sequence[Sequence[str]] = applications if applications is not None else [()] * len(verdicts)
    # One flat table of [batch, application]; cell 0 of each batch stands for "not known".
    stopped: list[bool] = []
    starts = np.zeros(len(verdicts), np.int64)
    sizes = np.zeros(len(verdicts), np.int64)
    for place, (verdict, known) in enumerate(zip(verdicts, names, strict=True)):
        starts[place], sizes[place] = len(stopped), len(known)
        covered = verdict.stopped_applications
        stopped.append(bool(covered))
        stopped.extend(bool(covered) and (not name or name in covered) for name in known)
    index = events.columns.get("application", np.zeros(len(events), np.int64)).astype(np.int64)
    known_index = (index >= 0) & (index < sizes[events.batch])
    cell = starts[events.batch] + np.where(known_index, index + 1, 0)
    of_none = _OF_NO_APPLICATION[_cells(events) % _KINDS]
    result: NDArray[np.bool_] = np.array(stopped)[cell] & ~of_none
    return result
