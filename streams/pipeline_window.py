"""From minimised blocks to closed windows of one partition: collect, close, judge again. No I/O, no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from infra.control.gate import View
from schemas import wire
from schemas.catalogue import SchemaError
from schemas.codec import Codec
from schemas.refusals import Refusal
from streams.blocks import Block, BlockError, read_block
from streams.data import (
    ClosedSlot,
    DeadLetter,
    LedgerRow,
    Longs,
    NotFreshError,
    Receipts,
    SlotKey,
    Split,
    UnknownSchemaError,
)
from streams.received import Received, new_of
from streams.rows import BlockReceipt, judged_rows, receipts_of
from streams.window import Chunk, assemble, place

MINIMISED_TOPIC = "interactions.minimized"


@dataclass(slots=True)
class _Slot:
    first_offset: int
    """Block that opened it: a replay must begin there or before."""
    chunks: list[Chunk] = field(default_factory=list)


class _Before(NamedTuple):
    """What was so before the block at `offset` was added."""

    offset: int
    watermark: int
    raw_through: int


class _Unreadable(NamedTuple):
    reason: str
    schema_id: int


class WindowPipeline:
    """The windows of one partition that are still open, and what is not written yet.

    Made anew on every assignment, with the ledger's row and the numbers that
    had arrived before its `replay_from` (`ledger.received`); the caller then seeks
    interactions.minimized to `start_offset` and calls, for each message in
    order, `add`. From time to time, in this order:

    1. `receipts()`, write them to `batches` and `deadletters`, `confirm_receipts(them)`;
    2. for each key of `due()`: `close(key, view, now)`, INSERT with its token, `confirm(key)`;
    3. `ledger_row(next_offset)`, write it; then commit offsets.

    Nothing is forgotten before it is confirmed, so each step can be tried again.
    """

    log: str
    partition: int
    watermark: int
    """Highest append time seen; -1 before any. It comes from the log alone."""
    raw_through: int
    """Highest raw offset seen; -1 before any."""
    raw_gap: int
    """Raw offsets that no block has covered since this object was made."""
    repeats: int
    """Batches skipped since this object was made: known by their raw offset, or by their numbers."""

    def __init__(
        self, log: str, partition: int, codec_for: Callable[[int], Codec], ledger: LedgerRow | None, received: Received
    ) -> None:
        """`codec_for` as in MinimisePipeline, for minimised_block. `ledger` is None before the first row.

        `received` is from now on this object's to change. Raises ValueError
        when the row belongs to another log or partition.
        """
        if ledger is not None and (ledger.log, ledger.partition) != (log, partition):
            raise ValueError(f"ledger row of {ledger.log}/{ledger.partition} given for {log}/{partition}")
        self.log = log
        self.partition = partition
        self.watermark = ledger.watermark if ledger else -1
        self.raw_through = ledger.raw_through if ledger else -1
        self.raw_gap = 0
        self.repeats = 0
        self._received = received
        self._codec_for = codec_for
        self._start = ledger.replay_from if ledger else None
        self._closed_through = ledger.closed_through if ledger else -1
        self._next = self._start or 0
        self._slots: dict[SlotKey, _Slot] = {}
        self._held = 0
        self._receipts: list[BlockReceipt] = []
        self._history: list[_Before] = []

    @property
    def start_offset(self) -> int | None:
        """Where to read interactions.minimized from: the ledger's `replay_from`; None: from the beginning."""
        return self._start

    @property
    def open_events(self) -> int:
        """Events held for windows that are not confirmed yet; one in several hopping windows counts in each."""
        return self._held

    def add(self, offset: int, value: bytes, now_ms: int) -> DeadLetter | None:
        """Take in the message at `offset` of interactions.minimized, Confluent frame and all.

        Returns a dead letter when it cannot be read, and changes nothing then;
        its `at` is `now_ms`, which serves nothing else. Raises ValueError when
        `offset` is not above the last one, and what `codec_for` raises when it
        cannot ask the registry: add the same message again.
        """
        if offset < self._next:
            raise ValueError(f"offset {offset} of {MINIMISED_TOPIC}/{self.partition} was added before")
        block = self._read(value)
        if isinstance(block, _Unreadable):
            self._next = offset + 1
            return self._dead_letter(offset, value, block, now_ms)
        self._history.append(_Before(offset, self.watermark, self.raw_through))
        fresh = int(np.searchsorted(block.batches["offset"], self.raw_through, side="right"))
        # The watermark before each batch and, last, after all; a batch known by its offset moves nothing.
        seen = np.where(np.arange(len(block.keys)) < fresh, -1, block.batches["append_time"])
        marks = np.maximum.accumulate(np.concatenate(([self.watermark], seen)))
        new, positions = new_of(block, fresh, self._received, marks[1:])
        late = self._collect(offset, new, marks[positions])
        self._receipts.append(BlockReceipt(offset, new.receipt_only(), late))
        self.repeats += len(block.keys) - len(new.keys)
        self._advance(block, int(marks[-1]))
        self._next = offset + 1
        return None

    def due(self) -> list[SlotKey]:
        """Return the slots that the watermark has passed and that are not confirmed, in the order they close."""
        return sorted(key for key in self._slots if key.closes_at <= self.watermark)

    def close(self, key: SlotKey, view: View, now_ms: int) -> ClosedSlot:
        """Build the INSERT of one slot: its rows, each judged once more by its pseudonym. Changes nothing.

        `view` must be of control.standing. What the gate refuses stays as a
        count in the row's `refused`. Raises NotFreshError when the view is not
        fresh, KeyError when the slot is not held.
        """
        if not view.fresh:
            raise NotFreshError(view.why)
        windows = assemble(self._slots[key].chunks, key.spec, key.start)
        rows = judged_rows(self.log, self.partition, key, windows, view, now_ms)
        stored, refused = sum(rows.stored), sum(sum(counts.values()) for counts in rows.refused)
        spec = key.spec
        return ClosedSlot(
            key=key,
            token=f"{self.log}/{self.partition}/{spec.kind}/{spec.size_ms}/{spec.step_ms}/{spec.gap_ms}"
            f"/{spec.lateness_ms}/{key.start}",
            slot_start=key.start,
            rows=rows,
            split=Split(windows.primary, kept=stored, dropped=refused, late=0),
        )

    def confirm(self, key: SlotKey) -> None:
        """Forget a slot whose INSERT is done. Raises KeyError when it is not held."""
        self._held -= sum(len(chunk) for chunk in self._slots.pop(key).chunks)

    def receipts(self) -> Receipts | None:
        """Return the receipts of all blocks not confirmed yet, or None. Changes nothing."""
        return receipts_of(self.log, self.partition, self._receipts) if self._receipts else None

    def confirm_receipts(self, receipts: Receipts) -> None:
        """Forget the blocks that `receipts` covers; those added since stay."""
        del self._receipts[: receipts.blocks]

    def ledger_row(self, next_offset: int) -> LedgerRow:
        """Return the row to write now; `next_offset` is the offset after the last one added.

        Call it once a round of receipts and slots is confirmed; what is not
        confirmed holds `replay_from` and `closed_through` back.
        """
        needed = [slot.first_offset for slot in self._slots.values()] + [each.offset for each in self._receipts[:1]]
        replay_from = min(needed, default=next_offset)
        self._history = [before for before in self._history if before.offset >= replay_from]
        now = _Before(next_offset, self.watermark, self.raw_through)
        before = self._history[0] if self._history else now
        closed_through = min((key.closes_at - 1 for key in self._slots), default=self.watermark)
        self._closed_through = max(self._closed_through, min(closed_through, self.watermark))
        return LedgerRow(
            self.log, self.partition, self._closed_through, replay_from, before.watermark, before.raw_through
        )

    def _read(self, value: bytes) -> Block | _Unreadable:
        frame = wire.unframe(value)
        if isinstance(frame, Refusal):
            return _Unreadable(frame, -1)
        claimed = min(frame.schema_id, 2**31 - 1)
        try:
            codec = self._codec_for(frame.schema_id)
        except (UnknownSchemaError, SchemaError):
            return _Unreadable(Refusal.UNKNOWN_SCHEMA, claimed)
        decoded = codec.decode([frame.body])
        if decoded.refused:
            return _Unreadable(decoded.refused[0][1], claimed)
        try:
            return read_block(decoded, self.partition)
        except BlockError as error:
            return _Unreadable(str(error), claimed)

    def _dead_letter(self, offset: int, value: bytes, why: _Unreadable, now_ms: int) -> DeadLetter:
        return DeadLetter(
            topic=MINIMISED_TOPIC,
            partition=self.partition,
            offset=offset,
            reason=str(why.reason),
            schema_id=why.schema_id,
            size=len(value),
            digest=hashlib.sha256(value).hexdigest(),
            at=now_ms,
        )

    def _collect(self, offset: int, block: Block, before: Longs) -> Longs:
        """Put the events of a block into their slots; return how many are late, by batch.

        A batch is measured by the watermark `before` it, not before its block:
        so what is late does not depend on how the minimiser grouped batches.
        """
        batches = len(block.keys)
        if block.spec is None or not len(block.batch):
            return np.zeros(batches, np.int64)
        late, slots = place(block.time, before[block.batch], block.spec)
        for start, rows in slots:
            key = SlotKey(start + block.spec.size_ms + block.spec.lateness_ms, start, block.spec)
            if key.closes_at > self._closed_through:  # else a replay of what is stored
                slot = self._slots.setdefault(key, _Slot(offset))
                slot.chunks.append(block.chunk(rows, start))
                self._held += len(slot.chunks[-1])
        return np.bincount(block.batch[late], minlength=batches)

    def _advance(self, block: Block, watermark: int) -> None:
        if self.raw_through >= 0:
            self.raw_gap += max(0, block.raw_from - self.raw_through - 1)
        self.raw_through = max(self.raw_through, block.raw_through)
        self.watermark = max(watermark, block.append_time)
