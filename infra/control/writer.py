"""Writes records to the control topics. Needs the broker and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from infra.addresses import Addresses
from infra.control.records import Record, encode, key_of, topic_of
from infra.errors import TidegateError

ANSWER_SECONDS = 1.2
"""How long a broker may take to answer anything at all, before it is said to be silent."""
TAKE_SECONDS = 5.0
"""How long one that does answer may then take for a record: a machine under load takes its time."""


class Written(NamedTuple):
    """How a record was written."""

    offset: int
    at: int
    """Its date: when the broker took it or, on a broker that does not say, when it was sent; UTC epoch ms."""
    began: float
    """When it was handed over to be sent, monotonic s."""
    taken: float
    """When the broker's word came that it has it, monotonic s."""


class ControlWriter:
    """Writes control records, each acknowledged by all replicas before it counts as written.

    `timeout` is how long the broker may take to answer the first time, in seconds.
    Raises TidegateError when the broker's address is not known.
    """

    def __init__(self, addresses: Addresses, timeout: float = ANSWER_SECONDS) -> None:
        self._address = addresses.need("kafka")
        self._timeout, self._made = timeout, time.monotonic()
        self._topics: frozenset[str] = frozenset()
        self._producer = Producer(
            {
                "bootstrap.servers": self._address,
                "acks": "all",
                "linger.ms": 0,
                "message.timeout.ms": int(TAKE_SECONDS * 1000),
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,  # what matters comes back as an error
            }
        )

    def __enter__(self) -> ControlWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def write(self, *records: Record) -> list[int]:
        """Write records in order and return their offsets, each in its own topic; raises as `put` does."""
        return [written.offset for written in self.put(*records)]

    def put(self, *records: Record) -> list[Written]:
        """Write records in order and return how each was written.

        Raises TidegateError, naming the broker, when not all were acknowledged in
        time; how many were is said, since those stand.
        """
        self._reach(topic_of(record) for record in records)
        written: list[Written] = []
        failed: list[KafkaError] = []
        for record in records:
            self._enqueue(record, partial(self._delivered, written, failed, time.monotonic()))
        # A large file of consents takes as long as it takes; each record has its own deadline.
        while len(written) + len(failed) < len(records):
            self._producer.poll(0.05)
        if failed:
            raise self._refused(failed[0], len(written), records)
        return written

    def _delivered(
        self, written: list[Written], failed: list[KafkaError], began: float, error: KafkaError | None, taken: Message
    ) -> None:
        if error is None:
            written.append(Written(taken.offset() or 0, taken.timestamp()[1], began, time.monotonic()))
        else:
            failed.append(error)

    def _reach(self, topics: Iterable[str]) -> None:
        """Ask the broker for its topics, once: one that is away, or lacks a topic, is found out before writing."""
        missing = sorted(set(topics) - self._topics)
        if not missing:
            return
        try:
            self._topics = frozenset(self._producer.list_topics(timeout=self._timeout).topics)
        except KafkaException:
            raise self._silent() from None
        missing = sorted(set(missing) - self._topics)
        if missing:
            raise TidegateError(
                f"the broker at {self._address} has no topic {missing[0]}. Nothing was written. "
                "Create it with `tidegate topics apply`."
            )

    def _enqueue(self, record: Record, delivered: Callable[[KafkaError | None, Message], None]) -> None:
        deadline = time.monotonic() + TAKE_SECONDS
        while True:
            try:
                self._producer.produce(
                    topic_of(record), key=key_of(record).encode(), value=encode(record), on_delivery=delivered
                )
            except BufferError:
                # Not enqueued: the queue is full until the broker has taken some.
                if time.monotonic() > deadline:
                    raise self._silent() from None
                self._producer.poll(0.05)
            else:
                return

    def _refused(self, error: KafkaError, written: int, records: Sequence[Record]) -> TidegateError:
        partly = f" {written} of {len(records)} records were written." if written else ""
        return TidegateError(
            f"the broker at {self._address} did not take the record for {topic_of(records[0])}: {error.str()}.{partly} "
            "It may have it all the same if it answered too late. Try again; if it goes on, look at the broker's log."
        )

    def _silent(self) -> TidegateError:
        return TidegateError(
            f"the broker at {self._address} did not answer within {time.monotonic() - self._made:.1f} s. "
            "See whether it runs with `tidegate status`; TIDEGATE_KAFKA or --home names another."
        )

    def close(self) -> None:
        """Drop what is left; `write` leaves nothing unless it raised."""
        self._producer.purge()
        self._producer.flush(0.1)
