"""Sends encoded batches to Kafka in the background, through the spool while Kafka is away.

One thread owns the client, the spool and all state, and goes round one loop:

* Spool empty: batches go from the inbox straight to Kafka.
* A batch fails (not taken within the delivery timeout), or nothing moves while
  the inbox fills: what librdkafka still holds is taken back, and once every
  outcome is known all that failed goes to the spool, in the order it came.
* Spool not empty: the inbox goes to the spool, and the spool to Kafka, so the
  order stays. What Kafka acknowledges is acknowledged in the spool at once.

Delivery is at least once. The broker recognises what librdkafka sends again
(idempotence); what the spool sends again, because an acknowledgement was lost
with a connection or a process, is a new message with the same session and
`first_number`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as KafkaClient

from infra.progress import Progress
from producers.message import Message, Sent, from_spool, to_spool
from producers.settings import TOPIC, ProducerSettings
from producers.spool import Spool
from schemas.registry import RegistryError
from schemas.wire import FRAME_SIZE, frame

if TYPE_CHECKING:
    from infra.metrics import ProducerMetrics

_log = logging.getLogger("tidegate.publisher")
# Its own words, which no level silences; what matters in them comes as an error.
_librdkafka = logging.getLogger("tidegate.publisher.librdkafka")
_librdkafka.propagate = False
_librdkafka.addHandler(logging.NullHandler())

# A batch that fails with one of these fails for ever: sending it again would block all that follows.
_HOPELESS = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError._INVALID_ARG})

_STALL_S = 1.0
"""Without any outcome for so long while the inbox is more than half full, the broker counts as away."""
_ID_WAIT_S = 2.0
"""How long batches wait in memory for the schema id; a registry that is up answers in under one second."""
_BACKOFF_S = (0.5, 5.0)
_WINDOW_MAX = 256
"""Spooled batches in flight: about 256 KB, and at most so many are sent twice when the process is killed."""


@dataclass(slots=True)
class Counts:
    """Running totals of one publisher."""

    delivered_batches: int = 0
    delivered_events: int = 0
    failures: int = 0
    undeliverable_batches: int = 0


class Publisher:
    """Owns the Kafka client. `submit` may be called from any thread, the rest of the work is its own."""

    def __init__(
        self,
        kafka: str,
        resolve: Callable[[], int],
        fingerprint: bytes,
        spool: Spool,
        settings: ProducerSettings,
        metrics: ProducerMetrics | None = None,
    ) -> None:
        """Start to send to `kafka`. `resolve` returns the schema id, or raises RegistryError and is asked again."""
        self.counts = Counts()
        self.progress = Progress("publisher", 30.0)
        self._kafka = kafka
        self._resolve = resolve
        self._fingerprint = fingerprint
        self._spool = spool
        self._settings = settings
        self._metrics = metrics
        self._inbox: deque[Message] = deque()
        self._inbox_bytes = 0
        self._changed = threading.Condition()
        self._sent: dict[int, Sent] = {}
        self._sent_bytes = 0
        self._sequence = 0
        self._failed: list[tuple[int, Sent]] = []
        self._acknowledged: list[int] = []
        self._schema_id = 0
        self._started = self._last_outcome = self._last_sync = time.monotonic()
        self._window = 1
        self._backoff = _BACKOFF_S[0]
        self._not_before = 0.0
        self._fatal = self._giving_up = self._stopping = False
        self._registry_asked = threading.Event()
        self._client = self._connect()
        threading.Thread(target=self._find_schema_id, name="tidegate-schema-id", daemon=True).start()
        self._thread = threading.Thread(target=self._run, name="tidegate-publisher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Batches whose fate is open: in the inbox, or with librdkafka."""
        return len(self._inbox) + len(self._sent)

    @property
    def spooled(self) -> int:
        """Batches on disk that Kafka has not acknowledged."""
        return len(self._spool)

    @property
    def gave_up(self) -> bool:
        """Whether nothing more is sent, only spooled."""
        return self._giving_up

    def submit(self, message: Message, *, force: bool = False) -> bool:
        """Put a batch into the inbox; False when that is full. `force` is for a source that has waited for room."""
        with self._changed:
            if not force and self._inbox_bytes + len(message.body) > self._settings.inbox_bytes:
                return False
            self._inbox.append(message)
            self._inbox_bytes += len(message.body)
            self._changed.notify_all()
        return True

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until the inbox is at most half full; False when that took longer."""
        half = self._settings.inbox_bytes // 2
        with self._changed:
            return self._changed.wait_for(lambda: self._inbox_bytes <= half, timeout_s)

    def wait_registry(self, timeout_s: float) -> bool:
        """Wait until the registry has answered, or could not be asked, once; False when that took longer."""
        return self._registry_asked.wait(timeout_s)

    def give_up(self) -> None:
        """Stop sending and move what Kafka has not taken to the spool, at once."""
        with self._changed:
            self._giving_up = True
            self._changed.notify_all()

    def close(self, timeout_s: float) -> None:
        """Give up what is still open, stop the thread and let go of the spool."""
        self.give_up()
        self._stopping = True
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._spool.close()

    def _find_schema_id(self) -> None:
        pause = _BACKOFF_S[0]
        while not self._stopping:
            try:
                self._schema_id = self._resolve()
            except RegistryError as error:
                _log.warning("schema id not known yet, batches are spooled", extra={"error": str(error)})
            self._registry_asked.set()
            if self._schema_id:
                return
            time.sleep(pause)
            pause = min(2 * pause, _BACKOFF_S[1])

    def _connect(self) -> KafkaClient:
        settings = self._settings
        return KafkaClient(
            {
                "bootstrap.servers": self._kafka,
                "client.id": "tidegate-producer",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": settings.linger_ms,
                "queue.buffering.max.kbytes": settings.queue_kbytes,
                "delivery.timeout.ms": settings.delivery_timeout_ms,
                # A request that hangs must end before the message does, so that it can be tried once more.
                "request.timeout.ms": max(1000, settings.delivery_timeout_ms // 2),
                "socket.timeout.ms": max(1000, settings.delivery_timeout_ms // 2),
                "reconnect.backoff.max.ms": 1000,
                # The same partition for a session as a Java client would choose.
                "partitioner": "murmur2_random",
                "log_level": 0,
                "error_cb": self._on_error,
            },
            logger=_librdkafka,
        )

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = True
        _log.debug("kafka client", extra={"error": error.name(), "address": self._kafka})

    def _poll(self, timeout_s: float) -> None:
        """Serve delivery reports. A client that is broken for good raises here, whatever its callback has noted."""
        try:
            self._client.poll(timeout_s)
        except KafkaException as error:
            self._on_error(error.args[0])

    def _run(self) -> None:
        while True:
            self._step()
            if self._stopping and not self._sent and not self._inbox:
                return

    def _step(self) -> None:
        self.progress.beat()
        self._poll(0.02 if self._sent else 0)
        self._acknowledge()
        if self._failed or self._fatal or self._giving_up or self._stalled():
            self._settle()
        if self._giving_up:
            self._inbox_to_spool()
        elif len(self._spool):
            self._inbox_to_spool()
            self._spool_to_kafka()
        elif self._schema_id:
            self._inbox_to_kafka()
        elif time.monotonic() - self._started > _ID_WAIT_S:
            self._inbox_to_spool()
        self._housekeeping()
        with self._changed:
            idle = not self._sent and (not self._inbox or not self._schema_id)
            if idle and not (self._stopping or (len(self._spool) and self._schema_id and not self._resting())):
                self._changed.wait(0.1)

    def _stalled(self) -> bool:
        if self._settings.when_full == "wait" or not self._sent:
            return False
        crowded = self._inbox_bytes * 2 > self._settings.inbox_bytes
        return crowded and time.monotonic() - self._last_outcome > _STALL_S

    def _resting(self) -> bool:
        return time.monotonic() < self._not_before

    def _inbox_to_kafka(self) -> None:
        while self._inbox and self._sent_bytes < self._settings.unacknowledged_bytes:
            if not self._produce(Sent(self._inbox[0], None), self._schema_id):
                return
            self._take()

    def _spool_to_kafka(self) -> None:
        while self._schema_id and not self._resting() and len(self._sent) < self._window:
            found = self._spool.read()
            if found is None:
                return
            number, payload = found
            message, schema_id = from_spool(payload, self._schema_id, self._fingerprint)
            if not schema_id:
                # Spooled by a program with another schema before it knew the id: nobody could read it.
                self._lose(Sent(message, number))
            elif not self._produce(Sent(message, number), schema_id):
                self._failed.append((self._sequence, Sent(message, number)))
                return

    def _inbox_to_spool(self) -> None:
        while self._inbox:
            message = self._inbox[0]
            taken = self._spool.append(to_spool(message, self._schema_id, self._fingerprint))
            if not taken and self._settings.when_full == "wait" and not self._giving_up:
                return
            self._take()
            message.settled("" if taken else "spool_full")

    def _take(self) -> None:
        with self._changed:
            self._inbox_bytes -= len(self._inbox.popleft().body)
            self._changed.notify_all()

    def _produce(self, sent: Sent, schema_id: int) -> bool:
        """Hand one message to librdkafka; False when its queue is full and polling for 0.1 s made no room."""
        message = sent.message
        value = frame(schema_id, message.body)
        sequence = self._sequence
        for wait in (0.1, 0.0):
            try:
                self._client.produce(TOPIC, value, message.key, on_delivery=partial(self._on_delivery, sequence))
            except BufferError:
                # Not enqueued. Delivery reports make room.
                self._poll(wait)
            except KafkaException as error:
                # Refused before it was queued: too large for the client itself, or the client is broken for good.
                self._fatal = self._fatal or error.args[0].fatal()
                if not self._fatal:
                    self._lose(sent)
                return not self._fatal
            else:
                self._sequence += 1
                self._sent[sequence] = sent
                self._sent_bytes += len(message.body)
                return True
        return False

    def _on_delivery(self, sequence: int, error: KafkaError | None, _: Any) -> None:
        sent = self._sent.pop(sequence, None)
        if sent is None:
            return  # It had been given up already; a client that was replaced still reports.
        self._sent_bytes -= len(sent.message.body)
        self._last_outcome = time.monotonic()
        if error is None:
            self._delivered(sent)
        elif error.code() in _HOPELESS:
            self._lose(sent)
        else:
            self._failed.append((sequence, sent))

    def _delivered(self, sent: Sent) -> None:
        self.counts.delivered_batches += 1
        self.counts.delivered_events += sent.message.events
        self._window = min(2 * self._window, _WINDOW_MAX)
        self._backoff = _BACKOFF_S[0]
        if self._metrics is not None:
            self._metrics.batches.inc()
            self._metrics.sent_bytes.inc(len(sent.message.body) + FRAME_SIZE)
        if sent.number is not None:
            self._acknowledged.append(sent.number)
        sent.message.settled("")

    def _lose(self, sent: Sent) -> None:
        self.counts.undeliverable_batches += 1
        _log.warning("batch undeliverable", extra={"events": sent.message.events, "bytes": len(sent.message.body)})
        if sent.number is not None:
            self._acknowledged.append(sent.number)
        sent.message.settled("undeliverable")

    def _acknowledge(self) -> None:
        if self._acknowledged:
            self._spool.ack(self._acknowledged)
            self._acknowledged = []

    def _settle(self) -> None:
        """Take back what librdkafka holds, wait for every outcome, and put what failed where it keeps its order."""
        self._await_outcomes()
        self._acknowledge()
        failed, self._failed = sorted(self._failed, key=lambda item: item[0]), []
        if failed or self._fatal:
            # An idempotent client with a gap in its sequence numbers has lost its place with the broker: begin anew.
            self._client, self._fatal = self._connect(), False
        if not failed:
            return
        self.counts.failures += len(failed)
        if self._metrics is not None:
            self._metrics.failures.inc(len(failed))
        if not self._resting() and not self._giving_up:
            _log.warning("kafka does not answer, batches are spooled", extra={"batches": len(failed)})
        self._window = 1
        self._not_before = time.monotonic() + self._backoff
        self._backoff = min(2 * self._backoff, _BACKOFF_S[1])
        self._spool.rewind()
        # What came from the inbox is older than anything in it, so it goes back to its front.
        with self._changed:
            for _, sent in reversed(failed):
                if sent.number is None:
                    self._inbox.appendleft(sent.message)
                    self._inbox_bytes += len(sent.message.body)
        self._inbox_to_spool()

    def _await_outcomes(self) -> None:
        self._client.purge(in_queue=True, in_flight=self._giving_up or self._fatal)
        # Requests in flight end by their own timeout; a little more for the broken clock of a laptop that slept.
        limit = time.monotonic() + self._settings.delivery_timeout_ms / 1000 + 5
        while self._sent and time.monotonic() < limit:
            self.progress.beat()
            self._poll(0.05)
            if self._giving_up:
                self._client.purge(in_queue=True, in_flight=True)
        for sequence, sent in self._sent.items():
            self._failed.append((sequence, sent))
        self._sent, self._sent_bytes = {}, 0

    def _housekeeping(self) -> None:
        now = time.monotonic()
        if now - self._last_sync >= 1.0:
            self._last_sync = now
            self._spool.sync()
            if self._metrics is not None:
                self._metrics.queue_batches.set(self.waiting)
                self._metrics.spool_batches.set(len(self._spool))
                self._metrics.spool_bytes.set(self._spool.size)
