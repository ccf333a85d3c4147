"""The minimiser's attempts: each a passage, each by the view of its own moment."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from infra.metrics import MinimiserMetrics
from infra.topics import DEAD_LETTER, MINIMIZED
from schemas import wire
from streams import patience
from streams.agents_minimise import MinimisedPartition, Minimiser
from streams.codecs import Framer
from streams.pipeline_minimise import MinimisePipeline
from tests.streams_support import (
    ANN,
    BLOCK_ID,
    KEY,
    T0,
    TRAINING,
    OpenGate,
    before_and_after,
    closed,
    codec_for,
    patient,
    raw_message,
    read_block,
    until,
)

BEFORE, AFTER = before_and_after({ANN: [TRAINING]})
Sent = Callable[[str, bytes], Awaitable[None]]


class Ids:
    """A registry that gives every schema one id."""

    def schema_id(self, subject: str, schema: object) -> int:
        return BLOCK_ID


class Broker:
    """Takes what is sent, once it has done what a test asks for first."""

    def __init__(self, *before: Sent) -> None:
        self.taken: list[tuple[str, bytes]] = []
        self._before = list(before)

    async def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        if self._before:
            await self._before.pop(0)(topic, value)
        self.taken.append((topic, value))

    def blocks(self):
        """Headers and columns of the blocks taken."""
        return [read_block(value[wire.FRAME_SIZE :]) for topic, value in self.taken if topic == MINIMIZED]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch) -> None:
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.01)


def partition(gate: OpenGate, broker: Broker, codec=codec_for) -> MinimisedPartition:
    shared = Minimiser(
        log="1",
        pipeline=MinimisePipeline("test/1", KEY, codec, tick_after_ms=1_000),
        gate=gate,
        store=None,
        send=broker.send,
        blocks=Framer(Ids(), MINIMIZED),
        dead_letters=Framer(Ids(), DEAD_LETTER),
        metrics=MinimiserMetrics(CollectorRegistry()),
        patience=patient,
        tick_after_ms=2_000,
        lock=asyncio.Lock(),
    )
    return shared.partition(0, lambda: None)


def record(offset: int, times: list[int], **fields):
    """What aiokafka gives; the device's clock stamped it."""
    message = raw_message(offset, times, **fields)
    return SimpleNamespace(offset=offset, timestamp=message.timestamp_ms, timestamp_type=0, value=message.value)


def metric(work: MinimisedPartition, name: str, **labels: str) -> float:
    return (
        getattr(work._shared.metrics, name).labels(**labels)._value.get()
        if labels
        else getattr(work._shared.metrics, name)._value.get()
    )


def test_nothing_is_acknowledged_while_a_block_is_on_its_way():
    """A switch that is engaged while the broker takes a block is acknowledged when it has it, not before."""

    async def scenario():
        gate = OpenGate(BEFORE)

        async def engaged_meanwhile(topic, value):
            gate.now = AFTER
            assert gate.acknowledged() == 5

        broker = Broker(engaged_meanwhile)
        await partition(gate, broker).take([record(0, [T0, T0 + 1])])
        assert gate.acknowledged() == 6
        assert [columns["batch_kept"].tolist() for _, columns in broker.blocks()] == [[2]]

    asyncio.run(scenario())


def test_a_tick_waits_for_an_open_gate():
    """While the gate is closed the clock may be wrong, and one tick by it would make all that follows late."""

    async def scenario():
        gate, broker = OpenGate(BEFORE), Broker()
        work = partition(gate, broker)
        await work.take([record(0, [T0, T0 + 1])])
        work._shared.pipeline._partitions[0].moved_at = T0  # quiet for long enough
        gate.now = closed(BEFORE)
        await work.idle(time.time())
        assert len(broker.taken) == 1
        gate.now = BEFORE
        await work.idle(time.time())
        assert len(broker.taken) == 2

    asyncio.run(scenario())


def test_a_switch_engaged_after_a_failed_send_reaches_the_take():
    """The take is judged anew, and counted once, as it was sent in the end."""

    async def scenario():
        gate = OpenGate(BEFORE)

        async def fail(topic, value):
            gate.now = AFTER
            raise OSError

        async def look(topic, value):
            assert gate.acknowledged() == 6  # nothing judged by less is on its way any more

        broker = Broker(fail, look)
        work = partition(gate, broker)
        await work.take([record(0, [T0, T0 + 1])])
        ((header, columns),) = broker.blocks()
        assert header["drop_reason"] == ["switch"]
        assert columns["batch_kept"].tolist() == [0]
        assert (metric(work, "kept"), metric(work, "events"), metric(work, "blocks")) == (0, 2, 1)
        assert metric(work, "dropped", reason="switch") == 2

    asyncio.run(scenario())


def test_a_gate_that_closes_after_a_failed_send_holds_the_take():
    """Nothing is sent while it is closed, and nothing is lost: it goes on when the gate opens."""

    async def scenario():
        gate = OpenGate(BEFORE)

        async def fail(topic, value):
            gate.now = closed(AFTER)
            raise OSError

        broker = Broker(fail)
        task = asyncio.create_task(partition(gate, broker).take([record(0, [T0])]))
        await until(lambda: not gate.now.fresh)
        assert gate.acknowledged() == 6
        await asyncio.sleep(0.1)
        assert broker.taken == []
        gate.now = BEFORE
        await task
        assert len(broker.blocks()) == 1

    asyncio.run(scenario())


def test_a_take_tried_again_keeps_its_append_times():
    """The device's stamp is ahead, so this worker's clock at the first attempt stands in for it, in all attempts."""

    async def scenario():
        failed = []

        async def fail(topic, value):
            failed.append(read_block(value[wire.FRAME_SIZE :]))
            raise OSError

        broker = Broker(fail, fail, fail)
        ahead = time.time_ns() // 1_000_000 + 3_000
        await partition(OpenGate(BEFORE), broker).take([record(0, [ahead - 10_000], append=ahead)])
        times = [columns["batch_append_time"].tolist() for _, columns in (*failed, *broker.blocks())]
        assert len(times) == 4
        assert times[1:] == times[:-1]

    asyncio.run(scenario())


def test_dead_letters_that_arrived_are_not_sent_again():
    """A block that fails is tried again without them; one that failed itself is sent."""

    async def scenario():
        async def fine(topic, value):
            assert topic == DEAD_LETTER

        async def fail(topic, value):
            raise OSError

        broker = Broker(fine, fail, fine, fail)
        dead = [SimpleNamespace(offset=at, timestamp=T0, timestamp_type=1, value=b"??") for at in (0, 1)]
        await partition(OpenGate(BEFORE), broker).take([*dead, record(2, [T0])])
        assert [topic for topic, _ in broker.taken] == [DEAD_LETTER, DEAD_LETTER, MINIMIZED]

    asyncio.run(scenario())


def test_a_registry_that_is_away_holds_no_acknowledgement_up():
    """The take waits for it outside of any passage, and is judged by what is known when it answers."""

    async def scenario():
        gate, asked = OpenGate(BEFORE), []

        def codec(schema_id):
            asked.append(gate.acknowledged())
            if len(asked) == 1:
                gate.now = AFTER
                raise OSError
            return codec_for(schema_id)

        broker = Broker()
        task = asyncio.create_task(partition(gate, broker, codec).take([record(0, [T0])]))
        await until(lambda: gate.acknowledged() == 6)
        await task
        assert asked == [5, 6]
        assert [columns["batch_kept"].tolist() for _, columns in broker.blocks()] == [[0]]

    asyncio.run(scenario())


def test_a_partition_revoked_in_the_middle_leaves_nothing_under_way():
    """Be it while the broker takes a block or while a thread makes it."""

    async def scenario(at_the_broker: bool):
        gate, loop = OpenGate(BEFORE), asyncio.get_running_loop()
        there, go_on = asyncio.Event(), threading.Event()

        async def hang(topic, value):
            there.set()
            await asyncio.Event().wait()

        def codec(schema_id):
            if not at_the_broker:
                loop.call_soon_threadsafe(there.set)
                go_on.wait(5)
            return codec_for(schema_id)

        broker = Broker(hang)
        task = asyncio.create_task(partition(gate, broker, codec).take([record(0, [T0])]))
        await there.wait()
        gate.now = AFTER
        assert gate.acknowledged() == 5
        task.cancel()
        await asyncio.wait([task])
        assert gate.acknowledged() == 6
        go_on.set()
        assert broker.taken == []

    for at_the_broker in (True, False):
        asyncio.run(scenario(at_the_broker))
