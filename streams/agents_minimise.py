"""The minimiser: raw batches in, one minimised block a take and partition out.

The blocks of one worker cover contiguous raw offsets: a block is sent and
acknowledged before the next of its partition is made. Where to begin comes from
the ledger, so blocks may be sent a second time after a restart; the windower
knows them by their offsets.

A send that fails is not repeated: the take is judged and minimised anew, so that
a switch engaged meanwhile reaches it. Each attempt is a passage of its own, left
when the broker has taken the block or the attempt has failed. One that seemed to
fail may have arrived all the same: the windower judges it again in any case.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from infra.control.passages import Passage
from infra.control.reader import wall_ms
from infra.control.records import STANDING_TOPIC, Standing, encode, key_of
from infra.metrics import MinimiserMetrics
from infra.store import Store
from infra.topics import DEAD_LETTER, MINIMIZED
from streams import ledger
from streams.codecs import Framer
from streams.data import MAX_TAKE_BYTES, BlockOut, RawMessage
from streams.gates import Gate, enter, when_open
from streams.patience import Patience, Services
from streams.pipeline_minimise import MinimisePipeline
from streams.standing import Translator

Send = Callable[[str, int, bytes | None, bytes], Awaitable[None]]
"""Send a value to topic and partition, with a key, and return when it is acknowledged."""

LOG_APPEND_TIME = 1
"""Kafka's code for a timestamp that the broker itself gave."""
STANDING_POLL_SECONDS = 0.05
"""How soon a consent or its withdrawal is passed on: a part of the second that stopping may take."""
STANDING_REVIEW_SECONDS = 5.0
"""How soon a consent dated a little in the future takes effect downstream."""


@dataclass(frozen=True, slots=True)
class Minimiser:
    """What all partitions of this process share."""

    log: str
    pipeline: MinimisePipeline
    gate: Gate
    store: Store
    send: Send
    blocks: Framer
    dead_letters: Framer
    metrics: MinimiserMetrics
    patience: Callable[[Callable[[], None]], Services]
    """Makes the patience for each service, which beats as it waits."""
    tick_after_ms: int
    lock: asyncio.Lock
    """One take at a time: work is CPU, and the gate's view must be of the moment in which it is done."""

    def partition(self, partition: int, beat: Callable[[], None]) -> MinimisedPartition:
        """Return the work of one partition from now on."""
        return MinimisedPartition(self, partition, beat)


class MinimisedPartition:
    """One raw partition, from its assignment to its revocation."""

    def __init__(self, shared: Minimiser, partition: int, beat: Callable[[], None]) -> None:
        self._shared = shared
        self._partition = partition
        self._beat = beat
        self._broker, self._registry, self._store = shared.patience(beat)

    async def begin(self) -> int | None:
        """Begin behind the last raw offset that the ledger vouches for."""
        shared = self._shared
        shared.pipeline.forget(self._partition)
        row = await self._store.do(lambda: asyncio.to_thread(ledger.read, shared.store, shared.log, self._partition))
        return None if row is None or row.raw_through < 0 else row.raw_through + 1

    async def take(self, records: Sequence[Any]) -> None:
        """Minimise messages and send them on, block by block."""
        for chunk in _chunks(records, MAX_TAKE_BYTES):
            await self._pass_on(chunk)

    async def idle(self, quiet_since: float | None) -> None:
        """Send a tick where one is due.

        A tick says that nothing was appended up to `tick_after` ago. That this
        worker has seen nothing is not enough: with a backlog, or a slow broker,
        a tick would pass over messages and make them late.
        """
        now = wall_ms()
        if quiet_since is None or quiet_since * 1000 < now - self._shared.tick_after_ms:
            return
        if not self._shared.gate.view().fresh:
            return  # `now` may come from a clock that is wrong, and what follows the tick would be late for as long
        tick = self._shared.pipeline.tick(self._partition, now)
        if tick is not None:
            # It holds no events, so it needs no passage, and the same bytes do.
            await self._broker.do(lambda: self._send_block(tick))
            self._shared.metrics.ticks.inc()

    def repeats(self, count: int) -> None:
        """Count batches met again."""
        self._shared.metrics.repeats.inc(count)

    def end(self) -> None:
        """Drop what was known of the partition, its gauge among it."""
        self._shared.pipeline.forget(self._partition)
        self._shared.metrics.append_age.remove_by_labels({"partition": str(self._partition)})

    async def _pass_on(self, chunk: Sequence[RawMessage]) -> None:
        """Minimise and send until the broker has it; wait for an open gate, the registry and the broker."""
        shared, read_ms, buried = self._shared, wall_ms(), set[int]()
        block = await when_open(
            shared.gate, self._beat, lambda: self._broker.do(lambda: self._attempt(chunk, read_ms, buried))
        )
        shared.pipeline.confirm(block)
        self._count(chunk, block)

    async def _attempt(self, chunk: Sequence[RawMessage], read_ms: int, buried: set[int]) -> BlockOut:
        """Judge, minimise and send once. `buried` are the offsets whose dead letters the broker has."""
        passage, block = await self._registry.do(lambda: self._minimise(chunk, read_ms))
        with passage:
            for letter in block.dead_letters:
                if letter.offset not in buried:
                    value = self._shared.dead_letters.dead_letter(letter)
                    await self._shared.send(DEAD_LETTER, self._partition, None, value)
                    buried.add(letter.offset)
            await self._send_block(block)
        return block

    async def _minimise(self, chunk: Sequence[RawMessage], read_ms: int) -> tuple[Passage, BlockOut]:
        """Return a block, and the passage in which it was judged: it is the caller's to leave."""
        shared = self._shared
        async with shared.lock:
            now = wall_ms()  # before the gate is asked, which looks whether the clock is right
            passage = enter(shared.gate)
            try:
                block = await asyncio.to_thread(
                    shared.pipeline.process, self._partition, chunk, passage.view, now, read_ms=read_ms
                )
            except BaseException:  # cancelling among them: what the thread still makes goes nowhere
                passage.leave()
                raise
            return passage, block

    async def _send_block(self, block: BlockOut) -> None:
        await self._shared.send(MINIMIZED, self._partition, None, self._shared.blocks.body(block.body))

    def _count(self, chunk: Sequence[RawMessage], block: BlockOut) -> None:
        metrics, stats = self._shared.metrics, block.stats
        metrics.take.observe(len(chunk))
        metrics.blocks.inc()
        metrics.batches.inc(stats.messages - sum(stats.dead.values()))
        metrics.events.inc(stats.split.input)
        metrics.kept.inc(stats.split.kept)
        for reason, count in stats.dropped.items():
            metrics.dropped.labels(reason=reason).inc(count)
        for reason, count in stats.dead.items():
            metrics.dead_letters.labels(reason=reason).inc(count)
        metrics.append_age.labels(partition=self._partition).set(time.time() - chunk[-1].timestamp_ms / 1000)


def _chunks(records: Sequence[Any], most: int) -> Iterator[list[RawMessage]]:
    """Cut messages into takes of at most `most` bytes, at least one message each."""
    chunk: list[RawMessage] = []
    size = 0
    for record in records:
        value = record.value or b""
        if chunk and size + len(value) > most:
            yield chunk
            chunk, size = [], 0
        chunk.append(RawMessage(record.offset, record.timestamp, record.timestamp_type == LOG_APPEND_TIME, value))
        size += len(value)
    if chunk:
        yield chunk


async def keep_standing(gate: Gate, translator: Translator, send: Send, broker: Patience) -> None:
    """Publish who consents to what, by pseudonym: completely at the start, then every change. Runs until cancelled."""
    seen, review_at = -1, 0.0
    while True:
        view, now = gate.view(), time.monotonic()
        if view.fresh and (view.state.version != seen or translator.behind(view.state) or now >= review_at):
            records = await asyncio.to_thread(translator.changes, view.state, wall_ms())
            for record in records:
                await broker.do(lambda record=record: _publish(send, record))  # type: ignore[misc]  # as above
            translator.published(records)
            seen, review_at = view.state.version, now + STANDING_REVIEW_SECONDS
        await asyncio.sleep(STANDING_POLL_SECONDS)


async def _publish(send: Send, record: Standing) -> None:
    await send(STANDING_TOPIC, 0, key_of(record).encode(), encode(record))
