"""The windower's INSERTs against a real store, on a line that can be cut: what is stored, and what may be acknowledged."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from infra import migrations
from infra.addresses import Addresses
from infra.metrics import WindowerMetrics
from infra.store import Store
from streams import agents_window, ledger, patience
from streams.agents_window import WindowedPartition, Windower
from streams.data import LedgerRow
from tests.contract.store.conftest import StoreProcess, store_at
from tests.line import Line, line_to
from tests.streams_support import (
    ANN,
    BOB,
    T0,
    TRAINING,
    Log,
    OpenGate,
    before_and_after,
    closed,
    codec_for,
    patient,
    pseudonym,
    raw_message,
    until,
)

BEFORE, AFTER = before_and_after({pseudonym(who): [TRAINING] for who in (ANN, BOB)})
EVENTS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    server = StoreProcess(tmp_path_factory.mktemp("store") / "home").ready()
    store = store_at(server.address)
    migrations.migrate(store, migrations.load())
    yield store
    assert server.stop() == 0


@pytest.fixture
def line(store: Store) -> Iterator[Line]:
    with line_to(store.address) as line:
        yield line


@pytest.fixture(autouse=True)
def _impatient(monkeypatch) -> None:
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(agents_window, "SETTLE_SECONDS", 0.01)


class Worker:
    """A windower with one slot that is due, held back by its gate."""

    def __init__(self, line: Line, log: str | None = None) -> None:
        self.log, self.line = log or uuid.uuid4().hex, line
        self.gate = OpenGate(closed(BEFORE))
        self.shared = Windower(
            log=self.log,
            codec_for=codec_for,
            gate=self.gate,
            store=Store(Addresses(home=None, store=line.address), deadline_s=0),
            send=None,
            dead_letters=None,
            metrics=WindowerMetrics(CollectorRegistry()),
            patience=patient,
            fault="",
        )
        self.work: WindowedPartition

    async def begin(self) -> asyncio.Task[None]:
        """Read two batches and the tick that closes their window; return when the receipts are stored."""
        self.work = self.shared.partition(0, lambda: None)
        # Sessions of this log alone: what another log has received is known by its numbers.
        ann = raw_message(0, [T0, T0 + 1], session=f"a-{self.log}")
        bob = raw_message(1, [T0 + 2], session=f"b-{self.log}", subject=BOB)
        values = enumerate(Log().take(ann, bob).tick(1, T0 + 60_000).values)
        await self.work.begin()
        await self.work.take([SimpleNamespace(offset=offset, value=value) for offset, value in values])
        before = self.count("events")
        task = asyncio.create_task(self.work.idle(None))
        await until(lambda: self.count("events") == before + EVENTS or task.done())
        assert not task.done(), task.exception()
        return task

    async def fail(self, task: asyncio.Task[None]) -> None:
        """Open the gate and let the first attempt fail, then engage a switch."""
        self.gate.now = BEFORE
        failed = self.count("insert_retries")
        await until(lambda: self.count("insert_retries") > failed)
        self.gate.now = AFTER
        assert not task.done()

    async def revoke(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait([task])
        self.work.end()

    def count(self, name: str) -> float:
        return getattr(self.shared.metrics, name)._value.get()

    def refused(self) -> float:
        return self.shared.metrics.refused.labels(reason="switch")._value.get()


def rows(store: Store, worker: Worker) -> list[tuple[int, dict[str, int], str]]:
    return store.query_rows(
        "SELECT stored, refused, subject FROM windows WHERE log = {log:String} ORDER BY session", {"log": worker.log}
    ).rows


STORED = [(2, {}, pseudonym(ANN)), (1, {}, pseudonym(BOB))]
REFUSED = [(0, {"switch": 2}, ""), (0, {"switch": 1}, "")]


def test_an_insert_that_nobody_took_is_judged_anew_and_holds_no_acknowledgement_up(store, line):
    """The store is down while a switch is engaged: it is acknowledged at once, and nothing is stored when it is back."""

    async def scenario():
        worker = Worker(line)
        task = await worker.begin()
        line.set("refuse")
        await worker.fail(task)
        await until(lambda: worker.gate.acknowledged() == 6)
        line.set("pass")
        await task
        assert rows(store, worker) == REFUSED
        assert (worker.count("stored"), worker.refused(), worker.count("inserts")) == (0, EVENTS, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(("mode", "stands"), [("lose_request", REFUSED), ("lose_answer", STORED)])
def test_an_insert_of_unknown_outcome_is_not_acknowledged_until_its_token_is_confirmed(store, line, mode, stands):
    """Whether it had arrived or not: tried again as judged now, one of the two stands, once, and none can come later."""

    async def scenario():
        worker = Worker(line)
        task = await worker.begin()
        line.set(mode)
        await worker.fail(task)
        assert worker.gate.acknowledged() == 5
        await until(lambda: worker.count("insert_retries") >= 3)
        assert worker.gate.acknowledged() == 5
        line.set("pass")
        await task
        assert worker.gate.acknowledged() == 6
        assert rows(store, worker) == stands
        # Counted once, as the attempt was judged that the store confirmed.
        assert (worker.count("stored"), worker.refused(), worker.count("inserts")) == (0, EVENTS, 1)

    asyncio.run(scenario())


def test_an_insert_under_way_is_waited_for(store, line):
    """What the store has not answered yet keeps the acknowledgement back, and is not tried a second time meanwhile."""

    async def scenario():
        worker = Worker(line)
        task = await worker.begin()
        line.set("hold")
        begun, worker.gate.now = line.requests, BEFORE
        await until(lambda: line.requests > begun)
        worker.gate.now = AFTER
        await asyncio.sleep(0.2)
        assert (worker.gate.acknowledged(), line.requests) == (5, begun + 1)
        line.set("pass")
        await task
        assert worker.gate.acknowledged() == 6
        assert rows(store, worker) == STORED

    asyncio.run(scenario())


def test_a_gate_that_closes_between_two_attempts_holds_the_slot(store, line):
    """Nothing is stored by what was known before, and nothing is lost."""

    async def scenario():
        worker = Worker(line)
        task = await worker.begin()
        line.set("refuse")
        await worker.fail(task)
        worker.gate.now = closed(AFTER)
        line.set("pass")
        await asyncio.sleep(0.3)
        assert rows(store, worker) == []
        worker.gate.now = BEFORE
        await task
        assert rows(store, worker) == STORED

    asyncio.run(scenario())


def test_an_insert_under_way_when_its_partition_is_revoked_is_waited_for(store, line):
    """The thread that stores it goes on, and says by itself when it is over."""

    async def scenario():
        worker = Worker(line)
        task = await worker.begin()
        line.set("hold")
        begun, worker.gate.now = line.requests, BEFORE
        await until(lambda: line.requests > begun)
        await worker.revoke(task)
        worker.gate.now = AFTER
        assert worker.gate.acknowledged() == 5
        line.set("pass")
        await until(lambda: worker.gate.acknowledged() == 6)
        assert rows(store, worker) == STORED

    asyncio.run(scenario())


def test_an_unknown_outcome_outlives_the_assignment_until_the_ledger_settles_it(store, line):
    """The partition went to another worker: what it has stored under the same token ends the first one's doubt."""

    async def scenario():
        worker = Worker(line)
        task = await worker.begin()
        line.set("lose_answer")
        await worker.fail(task)
        await worker.revoke(task)
        line.set("pass")
        settling = asyncio.create_task(worker.shared.settle(patient(lambda: None).store))
        ledger.write(store, LedgerRow(worker.log, 0, T0, 0, -1, -1))  # of an earlier slot
        await asyncio.sleep(0.2)
        assert worker.gate.acknowledged() == 5
        other = Worker(line, worker.log)
        following = await other.begin()
        other.gate.now = AFTER
        await following
        await until(lambda: worker.gate.acknowledged() == 6)
        settling.cancel()
        assert other.gate.acknowledged() == 6
        assert rows(store, worker) == STORED

    asyncio.run(scenario())


def test_a_partition_revoked_while_a_slot_is_judged_stores_nothing_more(store, line, monkeypatch):
    """What the thread has made by then is left, and its passage with it."""

    async def scenario():
        worker = Worker(line)
        task = await worker.begin()
        judging, go_on = asyncio.Event(), threading.Event()
        loop, close = asyncio.get_running_loop(), worker.work._pipeline.close

        def slow(*given):
            loop.call_soon_threadsafe(judging.set)
            go_on.wait(5)
            return close(*given)

        monkeypatch.setattr(worker.work._pipeline, "close", slow)
        begun, worker.gate.now = line.requests, BEFORE
        await judging.wait()
        await worker.revoke(task)
        worker.gate.now = AFTER
        assert worker.gate.acknowledged() == 5
        go_on.set()
        await until(lambda: worker.gate.acknowledged() == 6)
        assert (line.requests, rows(store, worker)) == (begun, [])

    asyncio.run(scenario())
