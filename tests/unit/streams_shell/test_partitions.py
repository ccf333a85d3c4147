"""Tasks of partitions: order, back-pressure, revocation, failure."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from infra.errors import TidegateError
from streams.cursor import Start
from streams.partitions import QUEUE_FETCHES, Partitions


class Message(NamedTuple):
    offset: int


class Log:
    """A source that remembers its seeks."""

    def __init__(self) -> None:
        self.seeks: list[tuple[int, int | None]] = []

    async def start_at(self, partition, offset):
        self.seeks.append((partition, offset))
        return Start(offset or 0, seek=len(self.seeks))

    def quiet_since(self, partition, next_offset):
        return 1.0


class Recorder:
    """Work that writes down what it is asked to do."""

    def __init__(self, begin=None, gate=None, error=None) -> None:
        self.taken: list[int] = []
        self.idled: list[float | None] = []
        self.ended = False
        self.repeated = 0
        self._begin, self._gate, self._error = begin, gate, error

    async def begin(self):
        return self._begin

    async def take(self, records):
        if self._error is not None:
            raise self._error
        if self._gate is not None:
            await self._gate.wait()
        self.taken += [record.offset for record in records]

    async def idle(self, quiet_since):
        self.idled.append(quiet_since)

    def repeats(self, count):
        self.repeated += count

    def end(self):
        self.ended = True


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a condition of the code under test, which signals nothing
            await asyncio.sleep(0.001)


def make(works, log=None, idle=0.01, failed=None):
    failures = [] if failed is None else failed
    return Partitions(
        log or Log(),
        lambda partition, beat: works[partition],
        idle_seconds=idle,
        stalled_seconds=5,
        fail=failures.append,
    )


def messages(first, last):
    return [Message(offset) for offset in range(first, last + 1)]


def test_begins_where_the_work_says_and_takes_in_order():
    """A partition seeks to where its work begins, then takes what follows and skips what is older."""

    async def scenario():
        log, work = Log(), Recorder(begin=5)
        partitions = make({0: work}, log)
        await partitions.assign([0])
        await partitions.feed(0, 1, messages(3, 6))
        await partitions.feed(0, 1, messages(7, 8))
        await until(lambda: work.taken == [5, 6, 7, 8])
        assert log.seeks == [(0, 5)]
        assert work.repeated == 2
        await partitions.revoke()

    asyncio.run(scenario())


def test_a_gap_makes_it_seek_again():
    """Messages that do not follow are not taken: the partition is told again where it stands."""

    async def scenario():
        log, work = Log(), Recorder(begin=5)
        partitions = make({0: work}, log)
        await partitions.assign([0])
        await partitions.feed(0, 0, messages(9, 10))
        await until(lambda: len(log.seeks) == 2)
        await partitions.feed(0, 2, messages(5, 10))
        await until(lambda: work.taken == [5, 6, 7, 8, 9, 10])
        await partitions.revoke()

    asyncio.run(scenario())


def test_a_partition_that_waits_holds_the_fetcher_back():
    """While the work waits, no more than the queue's fetches are accepted; nothing is lost when it goes on."""

    async def scenario():
        gate = asyncio.Event()
        work = Recorder(gate=gate)
        partitions = make({0: work})
        await partitions.assign([0])
        fed = 0

        async def feed():
            nonlocal fed
            for n in range(10):
                await partitions.feed(0, 1, messages(n, n))
                fed += 1

        feeder = asyncio.create_task(feed())
        await until(lambda: fed >= QUEUE_FETCHES)
        await asyncio.sleep(0.05)
        assert fed <= QUEUE_FETCHES + 1
        gate.set()
        await until(lambda: work.taken == list(range(10)))
        await feeder
        await partitions.revoke()

    asyncio.run(scenario())


def test_revoking_ends_the_work_and_frees_a_waiting_feeder():
    """After `revoke` the task has ended, a feeder that waited goes on, and later messages are dropped."""

    async def scenario():
        work = Recorder(gate=asyncio.Event())
        partitions = make({0: work})
        await partitions.assign([0])
        feeder = asyncio.create_task(_feed_many(partitions))
        await asyncio.sleep(0.02)
        assert not feeder.done()
        await partitions.revoke()
        await asyncio.wait_for(feeder, 1)
        assert work.ended
        assert work.taken == []

    async def _feed_many(partitions):
        for n in range(10):
            await partitions.feed(0, 1, messages(n, n))

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [TidegateError("cannot go on"), ValueError("a bug")])
def test_what_a_partition_dies_of_is_told(error):
    """An error in the work ends its task and reaches whoever runs the worker; it is never swallowed."""

    async def scenario():
        failed: list[BaseException] = []
        partitions = make({0: Recorder(error=error)}, failed=failed)
        await partitions.assign([0])
        await partitions.feed(0, 1, messages(0, 0))
        await until(lambda: failed == [error])
        await partitions.revoke()

    asyncio.run(scenario())


def test_idle_is_called_without_and_with_messages():
    """What is due from time to time is done whether messages come or not, and is told since when it is quiet."""

    async def scenario():
        work = Recorder()
        partitions = make({0: work})
        await partitions.assign([0])
        await until(lambda: len(work.idled) >= 2)
        for n in range(200):
            await partitions.feed(0, 1, messages(n, n))
            await asyncio.sleep(0)
        count = len(work.idled)
        await until(lambda: len(work.idled) > count)
        assert set(work.idled) == {1.0}
        await partitions.revoke()

    asyncio.run(scenario())


def test_health_follows_every_partition():
    """It goes once the group has spoken, be it to give nothing; a partition that hangs stops it."""

    async def scenario():
        partitions = Partitions(
            Log(), lambda *_: Recorder(gate=asyncio.Event()), idle_seconds=0.01, stalled_seconds=0.05, fail=print
        )
        assert not partitions.going
        await partitions.assign([])
        assert partitions.going
        await partitions.assign([0])
        await partitions.feed(0, 1, messages(0, 0))
        await until(lambda: not partitions.going)
        await partitions.revoke()

    asyncio.run(scenario())
