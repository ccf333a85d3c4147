"""A path under load that is stopped and goes on again, for `bench_stop`: what there is to do, and what it took.

One machine and one clock: the times that rows are stored at, and those of this
process, can be compared to the millisecond.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.control import signing
from infra.control.acks import AckWatch, Gate
from infra.control.reader import wall_ms
from infra.control.records import SWITCH_TOPIC, Switch
from infra.control.writer import ControlWriter
from tests.approvers import approve
from tests.load import subjects
from tests.path_stack import PARTITIONS, PURPOSE, PathStack, Writer, wait

PRODUCERS = 2
RATE = 10_000  # events a second, each
WINDOW_MS, LATENESS_MS = 1_000, 1_500  # four INSERTs of rows a second, beside those of receipts and ledger
SCOPES = (("everything", ""), ("source", "pointer"), ("purpose", PURPOSE))
GATES = PRODUCERS + 2
AFTERWARDS_SECONDS = 1.0  # how long rows are looked out for when the last gate has acknowledged
RESOLUTION_MS = 10  # the demo policy's: an event is dated so much too early at most
PATIENCE_SECONDS = 120.0  # with a machine that others use too
POLL_SECONDS = 0.3  # the store has enough to do
DISOBEDIENT = "d" * 28
"""What the sessions begin with that obey nobody."""


@dataclass(frozen=True, slots=True)
class Stop:
    """What one engagement took, ms."""

    acknowledged: dict[str, float]
    """By gate, from handing the switch over until its acknowledgement was read here; the way back counts."""
    roles: dict[str, str]
    last_row: float
    """From handing the switch over to the last row with events; 0 where none was stored after."""
    rows_after: int
    """Rows that were stored after the last acknowledgement with events of before the release. It must be none."""

    @property
    def last(self) -> float:
        """Until the last acknowledgement."""
        return max(self.acknowledged.values())

    def of(self, role: str) -> list[float]:
        """Until the acknowledgement of each gate of a role."""
        return [took for gate, took in self.acknowledged.items() if self.roles[gate] == role]


@dataclass(frozen=True, slots=True)
class Death:
    """What the death of the only authority took, ms from the signal."""

    closed: float
    """Until the word of the last gate that it is closed was read here."""
    last_row: float


class Path:
    """The path from two producers to the store, all processes, and this one's control of it."""

    def __init__(self, stack: PathStack) -> None:
        self._stack = stack
        stack.allow(*subjects(), window_size_ms=WINDOW_MS, window_step_ms=WINDOW_MS, lateness_ms=LATENESS_MS)
        stack.start_worker("minimise")
        stack.start_worker("window")
        for number in range(PRODUCERS):
            load = stack.python("tests.load", "--rate", str(RATE), "--seconds", "7200")
            stack.spawn(f"producer-{number}", *load)
        self._writer, self._watch = ControlWriter(stack.addresses), AckWatch(stack.addresses)
        self._disobedient = _Disobedient(stack)
        self.trip = RoundTrip(stack.addresses.need("kafka"))
        self._random = random.Random(4)

    def __enter__(self) -> Path:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._disobedient.close()
        self._watch.close()
        self._writer.close()
        self.trip.close()

    def rate(self, seconds: float = 2.0) -> float:
        """Return how many events a second are stored, from when rows flow."""
        self.wait_rows(wall_ms())
        begin = wall_ms()
        time.sleep(seconds)
        end = wall_ms()
        self.wait_rows(end)
        sql = "SELECT sum(stored) AS events FROM windows WHERE slot >= {begin:Int64} AND slot < {end:Int64}"
        return self._ask(sql, begin=begin, end=end)["events"] / (end - begin) * 1000

    def stop(self, number: int) -> Stop:
        """Engage, wait for everybody, look out for rows, release, and return when rows flow again."""
        # At any moment of a window and of the loops' own rounds.
        time.sleep(self._random.uniform(0, 0.3))
        scope, value = SCOPES[number % len(SCOPES)]
        switch = Switch(f"bench-{number}", scope, value, True, "benchmark", "bench", wall_ms(), 0)
        ahead = time.time() - time.monotonic()
        written = self._writer.put(switch)[0]
        answers = self._watch.wait_applied(SWITCH_TOPIC, written.offset, timeout=PATIENCE_SECONDS, written=written)
        applied = {each.gate.name: each for each in answers.by("applied")}
        if not answers.complete or len(applied) != GATES:
            raise AssertionError(f"{len(applied)} of {GATES} gates have applied it within {PATIENCE_SECONDS:.0f} s")
        log = self._stack.addresses.log
        words = {name: each.gate.applied(SWITCH_TOPIC, written.offset, log) for name, each in applied.items()}
        acknowledged = {name: (word.arrived - written.began) * 1000 for name, word in words.items() if word}
        time.sleep(AFTERWARDS_SECONDS)
        release = replace(
            switch, engaged=False, reason="benchmark goes on", at=wall_ms(), releases=signing.digest(switch, log)
        )
        engaged, released = round((written.began + ahead) * 1000), wall_ms()
        self._writer.put(approve(release, log))
        self.wait_rows(released)
        row = self._last_row(engaged, released)
        # Rounded up: `stored_at` knows whole milliseconds.
        after = self._rows_after(engaged + max(acknowledged.values()) + 1, released)
        return Stop(acknowledged, {name: each.gate.role for name, each in applied.items()}, row, after)

    def death(self) -> Death:
        """Kill the authority, wait until every gate is closed, look out for rows, and start another."""
        time.sleep(self._random.uniform(0, 0.3))
        died, died_ms = time.monotonic(), wall_ms()
        self._stack.kill("authority")
        closed: dict[str, float] = {}
        while len(closed) < GATES:
            assert time.monotonic() < died + PATIENCE_SECONDS, f"{len(closed)} of {GATES} gates have closed"
            closed = {gate.name: at for gate in self._watch.gates() if (at := _closed_since(gate, died))}
            self._watch.wait_change(0.05)
        time.sleep(AFTERWARDS_SECONDS)
        begun = wall_ms()
        self._stack.spawn("authority", *self._stack.python("infra.control.authority"))
        self.wait_rows(begun)
        row = self._last_row(died_ms, begun)
        return Death((max(closed.values()) - died) * 1000, row)

    def wait_rows(self, since_ms: int) -> None:
        """Return when events captured after a moment (UTC epoch ms) are stored."""
        sql = f"""SELECT count() AS rows FROM windows
            WHERE slot >= {{since:Int64}} AND events > 0 AND NOT startsWith(session, '{DISOBEDIENT}')"""
        wait(lambda: self._ask(sql, since=since_ms)["rows"] >= PARTITIONS, "rows flow", PATIENCE_SECONDS, POLL_SECONDS)

    def _last_row(self, since_ms: int, until_ms: int) -> float:
        """Return how long after `since_ms` the last row with events was stored before `until_ms`, ms."""
        sql = """SELECT toUnixTimestamp64Milli(max(stored_at)) AS last FROM windows
            WHERE slot >= {from:Int64} AND events > 0 AND toUnixTimestamp64Milli(stored_at) < {until:Int64}"""
        return max(0.0, float(self._ask(sql, until=until_ms, **{"from": since_ms - 60_000})["last"] - since_ms))

    def _rows_after(self, quiet_ms: float, released_ms: int) -> int:
        """Count what was stored since `quiet_ms` with an event of before the release, in whatever epoch we are by now."""
        sql = """SELECT count() AS rows FROM windows WHERE slot >= {from:Int64} AND events > 0
            AND toUnixTimestamp64Milli(stored_at) > {quiet:Float64}
            AND window_start + arrayMin(offset_ms) < {released:Int64}"""
        found = self._ask(sql, quiet=quiet_ms, released=released_ms - RESOLUTION_MS, **{"from": released_ms - 60_000})
        return int(found["rows"])

    def _ask(self, sql: str, **params: Any) -> dict[str, Any]:
        return self._stack.store.query_rows(sql, params).dicts()[0]


def _closed_since(gate: Gate, died: float) -> float | None:
    """When a gate's word came that it had closed, monotonic s; None while it has not."""
    return next((word.arrived for word in gate.words if word.arrived > died and not word.ack.open), None)


class _Disobedient:
    """Goes on sending whatever is engaged, so that the windows of before go on closing: the gates alone stop them."""

    def __init__(self, stack: PathStack) -> None:
        self._writer = Writer(stack, events=1)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._writer.flush()

    def _run(self) -> None:
        while not self._closing.wait(0.05):
            for partition in range(PARTITIONS):
                session = f"{DISOBEDIENT}{partition:04x}"
                self._writer.batch(session, subjects()[partition], partition, wall_ms())


class Shares:
    """Who has used the machine since this was made: the bench with all its processes, and the others."""

    def __init__(self) -> None:
        self._ours, self._all, self._began = _our_seconds(), _all_seconds(), time.monotonic()

    def __str__(self) -> str:
        seconds = time.monotonic() - self._began
        ours = (_our_seconds() - self._ours) / seconds
        others = (_all_seconds() - self._all) / seconds - ours
        return f"{ours:.1f} of {psutil.cpu_count()} cores were the bench's, {max(0.0, others):.1f} others'"


def _our_seconds() -> float:
    me = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (me, *me.children(recursive=True)))


def _all_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


class RoundTrip:
    """One record to the broker and back, with the settings of a control reader: what nothing on it can go below."""

    def __init__(self, address: str) -> None:
        self._topic = "bench.trip"
        admin = AdminClient({"bootstrap.servers": address})
        admin.create_topics([NewTopic(self._topic, 1, 1)])[self._topic].result(PATIENCE_SECONDS)
        self._producer = Producer({"bootstrap.servers": address, "acks": "all", "linger.ms": 0, "log_level": 0})
        self._consumer = Consumer(
            {
                "bootstrap.servers": address,
                "group.id": "bench-trip",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 25,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(self._topic, 0, 0)])
        self._sent = 0
        self.measure()  # connects

    def measure(self) -> float:
        """Return how long one record took, from producing to having it, ms."""
        # The one before, fetched already, must not answer for it; and at any moment of a fetch.
        wanted, began = str(self._sent).encode(), time.monotonic()
        self._sent += 1
        self._producer.produce(self._topic, wanted)
        self._producer.poll(0)
        while time.monotonic() < began + PATIENCE_SECONDS:
            message = self._consumer.poll(1)
            if message is not None and message.error() is None and message.value() == wanted:
                return (time.monotonic() - began) * 1000
            self._producer.poll(0)
        raise AssertionError("the broker does not give a record back")

    def close(self) -> None:
        self._consumer.close()
