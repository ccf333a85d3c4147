"""Who has a gate, and what each has said, from the records of control.ack. Pure: every moment is an argument.

A gate is open only while its announcement is on the topic and its lease has not run
out (`keeper.py`), so the words of the last few minutes name every gate that can be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from infra.control.records import Ack
from infra.control.writer import Written

How = Literal["applied", "left", "closed", "missing"]
"""A gate's answer: it has applied the record, has ended, cannot be open, or has not been heard to do any of that."""


_GRACE_MS = 1_000
"""Added to a lease: it is judged by another clock than the gate's, and these part by 0.3 s in the longest."""
_RECENT_MS = 300_000
"""For how long a gate whose lease has run out is still worth naming."""


class Word(NamedTuple):
    """One record of control.ack, as it was read."""

    offset: int
    ack: Ack
    at: int
    """When the broker took it, UTC epoch ms; on a broker that does not say, when the gate said it."""
    arrived: float
    """When it was read here, monotonic s."""

    @property
    def lease_until(self) -> int:
        """When the gate has certainly closed on this word, UTC epoch ms by the clock that dated it."""
        return self.at + self.ack.lease_ms + _GRACE_MS


@dataclass(frozen=True, slots=True)
class Gate:
    """What one gate has said, oldest first; never nothing."""

    words: tuple[Word, ...]

    @property
    def last(self) -> Word:
        """Its last word."""
        return self.words[-1]

    @property
    def name(self) -> str:
        """Its identifier, new with each start of its process."""
        return self.last.ack.gate

    @property
    def role(self) -> str:
        """What its process does."""
        return self.last.ack.role

    @property
    def host(self) -> str:
        """Its machine and process; empty for a producer, whose machine is somebody's."""
        return self.last.ack.host

    @property
    def left(self) -> bool:
        """Whether it has said that it has ended."""
        return self.last.ack.lease_ms == 0

    def at(self, ms: int) -> Gate | None:
        """Return the gate as it had been heard by a moment, UTC epoch ms; None where it had not."""
        words = tuple(word for word in self.words if word.at <= ms)
        return Gate(words) if words else None

    def can_be_open(self, ms: int) -> bool:
        """Whether, by its last word, it can be open at a moment, UTC epoch ms."""
        return not self.left and ms < self.last.lease_until

    def is_known(self, ms: int, log: str) -> bool:
        """Whether it can be open in this log at a moment, UTC epoch ms."""
        return self.can_be_open(ms) and self.last.ack.log == log

    def applied(self, topic: str, offset: int, log: str) -> Word | None:
        """Return the word by which it had applied an offset of a control topic of this log; None without one.

        From then on nothing is on its way any more that was judged by less.
        """
        return next((w for w in self.words if w.ack.log == log and w.ack.applied.get(topic, -1) >= offset), None)


def gates(words: Iterable[Word]) -> list[Gate]:
    """Return the gates that have said these words, in the order in which they were first heard."""
    said: dict[str, list[Word]] = {}
    for word in words:
        said.setdefault(word.ack.gate, []).append(word)
    return [Gate(tuple(of_one)) for of_one in said.values()]


class Asked(NamedTuple):
    """What the gates are asked about: whether they have applied an offset of a control topic of this log."""

    topic: str
    offset: int
    log: str
    since: int
    """When the record was written, UTC epoch ms."""
    roles: Collection[str] | None = None
    """Whose answer counts; None for everybody's. Producers say nothing of consents."""
    written: Written | None = None
    """How the record was written, where it was from here; latencies are counted from it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one gate has answered a record."""

    gate: Gate
    how: How
    latency_ms: int | None = None
    """Of one that applied it after it was written: how long that took."""


@dataclass(frozen=True, slots=True)
class Answers:
    """How all gates have answered one record."""

    asked: Asked
    now_ms: int
    """When this was so, UTC epoch ms by the clock that dates the gates' words."""
    all: tuple[Answer, ...] = ()
    """Of every gate that could be open when the record was written, or since."""
    lapsed: tuple[Gate, ...] = ()
    """Those whose lease had run out before it was written, without a word that they end: closed, not waited for."""
    read: bool = True
    """Whether control.ack has been read to its end; without that, gates may be missing here."""
    trouble: str = ""
    """Why not, where it has not."""

    @property
    def missing(self) -> tuple[Answer, ...]:
        """Those that have not answered."""
        return self.by("missing")

    @property
    def done(self) -> int:
        """How many have applied it or cannot be open any more."""
        return len(self.all) - len(self.missing)

    @property
    def complete(self) -> bool:
        """Whether every gate that can be open goes by the record."""
        return self.read and not self.missing

    @property
    def slowest_ms(self) -> int | None:
        """The longest that one took to apply it; None where none did after it was written."""
        return max((each.latency_ms for each in self.all if each.latency_ms is not None), default=None)

    def by(self, how: How) -> tuple[Answer, ...]:
        """Return those that answered so."""
        return tuple(each for each in self.all if each.how == how)


def answers(heard: Sequence[Gate], asked: Asked, now_ms: int) -> Answers:
    """Return how the gates have answered by `now_ms`, UTC epoch ms by the clock that dates their words."""
    expected, lapsed = [], []
    for gate in heard:
        if asked.roles is not None and gate.role not in asked.roles:
            continue
        before = gate.at(asked.since)
        # One first heard later reads the record before it opens, or a moment after; waiting for it costs nothing.
        if before is None or before.can_be_open(asked.since) or gate.last.at > asked.since:
            expected.append(_answer(gate, asked, now_ms))
        elif not gate.left and gate.last.lease_until > asked.since - _RECENT_MS:
            lapsed.append(gate)
    return Answers(asked, now_ms, tuple(expected), tuple(lapsed))


def _answer(gate: Gate, asked: Asked, now_ms: int) -> Answer:
    word = gate.applied(asked.topic, asked.offset, asked.log)
    if word is not None:
        return Answer(gate, "applied", None if asked.written is None else latency_ms(word, asked.written))
    if gate.left:
        return Answer(gate, "left")
    # One that goes by another log and says that nothing passes stays closed: that log has no live authority.
    of_another = gate.last.ack.log != asked.log and not gate.last.ack.open
    return Answer(gate, "closed" if of_another or not gate.can_be_open(now_ms) else "missing")


def latency_ms(word: Word, written: Written) -> int:
    """Return how long after a record was written a gate had applied it.

    By the broker's clock where it makes sense. What was measured here is the upper
    bound: it counts the way back too, and clocks that are apart cannot stretch it.
    """
    here = max(0, round((word.arrived - written.began) * 1000))
    there = word.at - written.at
    return there if 0 <= there <= here else here
