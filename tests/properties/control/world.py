"""A broker, authorities, gates and minimisers in memory: they run the real control plane on clocks that a test moves.

Only what moves bytes is made up. Records are encoded and decoded, signed and
checked; states, freshness, verdicts and the translation to pseudonyms are the real
functions, called as `reader.py` and the minimiser call them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np

from infra.control import freshness
from infra.control.freshness import Pulse
from infra.control.gate import admit, judge
from infra.control.identity import pseudonym_of
from infra.control.records import (
    HEARTBEAT_TOPIC,
    MAX_SKEW_MS,
    POLICY_TOPIC,
    Heartbeat,
    Record,
    Unreadable,
    decode,
    encode,
    key_of,
    topic_of,
)
from infra.control.state import TOPICS, ControlState, Entry, Mode, View, apply
from schemas.catalogue import KINDS, SOURCE_OF_KIND
from schemas.events import Events
from streams.standing import Translator

BEAT = 0.2
"""Seconds between two heartbeats."""
EVERYTHING = frozenset({*TOPICS["authority"], HEARTBEAT_TOPIC})
PSEUDONYM_KEY = b"p" * 32
APPLICATIONS = ("", "mail")
KINDS_TRIED = tuple(KINDS[name] for name in ("session_start", "pointer_move", "key", "wheel"))
SOURCES_TRIED = tuple(SOURCE_OF_KIND[kind] for kind in KINDS_TRIED)

Passed = frozenset[tuple[str, str, str, int]]
"""What a gate lets through: subject (not pseudonym), source, application, epoch of capture."""


class Message(NamedTuple):
    """A record as it stands on a topic."""

    entry: Entry
    value: bytes | None
    written: float
    """True time, seconds; of a copy, when the original was written."""
    heartbeat: Heartbeat | None = None


@dataclass
class Broker:
    """One life of the log. Its clock is true time, and no two records have the same moment."""

    log: str
    world: World
    topics: dict[str, list[Message]] = field(default_factory=lambda: {topic: [] for topic in EVERYTHING})

    @property
    def ms(self) -> int:
        return int(self.world.now * 1000)

    def write(self, record: Record) -> Message:
        return self.put(topic_of(record), key_of(record), encode(record))

    def put(self, topic: str, key: str, value: bytes | None, written: float | None = None) -> Message:
        now = self.world.moment()
        at, offset = int(now * 1000), len(self.topics[topic])
        record = None if value is None else decode(topic, value, key, at) if key else Unreadable("no_key")
        heartbeat = record if isinstance(record, Heartbeat) else None
        message = Message(Entry(topic, offset, key, record, at), value, now if written is None else written, heartbeat)
        self.topics[topic].append(message)
        return message


class Machine:
    """A machine's clocks: how far its wall clock is off (ms), and what its monotonic clock has gained (s)."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wall_off, self.mono_gained = 0, 0.0
        self.slept, self.leaped = False, False

    def leap(self, seconds: float) -> None:
        self.mono_gained += seconds
        self.leaped = True

    @property
    def wall(self) -> int:
        return int(self.world.now * 1000) + self.wall_off

    @property
    def mono(self) -> float:
        return self.world.now - self.world.start + self.mono_gained


class Reader(Machine):
    """What `ControlReader` does, without its thread and its consumer."""

    def __init__(
        self,
        world: World,
        mode: Mode,
        *,
        only: frozenset[str] | None = None,
        teams: Mapping[str, str] | None = None,
        adopt_log: bool = False,
    ) -> None:
        super().__init__(world)
        self.mode, self.only, self.teams, self.adopt_log = mode, only, teams or {}, adopt_log
        self.cut: frozenset[str] = frozenset()
        """Topics of which nothing arrives."""
        self.pace = 1_000
        """Records that arrive together."""
        self.order: Sequence[str] = TOPICS[mode]
        self.restart()

    def restart(self) -> None:
        self.mono_gained, self.slept, self.leaped = 0.0, False, False
        self._begin(self.world.broker.log, self._empty(self.world.broker.log))
        self._place[HEARTBEAT_TOPIC] = len(self.world.broker.topics[HEARTBEAT_TOPIC])

    def _empty(self, log: str) -> ControlState:
        return ControlState(log, mode=self.mode, only=self.only, teams=self.teams)

    def _begin(self, log: str, state: ControlState) -> None:
        self.state, self.pulse, self.ends = state, Pulse(log), frozenset[str]()
        self._held: list[Entry] = []
        self._place = dict.fromkeys(EVERYTHING, 0)
        self.heard: list[tuple[float, Message]] = []
        """The last heartbeats that were new and dated near this clock, with the monotonic time at which they arrived."""
        self.named = dict.fromkeys(TOPICS["authority"], -1)
        """By topic, the highest offset that one of this log has named."""
        self._newest: dict[str, int] = {}
        self.quickest: dict[str, float] = {}
        """By authority, the shortest time (true, s) from writing a heartbeat to its arrival here."""
        self._latest, self.late_policy, self.epoch_fell = 0, False, False
        """A policy arrived after what the broker took later."""

    def read(self) -> None:
        """Take whatever has come since, topic by topic, heartbeats last."""
        for topic in (*self.order, HEARTBEAT_TOPIC):
            messages = self.world.broker.topics[topic]
            if topic in self.cut:
                continue
            if self._place[topic] > len(messages):
                self._place[topic] = 0  # as a consumer does whose offset is out of range
            while self._place[topic] < len(messages):
                chunk = messages[self._place[topic] : self._place[topic] + self.pace]
                self._place[topic] += len(chunk)
                self._take(topic, chunk)
            self.ends |= {topic}
            self._take(topic, [])
        other = self.pulse.other_log(self.mono)
        if other and self.adopt_log:
            self._begin(other, self.state.restarted(other))

    def _take(self, topic: str, chunk: Sequence[Message]) -> None:
        if topic == HEARTBEAT_TOPIC:
            for message in chunk:
                self._hear(message)
            return
        entries = self._in_order([message.entry for message in chunk])
        for entry in entries:
            taken = entry.timestamp or 0
            if entry.topic != POLICY_TOPIC:
                self._latest = max(self._latest, taken)
            elif taken < self._latest:
                self.late_policy = True
        if entries:
            before, self.state = self.state, apply(self.state, entries, self.wall)
            self.epoch_fell |= self.state.epoch < before.epoch

    def _in_order(self, entries: list[Entry]) -> list[Entry]:
        if POLICY_TOPIC in self.ends:
            ready, self._held = self._held + entries, []
            return sorted(ready, key=lambda entry: entry.topic != POLICY_TOPIC)
        self._held += [entry for entry in entries if entry.topic != POLICY_TOPIC]
        return [entry for entry in entries if entry.topic == POLICY_TOPIC]

    def _hear(self, message: Message) -> None:
        heartbeat = message.heartbeat
        if heartbeat is None:
            return
        self.pulse = freshness.hear(self.pulse, heartbeat, self.mono, self.wall, message.entry.offset)
        name, lateness = heartbeat.authority, self.world.now - message.written
        if heartbeat.sequence > self._newest.get(name, 0) and abs(heartbeat.at - self.wall) <= MAX_SKEW_MS:
            self._newest[name] = heartbeat.sequence
            self.heard = [each for each in self.heard if self.mono - each[0] <= freshness.MAX_AGE + 1e-6]
            self.heard.append((self.mono, message))
            if heartbeat.log == self.state.log:
                self.named = {topic: max(at, heartbeat.applied[topic]) for topic, at in self.named.items()}
            self.quickest[name] = min(lateness, self.quickest.get(name, lateness))

    def view(self) -> View:
        why = freshness.why_closed(self.pulse, self.state, self.ends, self.mono)
        return View(self.state, fresh=not why, why=why)

    def passes(self, subjects: Sequence[str], epochs: Sequence[int], view: View | None = None) -> Passed:
        """Put events of every kind, application, subject and epoch before the gate, and see what comes out."""
        return passes(view or self.view(), subjects, epochs, self.wall)

    def read_anew(self, pace: int) -> ControlState:
        """Return what a gate knows that starts now, and reads as far as this one has."""
        state = self._empty(self.state.log)
        for topic in TOPICS[self.mode]:  # policies come first
            entries = [each.entry for each in self.world.broker.topics[topic][: self.state.applied.get(topic, -1) + 1]]
            for start in range(0, len(entries), pace):
                state = apply(state, entries[start : start + pace], self.wall)
        return state


def passes(view: View, subjects: Sequence[str], epochs: Sequence[int], wall: int) -> Passed:
    """Put events before a gate that goes by this view."""
    batches = [(subject, epoch) for subject in subjects for epoch in epochs]
    names = [_pseudonym(subject) if view.state.mode == "standing" else subject for subject, _ in batches]
    verdicts = [judge(view, name, wall, epoch) for name, (_, epoch) in zip(names, batches, strict=True)]
    events = _events(len(batches))
    admitted, _ = admit(events, verdicts, [APPLICATIONS] * len(batches))
    numbers = admitted.events.columns["number"].tolist()
    return frozenset(_passed(batches[number // len(_TRIED)], *_TRIED[number % len(_TRIED)]) for number in numbers)


_TRIED = [(kind, application) for kind in range(len(KINDS_TRIED)) for application in range(len(APPLICATIONS))]


@cache
def _pseudonym(subject: str) -> str:
    return pseudonym_of(PSEUDONYM_KEY, subject)


@cache
def _events(batches: int) -> Events:
    """Return an event of every kind and application for each batch."""
    kinds, applications = (np.array([each[part] for each in _TRIED] * batches, np.int64) for part in (0, 1))
    columns = {"kind": np.array(KINDS_TRIED)[kinds], "application": applications, "number": np.arange(len(kinds))}
    return Events(np.repeat(np.arange(batches, dtype=np.int32), len(_TRIED)), columns)


def _passed(batch: tuple[str, int], kind: int, application: int) -> tuple[str, str, str, int]:
    return batch[0], SOURCES_TRIED[kind], APPLICATIONS[application], batch[1]


class Authority:
    """Beats while it lives; its clock is off by some ms that clocks may be apart."""

    def __init__(self, world: World, name: str, off_ms: int) -> None:
        self.name, self.off_ms, self.world = name, off_ms, world
        self.reader = Reader(world, "authority")
        self.sequence = 0

    def beat(self) -> None:
        self.reader.read()
        if not self.reader.ends.issuperset(TOPICS["authority"]) or HEARTBEAT_TOPIC in self.reader.cut:
            return
        self.sequence += 1
        applied = {topic: self.reader.state.applied.get(topic, -1) for topic in TOPICS["authority"]}
        at = int(self.world.now * 1000) + self.off_ms
        self.world.broker.write(Heartbeat(self.name, self.world.broker.log, self.sequence, at, applied))


class Minimiser(Reader):
    """A gate that knows subjects, and republishes for those that do not."""

    def __init__(self, world: World, teams: Mapping[str, str]) -> None:
        self.translator = Translator(PSEUDONYM_KEY)
        self.waiting: list[Record] | None = None
        """Made out while the process was stopped in the midst of publishing."""
        super().__init__(world, "consent", teams=teams)

    def restart(self) -> None:
        super().restart()
        self.translator, self.waiting = Translator(PSEUDONYM_KEY), None

    def translate(self, most: int | None = None) -> None:
        """Publish what has changed, or only the first few records of it."""
        view = self.view()
        now = freshness.authority_ms(self.pulse, self.mono)
        if self.waiting is not None or not view.fresh or now is None or self.cut == EVERYTHING:
            return
        records = self.translator.changes(view.state, now)
        for record in records[:most]:
            self.world.broker.write(record)
        if most is None:
            self.translator.published(records)

    def publish_at_once(self) -> None:
        """Publish what has come since the last heartbeat, which the authority has not named yet."""
        self.read()
        self.translate()

    def stop_in_the_midst(self) -> None:
        """Make out what to publish, and be stopped before any of it is sent."""
        now = freshness.authority_ms(self.pulse, self.mono)
        if self.waiting is None and self.view().fresh and now is not None:
            self.waiting = [*self.translator.changes(self.state, now)]

    def go_on(self) -> None:
        if self.waiting is not None and self.cut != EVERYTHING:
            for record in self.waiting:
                self.world.broker.write(record)
            self.translator.published(self.waiting)  # type: ignore[arg-type]
            self.waiting = None


class World:
    """True time, and everything in it."""

    start = 1_700_000_000.0

    def __init__(self, subjects: Sequence[str], teams: Mapping[str, str]) -> None:
        self.now = self.start
        self.lives = 0
        self.authorities: list[Authority] = []
        self.broker = self._new_broker()
        own = frozenset(subjects[:1])
        self.producer = Reader(self, "consent", only=own, teams=teams, adopt_log=True)
        self.minimisers = [Minimiser(self, teams) for _ in range(2)]
        self.downstream = [Reader(self, "standing") for _ in range(2)]
        self.gates = [self.producer, *self.minimisers, *self.downstream]

    def _new_broker(self) -> Broker:
        self.lives += 1
        return Broker(f"log-{self.lives}", self)

    def new_life(self) -> None:
        """The broker begins again with nothing; its authorities end with it."""
        self.broker = self._new_broker()
        self.authorities.clear()

    def moment(self) -> float:
        """A moment that was never before."""
        self.now += 0.001
        return self.now

    def add_authority(self, off_ms: int) -> None:
        self.authorities.append(Authority(self, f"authority-{self.lives}-{int(self.now * 1000)}", off_ms))

    def tick(self) -> None:
        """Let the time between two heartbeats pass: authorities beat, gates read, minimisers translate."""
        self.now += BEAT
        for authority in self.authorities:
            authority.beat()
        for gate in self.gates:
            gate.read()
        for minimiser in self.minimisers:
            minimiser.translate()
