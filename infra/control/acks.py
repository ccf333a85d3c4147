"""Reads control.ack: which gates there are, and whether they have applied what was just written.

    with AckWatch(addresses) as watch, ControlWriter(addresses) as writer:
        written = writer.put(switch)[0]
        answers = watch.wait_applied(SWITCH_TOPIC, written.offset, timeout=2, written=written)

It needs the broker and nothing else. It reads from a little more than the longest
lease ago, so that every gate that can be open is among what it has read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from types import TracebackType

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra.addresses import Addresses
from infra.control.keeper import LEASE_SECONDS
from infra.control.reader import wall_ms
from infra.control.records import ACK_TOPIC, MAX_SKEW_MS, Ack, decode
from infra.control.roll import Answer, Answers, Asked, Gate, Word, answers, gates
from infra.control.writer import Written

__all__ = ["AckWatch", "Answer", "Answers", "Gate", "Word", "read_gates"]

LONGEST_LEASE_MS = int(max(LEASE_SECONDS.values()) * 1000)
_FIRST_STEP = 512
"""How many records to go back at first; then four times as many each time."""
_ANSWER = 0.5
"""Seconds for one answer of the broker."""
_QUIET = 0.1
"""Seconds to listen before it is believed that no gate is left: what was announced a moment ago is on its way."""
_POLL = 0.05
_ROUND = 1_000


class AckWatch:
    """Follows control.ack on a thread of its own. Make it before writing what is to be acknowledged.

    `since_ms` (UTC epoch ms): read every gate that could be open then, or since;
    without it, now. Raises TidegateError when the broker's address is not known.
    Whatever goes wrong later stands in `trouble`, and in the answers.
    """

    def __init__(self, addresses: Addresses, *, since_ms: int | None = None) -> None:
        self._log, self._since = addresses.log, since_ms
        self._words: list[Word] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._read = False
        self.trouble = ""
        """What the broker last answered amiss."""
        self._consumer = Consumer(
            {
                "bootstrap.servers": addresses.need("kafka"),
                # Asked for by the library and used for nothing: the partition is assigned, offsets not committed.
                "group.id": "tidegate-acks",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 25,  # a broker that answers only when this is over (Tansu) is asked often
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,  # `trouble` says it
                "error_cb": self._on_error,
            }
        )
        self._thread = threading.Thread(target=self._run, name="tidegate-acks", daemon=True)
        self._thread.start()

    def __enter__(self) -> AckWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def read_to_end(self) -> bool:
        """Whether everything that was on the topic when this began has been read."""
        return self._read

    def gates(self) -> list[Gate]:
        """Return every gate heard of, in the order in which they were first heard."""
        with self._changed:
            return gates(self._words)

    def wait_read(self, timeout: float) -> bool:
        """Wait until the topic has been read to its end, at most `timeout` seconds; return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._read, timeout)

    def wait_change(self, timeout: float) -> None:
        """Wait until a gate says something, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait(timeout)

    def wait_applied(
        self,
        topic: str,
        offset: int,
        *,
        timeout: float,
        roles: Collection[str] | None = None,
        written: Written | None = None,
        clock: Callable[[], int] = wall_ms,
        on_progress: Callable[[Answers], None] | None = None,
    ) -> Answers:
        """Wait until every gate of these roles has applied an offset, at most `timeout` seconds.

        `written` is how the record was written, if from here: latencies count from
        it, and leases are judged by the broker's clock as it shows there. Otherwise
        `clock` judges them. `on_progress` is called with each new state of affairs.
        """
        began = time.monotonic()
        asked = Asked(topic, offset, self._log, written.at if written else clock(), roles, written)
        told: tuple[int, int] | None = None
        while True:
            with self._changed:
                heard, read = gates(self._words), self._read
            so_far = answers(heard, asked, _broker_ms(written) if written else clock())
            if not read:
                so_far = replace(so_far, read=False, trouble=self.trouble or "no answer yet")
            if on_progress is not None and told != (so_far.done, len(so_far.all)):
                told = so_far.done, len(so_far.all)
                on_progress(so_far)
            waited = time.monotonic() - began
            # An acknowledgement comes after every announcement before it: nothing is missing once one is here.
            if (so_far.complete and (so_far.by("applied") or waited >= _QUIET)) or waited >= timeout:
                return so_far
            self.wait_change(min(_POLL, timeout - waited))

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        self._thread.join(timeout=0.1)  # it ends by itself; a broker that is away must not hold up who asked

    def _on_error(self, error: KafkaError) -> None:
        self.trouble = f"broker: {error.name().strip('_').lower()}"

    def _run(self) -> None:
        try:
            start = self._start()
            self._assign(start)
            while not self._closing.is_set():
                first = self._consumer.poll(_POLL)
                if first is not None:
                    self._take([first, *self._consumer.consume(_ROUND, 0)])
        finally:
            self._consumer.close()

    def _assign(self, offset: int) -> None:
        self._consumer.assign([TopicPartition(ACK_TOPIC, 0, offset)])

    def _start(self) -> int:
        """Return the offset to read from, asking until the broker answers.

        Found by stepping back from the end: brokers that cannot look up times would
        send everything they have. By the newest record's date, not this clock's.
        """
        while not self._closing.is_set():
            try:
                low, high = self._consumer.get_watermark_offsets(TopicPartition(ACK_TOPIC, 0), timeout=_ANSWER)
            except KafkaException as error:
                self.trouble = f"{ACK_TOPIC}: {error.args[0].name().strip('_').lower()}"
                self._closing.wait(_POLL)
                continue
            newest = self._time_of(high - 1) if high > low else None
            if newest is None:
                return OFFSET_BEGINNING
            moment = newest if self._since is None else min(newest, self._since)
            return self._before(moment - LONGEST_LEASE_MS - MAX_SKEW_MS, low, high)
        return OFFSET_BEGINNING

    def _before(self, ms: int, low: int, high: int) -> int:
        step = _FIRST_STEP
        while (start := high - step) > low:
            taken = self._time_of(start)
            if taken is not None and taken < ms:
                return start
            step *= 4
        return OFFSET_BEGINNING

    def _time_of(self, offset: int) -> int | None:
        """Return when the record at an offset was taken; None where the broker does not give it in time."""
        self._assign(offset)
        deadline = time.monotonic() + _ANSWER
        while time.monotonic() < deadline and not self._closing.is_set():
            message = self._consumer.poll(_POLL)
            if message is not None and message.error() is None:
                return int(message.timestamp()[1])
        return None

    def _take(self, messages: list[Message]) -> None:
        words: list[Word] = []
        arrived, ended = time.monotonic(), False
        for message in messages:
            error = message.error()
            if error is None:
                ack = decode(ACK_TOPIC, message.value() or b"")
                if isinstance(ack, Ack):
                    words.append(Word(message.offset() or 0, ack, message.timestamp()[1], arrived))
            elif error.code() == KafkaError._PARTITION_EOF:
                ended = True
            else:
                self.trouble = f"{ACK_TOPIC}: {error.name().strip('_').lower()}"
        with self._changed:
            self._words += words
            self._read = self._read or ended
            self._changed.notify_all()


def read_gates(addresses: Addresses, since_ms: int, timeout: float) -> list[Gate] | None:
    """Return every gate that could be open at a moment (UTC epoch ms), or since, with all it has said since then.

    None where control.ack could not be read to its end within `timeout` seconds.
    """
    with AckWatch(addresses, since_ms=since_ms) as watch:
        return watch.gates() if watch.wait_read(timeout) else None


def _broker_ms(written: Written) -> int:
    """The clock that dated a record, as far as it has certainly come; UTC epoch ms."""
    return written.at + int((time.monotonic() - written.taken) * 1000)
