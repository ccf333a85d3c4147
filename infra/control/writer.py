"""Writes records to the control topics. Needs the broker and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from infra.addresses import Addresses
from infra.control.records import Record, encode, key_of, topic_of
from infra.errors import TidegateError

TIMEOUT = 2.0
"""Seconds until a broker that does not answer is said not to."""


class ControlWriter:
    """Writes control records, each acknowledged by all replicas before it counts as written.

    Raises TidegateError when the broker's address is not known.
    """

    def __init__(self, addresses: Addresses, timeout: float = TIMEOUT) -> None:
        self._address = addresses.need("kafka")
        self._timeout = timeout
        self._producer = Producer(
            {
                "bootstrap.servers": self._address,
                "acks": "all",
                "linger.ms": 0,
                "message.timeout.ms": int(timeout * 1000),
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
        """Write records in order and return their offsets, each in its own topic.

        Raises TidegateError, naming the broker, when not all were acknowledged in
        time; how many were is said, since those stand.
        """
        offsets: list[int] = []
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                offsets.append(message.offset() or 0)
            else:
                failed.append(error)

        for record in records:
            self._enqueue(record, delivered)
        # A large file of consents takes as long as it takes; each record has its own deadline.
        while len(offsets) + len(failed) < len(records):
            self._producer.poll(0.05)
        if failed:
            raise self._explain(failed[0], len(offsets), records)
        return offsets

    def _enqueue(self, record: Record, delivered: Callable[[KafkaError | None, Message], None]) -> None:
        deadline = time.monotonic() + self._timeout
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

    def _explain(self, error: KafkaError, written: int, records: Sequence[Record]) -> TidegateError:
        partly = f" {written} of {len(records)} records were written." if written else ""
        topic = topic_of(records[0])
        try:
            known = self._producer.list_topics(timeout=0.5).topics
        except KafkaException:
            return self._silent(partly)
        if topic not in known or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return TidegateError(
                f"the broker at {self._address} has no topic {topic}.{partly} Create it with `tidegate topics apply`."
            )
        return TidegateError(
            f"the broker at {self._address} did not take the record for {topic}: {error.str()}.{partly} Try again; "
            "if it goes on, look at the broker's log."
        )

    def _silent(self, partly: str = "") -> TidegateError:
        return TidegateError(
            f"the broker at {self._address} did not answer within {self._timeout:g} s.{partly} "
            "See whether it runs with `tidegate status`; TIDEGATE_KAFKA or --home names another."
        )

    def close(self) -> None:
        """Drop what is left; `write` leaves nothing unless it raised."""
        self._producer.purge()
        self._producer.flush(0.1)
