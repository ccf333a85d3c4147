"""What the log's topics hold between two moments, for `tidegate switch proof`.

Records are read by partition from where the broker says that a moment lies, to the
end or to the other moment. A broker that cannot look up times (the embedded one)
names the beginning, which is only slower. Of events nothing is kept but their number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra.addresses import Addresses
from infra.control.proof import Covers
from infra.control.records import MAX_SKEW_MS
from infra.errors import TidegateError
from schemas import wire
from schemas.catalogue import SchemaError, load
from schemas.codec import Codec, Decoded
from schemas.refusals import Refusal
from schemas.registry import Registry

ANSWER_SECONDS = 1.8
"""How long a broker may take to answer at first, before it is said to be silent."""
SILENT_SECONDS = 10.0
"""How long it may then be silent amid what is read."""
_ROUND = 1_000
_POLL = 0.05


class Found(NamedTuple):
    """One record. `at` is its timestamp, UTC epoch ms."""

    partition: int
    offset: int
    key: str
    value: bytes | None
    at: int


class LogReader:
    """Reads topics, one after the other. Without a group, so it disturbs nobody.

    Every method raises TidegateError, naming the broker, when it does not answer or
    has no such topic.
    """

    def __init__(self, addresses: Addresses) -> None:
        self._address = addresses.need("kafka")
        self._heard = False
        self._trouble = ""
        self._consumer = Consumer(
            {
                "bootstrap.servers": self._address,
                # Asked for by the library and used for nothing: partitions are assigned, offsets not committed.
                "group.id": "tidegate-proof",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 25,  # a broker that answers only when this is over (Tansu) is asked often
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,  # what matters is raised
                "error_cb": self._on_error,
            }
        )

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._consumer.close()

    def records(self, topic: str, since: int | None = None, until: int | None = None) -> Iterator[Found]:
        """Yield the records of a topic whose timestamps lie in `since` to `until`, both included; None for no bound."""
        left = {each.partition for each in self._assign(topic, since)}
        heard = time.monotonic()
        while left:
            messages = self._consumer.consume(_ROUND, _POLL)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENT_SECONDS:
                raise self._silent(SILENT_SECONDS)
            for message in messages:
                partition = message.partition()
                if partition not in left:
                    continue
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        left.discard(partition)
                    continue
                at = message.timestamp()[1]
                # Those who write without the broker's clock may be a little out of order.
                if until is not None and at > until + MAX_SKEW_MS:
                    left.discard(partition)
                elif (since is None or at >= since) and (until is None or at <= until):
                    yield _found(message)

    def is_whole(self, topic: str, since: int) -> bool:
        """Say whether the log still holds all that was written to a topic since a moment."""
        for partition in self._partitions(topic):
            low, high = self._watermarks(topic, partition)
            if low > 0 and (high <= low or self._time_of(topic, partition, low) > since):
                return False
        return True

    def _partitions(self, topic: str) -> list[int]:
        try:
            known = self._consumer.list_topics(topic, timeout=SILENT_SECONDS if self._heard else ANSWER_SECONDS)
        except KafkaException:
            raise self._silent(ANSWER_SECONDS) from None
        self._heard = True
        if topic not in known.topics or known.topics[topic].error is not None:
            raise TidegateError(
                f"the broker at {self._address} has no topic {topic}. Create it with `tidegate topics apply`."
            )
        return sorted(known.topics[topic].partitions)

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=SILENT_SECONDS)
        except KafkaException:
            raise self._silent(SILENT_SECONDS) from None
        return low, high

    def _time_of(self, topic: str, partition: int, offset: int) -> int:
        self._consumer.assign([TopicPartition(topic, partition, offset)])
        deadline = time.monotonic() + SILENT_SECONDS
        while time.monotonic() < deadline:
            message = self._consumer.poll(_POLL)
            if message is not None and message.error() is None:
                return int(message.timestamp()[1])
        raise self._silent(SILENT_SECONDS)

    def _assign(self, topic: str, since: int | None) -> list[TopicPartition]:
        places = [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in self._partitions(topic)]
        if since is not None:
            asked = [TopicPartition(topic, place.partition, max(0, since)) for place in places]
            with suppress(KafkaException):  # a broker that cannot say is read from the beginning
                found = self._consumer.offsets_for_times(asked, timeout=SILENT_SECONDS)
                # None so young: there is nothing to read, and its end may be passed by what comes now.
                places = [each for each in found if each.error is None and each.offset >= 0]
                places += [
                    TopicPartition(topic, each.partition, OFFSET_BEGINNING) for each in found if each.error is not None
                ]
        self._consumer.assign(places)
        return places

    def _on_error(self, error: KafkaError) -> None:
        self._trouble = error.name().strip("_").lower()

    def _silent(self, seconds: float) -> TidegateError:
        return TidegateError(
            f"the broker at {self._address} did not answer within {seconds:g} s ({self._trouble or 'no answer'}). "
            "See whether it runs with `tidegate status`; TIDEGATE_KAFKA or --home names another."
        )


def _found(message: Message) -> Found:
    key = message.key()
    name = key.decode(errors="replace") if isinstance(key, bytes) else key or ""
    return Found(message.partition() or 0, message.offset() or 0, name, message.value(), message.timestamp()[1])


class Blocks:
    """Counts the events in minimised blocks that a switch covers. Looks at headers, codes and lengths alone."""

    def __init__(self, addresses: Addresses, covers: Covers) -> None:
        """Raises TidegateError where the registry's address is not known."""
        self._registry = Registry(addresses.need("registry"), deadline_s=ANSWER_SECONDS)
        self._covers = covers
        self._codecs: dict[int, Codec | None] = {}

    def held(self, value: bytes | None) -> int | None:
        """Return how many covered events a block holds; None for what cannot be read.

        Raises RegistryError when the registry does not answer.
        """
        frame = wire.unframe(value)
        codec = None if isinstance(frame, Refusal) else self._codec(frame.schema_id)
        if codec is None or isinstance(frame, Refusal):
            return None
        decoded = codec.decode([frame.body])
        return None if decoded.refused else _held(decoded, self._covers)

    def _codec(self, schema_id: int) -> Codec | None:
        if schema_id not in self._codecs:
            writer = self._registry.writer_schema(schema_id)
            try:
                self._codecs[schema_id] = None if writer is None else Codec(writer, load("minimised_block"))
            except SchemaError:
                self._codecs[schema_id] = None
        return self._codecs[schema_id]


def _held(decoded: Decoded, covers: Covers) -> int:
    """Count events by what is said of them, or batches' events by what is said of the batch."""
    header, columns = decoded.headers[0], decoded.columns
    of_events = {"source": covers.kinds, "application": _places(header["applications"], covers.value)}
    if covers.scope in of_events:
        name = "kind" if covers.scope == "source" else "application"
        return int(np.isin(columns[name], of_events[covers.scope]).sum())
    kept = columns["batch_kept"]
    whose = np.array([name in covers.pseudonyms for name in header["batch_subject"]], np.bool_)
    bits = sum(1 << place for place in _places(header["purposes"], covers.value))
    covered = {"purpose": (columns["batch_purposes"] & bits) != 0, "subject": whose, "others": ~whose}
    return int(kept[covered[covers.scope]].sum() if covers.scope in covered else kept.sum())


def _places(names: Sequence[str], name: str) -> tuple[int, ...]:
    return tuple(place for place, each in enumerate(names) if each == name)
