"""Follows control.heartbeat as the gates do, and remembers every heartbeat."""

from __future__ import annotations

import threading

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from infra.addresses import Addresses
from infra.control.records import HEARTBEAT_TOPIC, Heartbeat, decode


class Heartbeats:
    """All of one life of a log, in its order."""

    def __init__(self, addresses: Addresses) -> None:
        self._all: list[Heartbeat] = []
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": addresses.kafka,
                "group.id": "test-heartbeats",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(HEARTBEAT_TOPIC, 0, OFFSET_BEGINNING)])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    @property
    def count(self) -> int:
        """How many there have been."""
        return len(self._all)

    def authorities(self) -> set[str]:
        """Who has beaten."""
        return {each.authority for each in self._all}

    def silence_before(self, authority: str) -> tuple[int, int]:
        """Return when the last heartbeat before an authority's first one was sent, and when that was, UTC epoch ms."""
        first = next(n for n, each in enumerate(self._all) if each.authority == authority)
        return max(each.at for each in self._all[:first]), self._all[first].at

    def _run(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(100, 0.1):
                heard = decode(HEARTBEAT_TOPIC, message.value() or b"") if message.error() is None else None
                if isinstance(heard, Heartbeat):
                    self._all.append(heard)
