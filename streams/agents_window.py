"""The windower: blocks in, closed windows in the store.

Order of writes: receipts, then each closed slot with its token, then the
ledger. Each step can be repeated, so a process may die between any two of them.

An INSERT that fails is not repeated: the slot is judged anew under the same
token, so that a switch engaged meanwhile reaches it. Each attempt is a passage of
its own, left when it is known what became of it; see `streams.unsettled` for the
attempts of which nobody knows.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.control.reader import wall_ms
from infra.metrics import WindowerMetrics
from infra.store import Store, StoreError
from infra.topics import DEAD_LETTER
from streams import ledger, sink
from streams.agents_minimise import Send
from streams.codecs import Codecs, Framer
from streams.data import ClosedSlot, DeadLetter, LedgerRow, SlotKey
from streams.gates import Gate, enter, when_open
from streams.patience import Patience, Services
from streams.pipeline_window import WindowPipeline
from streams.unsettled import Unsettled

OPEN_EVENTS = 1_000_000
"""Events in memory from which on a partition writes at once: at about 60 bytes each, 60 MB."""
SETTLE_SECONDS = 1.0
"""How often the ledger is asked about INSERTs of unknown outcome."""
FAULT_EXIT = 70
"""Exit code of the deliberate end that TIDEGATE_FAULT asks for."""


@dataclass(frozen=True, slots=True)
class Windower:
    """What all partitions of this process share."""

    log: str
    codec_for: Codecs
    gate: Gate
    """In mode `standing`: windows carry pseudonyms."""
    store: Store
    """Of single attempts: an INSERT that fails is judged anew."""
    send: Send
    dead_letters: Framer
    metrics: WindowerMetrics
    patience: Callable[[Callable[[], None]], Services]
    """Makes the patience for each service, which beats as it waits."""
    fault: str
    """`after_insert`: end the process after the next INSERT, for tests."""
    unsettled: Unsettled = field(default_factory=Unsettled)

    def partition(self, partition: int, beat: Callable[[], None]) -> WindowedPartition:
        """Return the work of one partition from now on."""
        return WindowedPartition(self, partition, beat)

    async def settle(self, store: Patience) -> None:
        """Learn from the ledger what became of INSERTs whose partition was given up. Runs until cancelled."""
        while True:
            for partition in self.unsettled.partitions():
                row = await store.do(
                    lambda partition=partition: asyncio.to_thread(ledger.read, self.store, self.log, partition)  # type: ignore[misc]  # mypy cannot infer a lambda's default
                )
                if row is not None:
                    self.unsettled.stored_through(partition, row.closed_through)
            await asyncio.sleep(SETTLE_SECONDS)


class _GivenUpError(Exception):
    """The partition was revoked while a slot of it was judged. Nobody waits for the outcome any more."""


class WindowedPartition:
    """One partition of interactions.minimized, from its assignment to its revocation."""

    def __init__(self, shared: Windower, partition: int, beat: Callable[[], None]) -> None:
        self._shared = shared
        self._partition = partition
        self._beat = beat
        self._broker, self._registry, self._store = shared.patience(beat)
        self._ledger: LedgerRow | None = None
        self._pipeline: WindowPipeline
        self._next: int | None = None
        self._ended = False
        self._repeats = self._open = 0

    async def begin(self) -> int | None:
        """Read the ledger and what had arrived, and begin at the oldest block that an open window still needs."""
        shared = self._shared
        row = await self._store.do(lambda: asyncio.to_thread(ledger.read, shared.store, shared.log, self._partition))
        received = await self._store.do(
            lambda: asyncio.to_thread(ledger.received, shared.store, shared.log, self._partition, row)
        )
        self._pipeline = WindowPipeline(shared.log, self._partition, shared.codec_for, row, received)
        self._ledger = row
        return self._pipeline.start_offset

    async def take(self, records: Sequence[Any]) -> None:
        """Take blocks in; write when many events are held."""
        for record in records:
            letter = await self._registry.do(lambda record=record: self._add(record))  # type: ignore[misc]  # mypy cannot infer a lambda's default
            self._next = record.offset + 1
            if letter is not None:
                await self._bury(letter)
            self._shared.metrics.blocks.inc()
            if self._pipeline.open_events >= OPEN_EVENTS and self._pipeline.due():
                await self._flush()
        self._count()

    async def idle(self, quiet_since: float | None) -> None:
        """Write what is due."""
        if self._next is not None:
            await self._flush()
        self._count()

    def repeats(self, count: int) -> None:
        """Blocks met again are skipped before they are read; batches are counted by the pipeline."""

    def end(self) -> None:
        """Store nothing more, and take this partition out of the gauges."""
        self._ended = True
        metrics = self._shared.metrics
        metrics.open_events.dec(self._open)
        for gauge in (metrics.watermark_lag, metrics.ledger_age):
            gauge.remove_by_labels({"partition": str(self._partition)})

    async def _add(self, record: Any) -> DeadLetter | None:
        return await asyncio.to_thread(self._pipeline.add, record.offset, record.value or b"", wall_ms())

    async def _bury(self, letter: DeadLetter) -> None:
        value = self._shared.dead_letters.dead_letter(letter)
        await self._broker.do(lambda: self._shared.send(DEAD_LETTER, self._partition, None, value))

    async def _flush(self) -> None:
        shared, pipeline = self._shared, self._pipeline
        receipts = pipeline.receipts()
        if receipts is not None:
            await self._store.do(lambda: asyncio.to_thread(sink.store_receipts, shared.store, receipts))
            pipeline.confirm_receipts(receipts)
            shared.metrics.events.inc(sum(receipts.kept))
            shared.metrics.late.inc(sum(receipts.late))
        for key in pipeline.due():
            await self._store_slot(key)
            pipeline.confirm(key)
        assert self._next is not None  # noqa: S101 - idle and take see to it
        row = pipeline.ledger_row(self._next)
        if row != self._ledger:
            await self._store.do(lambda: asyncio.to_thread(ledger.write, shared.store, row))
            self._ledger = row

    async def _store_slot(self, key: SlotKey) -> None:
        """Judge and insert the slot until the store has confirmed its token; wait for an open gate and the store."""
        metrics, began = self._shared.metrics, float("inf")

        async def attempt() -> ClosedSlot:
            nonlocal began
            began = min(began, time.monotonic())
            try:
                # All of it in the thread, where no cancelling can lose the passage.
                return await asyncio.to_thread(self._attempt, key)
            except StoreError:
                metrics.insert_retries.inc()
                raise

        slot = await when_open(self._shared.gate, self._beat, lambda: self._store.do(attempt))
        metrics.inserts.inc()
        metrics.insert_seconds.observe(time.monotonic() - began)
        if self._shared.fault == "after_insert":
            os._exit(FAULT_EXIT)
        # Of the attempt that the store confirmed. One before it, of unknown outcome, may be the one that stands.
        metrics.stored.inc(slot.split.kept)
        for refused in slot.rows.refused:
            for reason, count in refused.items():
                metrics.refused.labels(reason=reason).inc(count)

    def _attempt(self, key: SlotKey) -> ClosedSlot:
        """Judge and insert the slot once. Blocking. Raises StoreError, and NotFreshError where the gate has closed."""
        shared = self._shared
        now = wall_ms()  # before the gate is asked, which looks whether the clock is right
        passage = enter(shared.gate)
        try:
            slot = self._pipeline.close(key, passage.view, now)
        except BaseException:
            passage.leave()
            raise
        if self._ended:
            passage.leave()
            raise _GivenUpError
        shared.unsettled.insert(self._partition, slot, passage, lambda: sink.store_slot(shared.store, slot))
        return slot

    def _count(self) -> None:
        metrics, pipeline, now = self._shared.metrics, self._pipeline, time.time()
        metrics.repeats.inc(pipeline.repeats - self._repeats)
        metrics.open_events.inc(pipeline.open_events - self._open)
        self._repeats, self._open = pipeline.repeats, pipeline.open_events
        if pipeline.watermark >= 0:
            metrics.watermark_lag.labels(partition=self._partition).set(now - pipeline.watermark / 1000)
        if self._ledger is not None:
            metrics.ledger_age.labels(partition=self._partition).set(now - self._ledger.closed_through / 1000)
