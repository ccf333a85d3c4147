"""A gate's own reader of the control topics, on a thread of its own.

It has its own consumer without a group: every gate reads everything, from the
beginning, and nobody's rebalance can stop it. Whatever goes wrong shows as a view
that is not fresh, never as an exception in the host: the broker away, a topic
missing, records that cannot be read, even a bug that ends the thread, since a
view without new heartbeats is stale within a second.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from infra.addresses import Addresses
from infra.control import freshness
from infra.control.freshness import Pulse
from infra.control.records import HEARTBEAT_TOPIC, POLICY_TOPIC, Heartbeat, Unreadable, decode
from infra.control.state import TOPICS, ControlState, Entry, Mode, View, apply

OnChange = Callable[[ControlState, Sequence[Entry]], None]
"""Called with the new state and the records that led to it; no records means: begin anew from the state."""

_SILENCE = 2.0
"""Seconds without a heartbeat after which its topic is looked up anew: a broker that
lost its log may be behind the offset waited for, and some then answer nothing at all."""
_POLL = 0.1
_ROUND = 1_000

logging.getLogger("tidegate").addHandler(logging.NullHandler())  # a library: the host decides what is shown


def wall_ms() -> int:
    """Return UTC epoch ms."""
    return time.time_ns() // 1_000_000


def _settings(address: str) -> dict[str, object]:
    return {
        "bootstrap.servers": address,
        # Asked for by the library and used for nothing: partitions are assigned, offsets not committed.
        "group.id": "tidegate-control",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        # Control topics are small, and a producer may use 60 MB in all.
        "queued.max.messages.kbytes": 1024,
        "fetch.message.max.bytes": 262_144,
        # How late a switch is seen on a broker that answers a fetch only when this is over (Tansu):
        # 13 ms on average, at 4 % of a core of such a broker for each reader. Others answer at once.
        "fetch.wait.max.ms": 25,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        # A topic that is not there yet is looked for again each second.
        "topic.metadata.refresh.interval.ms": 1000,
        # Its own lines come dozens a second while the broker is away; `trouble` says it.
        "log_level": 0,
    }


class ControlReader:
    """Follows the control topics and says at any moment what a gate may go by.

    `subjects` limits whose consents are held in memory (mode `consent`): a
    producer needs only its own. `teams` says by subject who is in which. `adopt_log`: when the broker begins a new life
    under another log, drop everything and read that one (a producer outlives the
    broker); without it the view stays closed (a worker is started anew).

    Raises TidegateError when the broker's address is not known.
    """

    def __init__(
        self,
        addresses: Addresses,
        mode: Mode,
        *,
        subjects: frozenset[str] | None = None,
        adopt_log: bool = False,
        teams: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = wall_ms,
    ) -> None:
        self._clock, self._wall = clock, wall
        self._adopt_log = adopt_log
        self._topics = TOPICS[mode]
        self._now = (
            ControlState(log=addresses.log, mode=mode, only=subjects, teams=teams or {}),
            Pulse(log=addresses.log),
            frozenset[str](),
        )
        self._trouble = ""
        self._answered = False
        self._held: list[Entry] = []
        self._callbacks: list[OnChange] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._last_heartbeat = clock()
        self._address = addresses.need("kafka")
        self._consumer = Consumer({**_settings(self._address), "error_cb": self._on_error})
        self._thread = threading.Thread(target=self._run, name="tidegate-control", daemon=True)
        self._thread.start()

    def __enter__(self) -> ControlReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def view(self) -> View:
        """Return what a gate may go by now. Cheap: a few microseconds, no lock, no I/O."""
        state, pulse, ends = self._now
        mono = self._clock()
        why = freshness.why_closed(pulse, state, ends, mono) or freshness.why_clock_is_wrong(pulse, mono, self._wall())
        if why and self._trouble:
            why = f"{why} ({self._trouble})"
        return View(state, fresh=not why, why=why)

    @property
    def applied(self) -> dict[str, int]:
        """By control topic, the last offset applied; -1 where there is none."""
        state = self._now[0]
        return {topic: state.applied.get(topic, -1) for topic in self._topics}

    @property
    def read_to_end(self) -> bool:
        """Whether every topic has been read to its end once since it was read from the beginning."""
        return self.has_read(*self._topics)

    def has_read(self, *topics: str) -> bool:
        """Whether these topics have been read to their end once since they were read from the beginning."""
        return self._now[2].issuperset(topics)

    @property
    def log_lost(self) -> bool:
        """Whether the broker has begun again with an empty log of the same name."""
        return self._now[1].log_lost

    @property
    def trouble(self) -> str:
        """What the broker last answered amiss, or "" since the last heartbeat."""
        return self._trouble

    @property
    def authority_ms(self) -> int:
        """The authority's clock, UTC epoch ms; the local one until an authority has been heard."""
        told = freshness.authority_ms(self._now[1], self._clock())
        return self._wall() if told is None else told

    @property
    def answered(self) -> bool:
        """Whether the broker has answered anything at all."""
        return self._answered

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since the freshest live heartbeat was sent, on the local monotonic clock; None without one."""
        recent = self._now[1].recent()
        return None if recent is None else self._clock() - recent

    def wait_for(self, condition: Callable[[View], bool], timeout: float) -> View:
        """Wait until `condition` holds for the view, at most `timeout` seconds, and return the last view."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                view, left = self.view(), deadline - time.monotonic()
                if condition(view) or left <= 0 or self._closing.is_set():
                    return view
                self._changed.wait(min(left, 0.2))

    def wait_fresh(self, timeout: float) -> View:
        """Wait for a fresh view, at most `timeout` seconds; look at `.fresh` and `.why` of what comes back."""
        return self.wait_for(lambda view: view.fresh, timeout)

    def on_change(self, callback: OnChange) -> None:
        """Call `callback` with the state as it is now, and from the reader's thread after every change.

        It is called in the order of the topics and misses nothing. While it runs
        nothing is applied; an exception in it ends the reader, and the gate closes.
        """
        with self._changed:
            callback(self._now[0], ())
            self._callbacks.append(callback)

    def close(self) -> None:
        """Stop reading. The last view grows stale by itself."""
        self._closing.set()
        self._thread.join(timeout=5)

    def _assign(self, offsets: dict[str, int]) -> None:
        self._consumer.assign(
            [TopicPartition(topic, 0, offset) for topic, offset in {**offsets, HEARTBEAT_TOPIC: OFFSET_END}.items()]
        )

    def _on_error(self, error: KafkaError) -> None:
        self._trouble = f"broker {self._address}: {error.name().strip('_').lower()}"

    def _run(self) -> None:
        try:
            # Connects and learns who leads the topics; without it the first look-up of an offset waits 500 ms.
            with contextlib.suppress(KafkaException):
                self._consumer.list_topics(timeout=1)
                self._answered = True
            self._assign(dict.fromkeys(self._topics, OFFSET_BEGINNING))
            while not self._closing.is_set():
                first = self._consumer.poll(_POLL)
                if first is not None:
                    self._take([first, *self._consumer.consume(_ROUND, 0)])
                if self._clock() - self._last_heartbeat > _SILENCE:
                    self._look_again()
        finally:
            if not self._closing.is_set():
                self._trouble = "the reader has ended by a defect: start this process anew"
            self._consumer.close()

    def _look_again(self) -> None:
        """Read on where each topic stands, and heartbeats from wherever their topic ends now."""
        self._last_heartbeat = self._clock()
        self._assign({topic: offset + 1 if offset >= 0 else OFFSET_BEGINNING for topic, offset in self.applied.items()})

    def _take(self, messages: Sequence[Message]) -> None:
        state, pulse, ends = self._now
        entries: list[Entry] = []
        for message in messages:
            self._answered = True
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    ends |= {_topic(message)}
                else:
                    self._trouble = f"{_topic(message)}: {error.name().strip('_').lower()}"
            elif message.topic() == HEARTBEAT_TOPIC:
                pulse = self._hear(pulse, message)
            else:
                entries.append(_entry(message))
        other = pulse.other_log(self._clock())
        if other and self._adopt_log:
            self._adopt(state, other)
            return
        entries = self._in_order(entries, ends)
        if entries:
            state = apply(state, entries, self._wall())
        with self._changed:
            self._now = (state, pulse, ends)
            if entries:
                for callback in self._callbacks:
                    callback(state, entries)
            self._changed.notify_all()

    def _in_order(self, entries: list[Entry], ends: frozenset[str]) -> list[Entry]:
        """Return what can be applied now: who may sign for what stands in the policies, so those come first."""
        if POLICY_TOPIC in ends:
            ready, self._held = self._held + entries, []
            # Stable: within a topic the order of the offsets stays.
            return sorted(ready, key=lambda entry: entry.topic != POLICY_TOPIC)
        self._held += [entry for entry in entries if entry.topic != POLICY_TOPIC]
        return [entry for entry in entries if entry.topic == POLICY_TOPIC]

    def _hear(self, pulse: Pulse, message: Message) -> Pulse:
        heartbeat = decode(HEARTBEAT_TOPIC, message.value() or b"")
        if not isinstance(heartbeat, Heartbeat):
            return pulse
        self._last_heartbeat = self._clock()
        self._trouble = ""
        return freshness.hear(pulse, heartbeat, self._clock(), self._wall(), message.offset())

    def _adopt(self, state: ControlState, log: str) -> None:
        """Begin anew with another log; closed until it has been read to its end and its authority heard."""
        with self._changed:
            fresh_start = state.restarted(log)
            self._now = (fresh_start, Pulse(log=log), frozenset())
            self._held = []
            for callback in self._callbacks:
                callback(fresh_start, ())
            self._changed.notify_all()
        self._assign(dict.fromkeys(self._topics, OFFSET_BEGINNING))


def _entry(message: Message) -> Entry:
    topic, offset, value, key = _topic(message), message.offset() or 0, message.value(), message.key()
    kind, taken = message.timestamp()
    timestamp = None if kind == TIMESTAMP_NOT_AVAILABLE else taken
    try:
        name = key.decode() if isinstance(key, bytes) else key or ""
    except UnicodeDecodeError:
        name = ""
    if value is None:
        return Entry(topic, offset, name, None, timestamp)
    record = decode(topic, value, name, timestamp or 0) if name else Unreadable("no_key")
    return Entry(topic, offset, name, record, timestamp)


def _topic(message: Message) -> str:
    return message.topic() or ""
