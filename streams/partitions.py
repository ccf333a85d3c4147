"""One task for each partition that this worker owns, fed in offset order. Knows no Faust.

The agent hands every fetch to `Partitions.feed`; a rebalance calls `revoke`,
then `assign`. A partition's task reads where to begin, seeks, and then works on
its messages alone: it waits for the broker, the store or the gate as long as
it takes, and its small queue fills up meanwhile, which holds the fetcher back.

Revoking cancels the tasks and waits for their end, so nothing is sent or stored
for a partition after it was given up, but for a call to the store that is under
way in its thread: those are idempotent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Protocol

from infra.telemetry import logger
from streams.cursor import Cursor, Start

QUEUE_FETCHES = 2
"""Fetches that wait for a partition's task: one to work on next, one to keep the fetcher busy."""


class Source(Protocol):
    """Where messages come from."""

    async def start_at(self, partition: int, offset: int | None) -> Start:
        """Seek; None means the oldest message there is. Raises TidegateError when the offset is gone."""

    def quiet_since(self, partition: int, next_offset: int) -> float | None:
        """Since when the log has certainly held nothing from `next_offset` on (UTC epoch s), or None."""


class Work(Protocol):
    """What a worker does with one partition, from its assignment to its revocation."""

    async def begin(self) -> int | None:
        """Return the offset to begin at, None for the oldest."""

    async def take(self, records: Sequence[Any]) -> None:
        """Work on the next messages, in offset order and complete."""

    async def idle(self, quiet_since: float | None) -> None:
        """Do what is due from time to time. `quiet_since`: there was nothing to work on at that time (UTC epoch s)."""

    def repeats(self, count: int) -> None:
        """Note that messages were skipped because they had been seen."""

    def end(self) -> None:
        """Let go of what is kept outside; the partition is somebody else's now."""


class Partitions:
    """The partitions owned now."""

    def __init__(
        self,
        source: Source,
        work_for: Callable[[int, Callable[[], None]], Work],
        *,
        idle_seconds: float,
        stalled_seconds: float,
        fail: Callable[[BaseException], None],
    ) -> None:
        """`work_for` makes the work of a partition and is given what to call as it waits.

        `fail` is told when a task ends with an error: a bug, or a TidegateError
        that a person must see.
        """
        self._source = source
        self._work_for = work_for
        self._idle_seconds = idle_seconds
        self._stalled_seconds = stalled_seconds
        self._fail = fail
        self._owned: dict[int, _Owned] = {}
        self._assigned = False

    @property
    def going(self) -> bool:
        """Whether the group has given its word on who owns what, and every partition's loop goes round."""
        limit = monotonic() - self._stalled_seconds
        return self._assigned and all(owned.beaten >= limit for owned in self._owned.values())

    async def assign(self, partitions: Iterable[int]) -> None:
        """Begin anew with these partitions."""
        await self.revoke()
        for partition in sorted(partitions):
            self._owned[partition] = _Owned(partition, self)
        self._assigned = True
        logger("streams").info("partitions assigned", partitions=sorted(self._owned))

    async def revoke(self) -> None:
        """Give every partition up; return when their tasks have ended."""
        tasks = [owned.task for owned in self._owned.values()]
        self._owned.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def feed(self, partition: int, seek: int, records: Sequence[Any]) -> None:
        """Hand one fetch to its partition; wait while its queue is full. A partition not owned drops it."""
        owned = self._owned.get(partition)
        if owned is not None:
            await owned.offer(seek, records)

    async def run(self, partition: int, owned: _Owned) -> None:
        """Work on one partition until cancelled."""
        work = self._work_for(partition, owned.beat)
        try:
            cursor = Cursor(await self._source.start_at(partition, await work.begin()))
            idle_at = monotonic() + self._idle_seconds
            while True:
                owned.beat()
                fetched = await owned.next_before(idle_at)
                if fetched is not None:
                    await self._take(partition, work, cursor, *fetched)
                if monotonic() >= idle_at:
                    await work.idle(self._source.quiet_since(partition, cursor.next))
                    idle_at = monotonic() + self._idle_seconds
        finally:
            work.end()

    async def _take(self, partition: int, work: Work, cursor: Cursor, seek: int, records: Sequence[Any]) -> None:
        skipped, missing = cursor.skipped, cursor.missing
        fresh = cursor.take(records, seek)
        if fresh is None:
            cursor.sought(await self._source.start_at(partition, cursor.next))
            return
        if cursor.skipped > skipped:
            work.repeats(cursor.skipped - skipped)
        if cursor.missing > missing:
            logger("streams").warning(
                "the log has a gap: the broker has no messages there",
                partition=partition,
                offset=fresh[0].offset,
                count=cursor.missing - missing,
            )
        if fresh:
            await work.take(fresh)

    def ended(self, task: asyncio.Task[None]) -> None:
        """Pass on what made a task end, unless it was cancelled."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)


class _Owned:
    """A partition's queue and task."""

    def __init__(self, partition: int, partitions: Partitions) -> None:
        self._queue: asyncio.Queue[tuple[int, Sequence[Any]]] = asyncio.Queue(QUEUE_FETCHES)
        self.beaten = monotonic()
        self.task = asyncio.create_task(partitions.run(partition, self), name=f"partition-{partition}")
        self.task.add_done_callback(partitions.ended)

    def beat(self) -> None:
        """Say that the loop goes round."""
        self.beaten = monotonic()

    async def next_before(self, deadline: float) -> tuple[int, Sequence[Any]] | None:
        """Return the next fetch, or None when there is none until `deadline` (monotonic)."""
        try:
            async with asyncio.timeout(max(0.0, deadline - monotonic())):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def offer(self, seek: int, records: Sequence[Any]) -> None:
        """Queue a fetch; give up when the task ends while the queue is full."""
        if not self._queue.full():
            self._queue.put_nowait((seek, records))
            return
        put = asyncio.ensure_future(self._queue.put((seek, records)))
        await asyncio.wait({put, self.task}, return_when=asyncio.FIRST_COMPLETED)
        put.cancel()
