"""Raw topic to closed windows in ClickHouse: CPU time an event, both Faust hops and the store counted.

Beside it, in the same run on the same messages: a stock Faust agent that does
nothing, the project's way of fetching with an agent that does nothing, and a
bare loop of confluent-kafka, codec and INSERT.

CPU time, not wall time: the machine may be shared. It is read once the workers
own their partitions and before the gate opens, so starting up is not in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from schemas.catalogue import KINDS, load
from schemas.codec import Codec
from schemas.wire import FRAME_SIZE
from tests.path_stack import PARTITIONS, PathStack, Writer, running, wait

EVENTS = 64  # a message
SESSIONS = 256  # 64 a partition
BATCHES = int(os.environ.get("BENCH_BATCHES", "100"))  # a session
STEP_MS = 640  # 64 events of a pointer that moves 100 times a second
WINDOW_MS = 30_000  # 64 sessions a partition at 100 events a second: 192,000 events an INSERT, in 64 rows
GOAL = 300_000  # events a second for a core
TOPIC = "interactions.raw"


def main() -> None:
    total = SESSIONS * BATCHES * EVENTS
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as home, running(Path(home)) as stack:
        print(
            f"{total:,} events, {EVENTS} a message, {SESSIONS} sessions, {PARTITIONS} partitions, windows of {WINDOW_MS // 1000} s"
        )
        preload(stack)
        rows = [
            ("Faust agent, does nothing", _child(stack, "stock") / total * 1e6, {}),
            ("fetching as here, does nothing", _child(stack, "fetch") / total * 1e6, {}),
            _bare_loop(stack, total),
        ]
        path = path_cpu(stack)
    _print([*rows, ("both hops and the store", sum(path.values()), path)])


def preload(stack: PathStack) -> None:
    """Fill the raw topic with pointer-heavy sessions side by side, stamped by the time of their events.

    The gate stays shut until `path_cpu` opens it.
    """
    stack.kill("authority")
    subjects = [f"{n:032x}" for n in range(SESSIONS)]
    stack.allow(*subjects, window_size_ms=WINDOW_MS, window_step_ms=WINDOW_MS)
    writer = Writer(stack, EVENTS)
    bodies = [_columns(np.random.default_rng(seed)) for seed in range(64)]
    start = (time.time_ns() // 1_000_000 - 3_600_000) // 10_000 * 10_000
    for n in range(BATCHES):
        for session, subject in enumerate(subjects):
            writer.batch(
                f"{session:032x}", subject, session % PARTITIONS, start + n * STEP_MS, bodies[(n + session) % 64]
            )
    writer.flush()


def _columns(random: np.random.Generator) -> dict[str, np.ndarray]:
    """64 events: nine of ten are pointer moves in a random walk, the rest buttons, wheel and keys."""
    names = random.choice(["pointer_move", "pointer_button", "wheel", "key"], EVENTS, p=[0.9, 0.05, 0.03, 0.02])
    kind = np.array([KINDS[name] for name in names])
    at = {name: names == name for name in set(names)}
    none = np.zeros(EVENTS, bool)
    pointer = at.get("pointer_move", none) | at.get("pointer_button", none)
    walk = np.cumsum(random.normal(0, 6, (2, EVENTS)), axis=1).astype(np.int64) + 600
    pressed = at.get("pointer_button", none) | at.get("key", none)
    return {
        "offset_ms": np.arange(EVENTS) * 10 + random.integers(0, 3, EVENTS),
        "kind": kind,
        "application": np.ones(EVENTS, np.int64),
        "x": walk[0] * pointer,
        "y": walk[1] * pointer,
        "button": at.get("pointer_button", none) * 1,
        "pressed": pressed * random.integers(0, 2, EVENTS),
        "wheel_y": at.get("wheel", none) * 1,
        "key_class": at.get("key", none) * 1,
    }


Cpu = tuple[str, float, dict[str, float]]


def _child(stack: PathStack, what: str) -> float:
    """Run one of the agents that do nothing in a process of its own; return its CPU seconds."""
    command = stack.python("tests.bench.bench_path", what, str(SESSIONS * BATCHES))
    done = subprocess.run(command, env=stack.env(), capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        sys.exit(f"error: {what}: {done.stderr[-2000:]}")
    # Faust prints escape sequences around it.
    return next(float(word.split("=")[1]) for word in done.stdout.split() if "cpu_seconds=" in word)


def path_cpu(stack: PathStack, module: str = "tidegate") -> dict[str, float]:
    """Let the workers of a module through the preloaded topic; return CPU microseconds an event by process."""
    total = SESSIONS * BATCHES * EVENTS
    names = {
        "minimiser": stack.start_worker("minimise", module=module),
        "windower": stack.start_worker("window", module=module),
        "store": "store",
    }
    wait(lambda: stack.metric("minimise-1", "tidegate_gate_open") == 0, "the gate is shut")
    processes = {name: psutil.Process(stack.process(part).pid) for name, part in names.items()}
    before = {name: _seconds(process) for name, process in processes.items()}
    began = time.monotonic()
    stack.spawn("authority", *stack.python("infra.control.authority"))
    # Seldom: answering /metrics is the windower's CPU time too.
    wait(lambda: _stored(stack) >= total, "all is stored", 600, 0.5)
    used = {name: (_seconds(process) - before[name]) / total * 1e6 for name, process in processes.items()}
    print(f"from the gate's opening to the last slot stored: {time.monotonic() - began:.1f} s of wall time")
    stored = stack.store.query_rows("SELECT sum(stored) AS stored, count() AS rows FROM windows").dicts()[0]
    assert stored["stored"] == total, f"stored {stored['stored']} of {total}"
    return used


def _stored(stack: PathStack) -> float:
    for worker in ("minimise-1", "window-1"):
        assert stack.process(worker).poll() is None, f"{worker} has ended\n{stack.tail(worker)}"
    return stack.metric("window-1", "tidegate_windower_events_stored_total")


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _bare_loop(stack: PathStack, total: int) -> Cpu:
    """Consume with confluent-kafka, decode with the codec, INSERT one row of arrays a message."""
    from confluent_kafka import Consumer, TopicPartition

    stack.store.command(
        "CREATE TABLE bench_bare (session String, offset_ms Array(Int64), kind Array(UInt8), x Array(Int32), "
        "y Array(Int32), button Array(UInt8), pressed Array(UInt8), wheel_y Array(Int32), key_class Array(UInt8)) "
        "ENGINE = MergeTree ORDER BY session"
    )
    consumer = Consumer({"bootstrap.servers": stack.addresses.kafka, "group.id": "bare", "enable.auto.commit": False})
    consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
    consumer.poll(1.0)
    codec = Codec(load("interaction_batch"))
    own, store = psutil.Process(), psutil.Process(stack.process("store").pid)
    before, seen = {"loop": _seconds(own), "store": _seconds(store)}, 1
    while seen < SESSIONS * BATCHES:
        messages = consumer.consume(2000, 0.2)
        seen += len(messages)
        if messages:
            decoded = codec.decode([message.value()[FRAME_SIZE:] for message in messages])
            stack.store.insert_arrow("bench_bare", _table(decoded), token=None)
    consumer.close()
    used = {
        "loop": (_seconds(own) - before["loop"]) / total * 1e6,
        "store": (_seconds(store) - before["store"]) / total * 1e6,
    }
    return "bare consume, decode, INSERT", sum(used.values()), used


def _table(decoded) -> pa.Table:
    offsets = pa.array(np.concatenate(([0], np.cumsum(decoded.counts["event"]))), pa.int32())
    names = ("offset_ms", "kind", "x", "y", "button", "pressed", "wheel_y", "key_class")
    columns = {name: pa.ListArray.from_arrays(offsets, pa.array(decoded.columns[name])) for name in names}
    return pa.table({"session": [header["session"] for header in decoded.headers], **columns})


def _print(rows: list[Cpu]) -> None:
    floor = rows[0][1]
    for name, cost, parts in rows:
        told = "  " + ", ".join(f"{part} {used:.2f}" for part, used in parts.items()) if parts else ""
        print(f"{name:32} {cost:6.2f} µs an event  {1e6 / cost:>10,.0f} events/s a core  {cost / floor:5.2f}×{told}")
    cost = rows[-1][1]
    print(f"goal {GOAL:,} events/s a core: {'met' if 1e6 / cost >= GOAL else 'MISSED'}")


# What the child processes run.


def _stock(count: int) -> None:
    """A Faust agent as Faust is meant to be used: a message an event, `take`."""
    import faust

    app = faust.App(
        f"bench-stock-{os.getpid()}", broker=f"kafka://{os.environ['TIDEGATE_KAFKA']}", store="memory://",
        web_enabled=False, topic_disable_leader=True, topic_allow_declare=False, broker_session_timeout=6,
        broker_heartbeat_interval=1, datadir=tempfile.mkdtemp(prefix="tidegate-bench-"),
    )  # fmt: skip
    topic = app.topic(TOPIC, value_type=bytes, value_serializer="raw", key_type=bytes, key_serializer="raw")

    async def agent(stream) -> None:
        counter = _counter(count)
        async for messages in stream.take(500, within=0.05):
            counter(len(messages))

    app.agent(topic, name="stock")(agent)
    faust.Worker(app, loglevel="WARN", quiet=True, redirect_stdouts=False).execute_from_commandline()


def _fetch(count: int) -> None:
    """The same with the project's consumer, from the beginning of the log."""
    import asyncio

    from faust.types import TP

    from infra.addresses import Addresses
    from streams.agents_fetch import FetchSchema
    from streams.app import faust_app
    from streams.settings import WorkerSettings

    async def run() -> None:
        app = faust_app("bench-fetch", Addresses.load(), WorkerSettings.from_environment())
        topic = app.topic(TOPIC, schema=FetchSchema(), acks=False)

        async def agent(stream) -> None:
            counter = _counter(count)
            async for fetched in stream:
                counter(len(fetched.records))

        async def assigned(_, tps, **__) -> None:
            for tp in tps:
                starts.append(asyncio.ensure_future(app.consumer.start_at(TP(tp.topic, tp.partition), 0)))

        starts: list = []
        app.on_partitions_assigned.connect(assigned)
        app.agent(topic, name="fetch")(agent)
        await app.start()
        await app.wait_until_stopped()

    asyncio.run(run())


def _counter(count: int) -> Callable[[int], None]:
    """Count messages; at the last, print the CPU seconds since the first and end the process."""
    process = psutil.Process()
    state: dict[str, float] = {"seen": 0}

    def add(messages: int) -> None:
        state.setdefault("before", _seconds(process))
        state["seen"] += messages
        if state["seen"] >= count:
            print(f"\ncpu_seconds={_seconds(process) - state['before']:.3f}\n", flush=True)
            os._exit(0)

    return add


if __name__ == "__main__":
    if len(sys.argv) > 1:
        {"stock": _stock, "fetch": _fetch}[sys.argv[1]](int(sys.argv[2]))
    else:
        main()
