"""The Faust app of a worker, and its life from start to a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import faust
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError
from faust.exceptions import FaustError
from faust.types import TP

from infra.addresses import Addresses
from infra.control.keeper import GateKeeper
from infra.errors import TidegateError
from infra.metrics import GateMetrics
from infra.progress import Progress
from infra.store import StoreError
from infra.telemetry import logger
from schemas.registry import RegistryError
from streams.agents_fetch import FetchConsumer, Fetched, FetchSchema, FetchTransport
from streams.cursor import Start
from streams.partitions import Partitions, Work
from streams.patience import Outage, Patience, Services
from streams.settings import WorkerSettings

FETCH_MESSAGES = 500
"""Messages of one fetch: 500 of 64 events keep numpy busy for some 20 ms, and fit the memory of a worker."""
FETCH_BYTES = 2 * 1024 * 1024
"""Bytes of one fetch and partition: two of the largest messages there can be."""
SEND_BYTES = 4 * 1024 * 1024
SEND_SECONDS = 10.0
"""How long a send may take before it is tried again."""
STOP_SECONDS = 4.0
NEVER = 7 * 86_400.0
"""The time a worker may wait for its store and keep its partitions. Faust's and
aiokafka's detectors of slow processing mean: leave the group. Waiting would then
become an endless rebalance."""

WorkFor = Callable[[int, Callable[[], None]], Work]
"""Makes the work of a partition; the second argument is what to call as it waits."""
Parts = tuple[WorkFor, list[Coroutine[Any, Any, None]]]
"""The work of partitions, and what else is to run."""
Body = Callable[["Worker"], Awaitable[Parts]]
"""Makes a worker's parts; may wait for the registry."""


class WorkerApp(faust.App):
    """A Faust app that fetches as `streams.agents_fetch` says and leaves no folders behind."""

    def _new_transport(self) -> FetchTransport:
        return FetchTransport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Create nothing: there are no tables."""


def faust_app(role: str, addresses: Addresses, settings: WorkerSettings) -> WorkerApp:
    """Return the app of one role. Its consumer group belongs to one life of the broker's log."""
    return WorkerApp(
        f"tidegate-{role}-{addresses.log}",
        broker=[f"kafka://{server.strip()}" for server in addresses.need("kafka").split(",")],
        autodiscover=False,
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_wait_empty=False,
        stream_buffer_maxsize=4,
        stream_recovery_delay=0.0,
        stream_processing_timeout=NEVER,
        broker_max_poll_interval=NEVER,
        broker_max_poll_records=FETCH_MESSAGES,
        consumer_max_fetch_size=FETCH_BYTES,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=settings.session_timeout_seconds / 5,
        broker_rebalance_timeout=2 * settings.session_timeout_seconds,
        broker_request_timeout=max(30.0, settings.session_timeout_seconds),
        producer_acks=-1,
        # aiokafka's lz4 is the high-compression kind (level 9): 25 ns a byte, beside 4 for zstd, which packs tighter.
        producer_compression_type="zstd",
        producer_linger=0.0,
        producer_max_request_size=SEND_BYTES,
        producer_request_timeout=SEND_SECONDS,
    )


class Worker:
    """One process: a Faust agent that feeds the partitions it owns."""

    def __init__(self, role: str, topic: str, addresses: Addresses, settings: WorkerSettings, gate: GateKeeper) -> None:
        self.addresses = addresses
        self.settings = settings
        self.gate = gate
        self.progress = Progress("partitions", settings.stalled_after_seconds)
        self._role = role
        self._topic = topic
        self._log = logger("streams")
        self._app = faust_app(role, addresses, settings)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gate_metrics = GateMetrics()
        served_at = {"broker": addresses.kafka, "registry": addresses.registry, "store": addresses.store}
        self._outages = {service: Outage(f"the {service}", address) for service, address in served_at.items()}

    async def run(self, body: Body) -> None:
        """Work until cancelled. Raises TidegateError when it cannot go on."""
        work_for, others = await body(self)
        partitions = Partitions(
            self,
            work_for,
            idle_seconds=self.settings.flush_seconds,
            stalled_seconds=self.settings.stalled_after_seconds,
            fail=self._fail,
        )
        self._connect(partitions)
        tasks = [asyncio.create_task(other) for other in (*others, self._watch(partitions))]
        for task in tasks:
            task.add_done_callback(partitions.ended)
        try:
            await self._start()
            stopped = asyncio.ensure_future(self._app.wait_until_stopped())
            await asyncio.wait({self._failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            self._raise()
        finally:
            for task in tasks:
                task.cancel()
            await partitions.revoke()
            await self._stop()

    async def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        """Send one message and return when all replicas have it. Raises KafkaError or FaustError."""
        await self._app.producer.send_and_wait(topic, key, value, partition, None, None)

    def patience(self, beat: Callable[[], None] = lambda: None) -> Services:
        """Make the patience for each service; it calls `beat` as it waits."""
        return Services(**{name: Patience(outage, _may_pass, beat=beat) for name, outage in self._outages.items()})

    async def start_at(self, partition: int, offset: int | None) -> Start:
        """Seek a partition; None means the oldest message. Waits for the broker.

        Raises TidegateError when the broker no longer has the offset, unless the
        settings accept the gap.
        """
        return await self.patience().broker.do(lambda: self._start_at(TP(self._topic, partition), offset))

    def quiet_since(self, partition: int, next_offset: int) -> float | None:
        """Since when the partition has certainly held nothing from `next_offset` on (UTC epoch s), or None."""
        return cast(FetchConsumer, self._app.consumer).quiet_since(TP(self._topic, partition), next_offset)

    async def _start_at(self, tp: TP, offset: int | None) -> Start:
        consumer = cast(FetchConsumer, self._app.consumer)
        first = await consumer.first_offset(tp)
        if offset is not None and first > offset:
            if not self.settings.accept_gap:
                raise TidegateError(
                    f"{tp.topic} partition {tp.partition}: the ledger asks for offset {offset}, the broker's oldest is "
                    f"{first}; {first - offset} messages are gone. Restore them, or set TIDEGATE_ACCEPT_GAP=1 to go on "
                    "without them."
                )
            self._log.warning("messages are gone, going on without them", topic=tp.topic, partition=tp.partition,
                              offset=offset, count=first - offset)  # fmt: skip
        return await consumer.start_at(tp, first if offset is None else max(first, offset))

    def _connect(self, partitions: Partitions) -> None:
        """Let Faust's rebalances and messages reach the partitions."""
        app, topic = self._app, self._app.topic(self._topic, schema=FetchSchema(), acks=False)

        async def revoked(*_: Any, **__: Any) -> None:
            await partitions.revoke()

        async def assigned(_sender: Any, /, *given: Any, **_: Any) -> None:
            await partitions.assign(tp.partition for tp in given[0])

        async def feed(stream: Any) -> None:
            async for fetched in stream:
                assert isinstance(fetched, Fetched)  # noqa: S101 - FetchSchema passes nothing else
                await partitions.feed(fetched.partition, fetched.seek, fetched.records)

        app.on_partitions_revoked.connect(revoked)
        app.on_partitions_assigned.connect(assigned)
        app.agent(topic, name=self._role)(feed)

    async def _start(self) -> None:
        await self.patience().broker.do(self._knock)
        try:
            await self._app.start()
        except (KafkaError, FaustError) as error:
            raise TidegateError(
                f"the broker at {self.addresses.kafka} cannot be used ({type(error).__name__}): "
                "is it running, and do its topics exist? See `tidegate status` and `tidegate topics plan`."
            ) from error

    async def _knock(self) -> None:
        """Connect once: Faust does not wait for a broker, it ends."""
        host, _, port = self.addresses.kafka.split(",")[0].strip().rpartition(":")
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()

    async def _stop(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._app.stop(), STOP_SECONDS)

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def _raise(self) -> None:
        if self._failed.done():
            self._failed.result()
        reason = self._app.crash_reason
        what = type(reason).__name__ if reason is not None else "for no reason that it names"
        raise TidegateError(f"Faust has stopped ({what}); the worker ends, to be started anew.")

    async def _watch(self, partitions: Partitions) -> None:
        """Beat while every partition's loop goes round, and show what the gate knows. Runs until cancelled."""
        counted: dict[tuple[str, str], int] = {}
        while True:
            if partitions.going:
                self.progress.beat()
            self._show_gate(counted)
            await asyncio.sleep(1.0)

    def _show_gate(self, counted: dict[tuple[str, str], int]) -> None:
        metrics, view, age = self._gate_metrics, self.gate.view(), self.gate.heartbeat_age
        metrics.open.set(view.fresh)
        if age is not None:
            metrics.heartbeat_age.set(age)
        for topic, offset in self.gate.applied.items():
            metrics.applied.labels(topic=topic).set(offset)
        for (topic, why), count in view.state.ignored.items():
            metrics.refused_records.labels(topic=topic).inc(count - counted.get((topic, why), 0))
            counted[topic, why] = count


def _may_pass(error: Exception) -> bool:
    """Tell errors that pass by themselves from those that a person, or a programmer, must see."""
    if isinstance(error, StoreError):
        return error.transient
    if isinstance(error, FaustError):  # what a send raises before it has begun
        return not isinstance(error.__cause__, _FOR_A_PERSON)
    if isinstance(error, KafkaError):
        return not isinstance(error, _FOR_A_PERSON)
    return isinstance(error, (RegistryError, OSError, TimeoutError))


_FOR_A_PERSON = (MessageSizeTooLargeError, TopicAuthorizationFailedError)


async def until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or the process is asked to stop. Raises what it raises."""
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


class OnceAMinute(logging.Filter):
    """Lets a library's line through once a minute: aiokafka repeats itself every 100 ms while a broker is away."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the line may pass."""
        key = f"{record.name} {record.msg}"
        now = time.monotonic()
        if now - self._last.get(key, -60.0) < 60.0:
            return False
        self._last[key] = now
        return True
