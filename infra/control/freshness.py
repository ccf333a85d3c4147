"""Is what a gate knows recent, and is it all there is? Pure: every clock is an argument.

The authority's heartbeats say how far the control topics reach. A gate is fresh
while it has lately heard a live heartbeat of its own log and has applied every
offset that any heartbeat named.

**Live** is the hard word, because the topic keeps old heartbeats, and a gate that
reads them in one go must not take the last of them for the present:

* A heartbeat dated more than MAX_SKEW_MS from the local clock is not counted, be it
  old or the clocks apart. This bounds everything below.
* Its sequence and time must be higher than those heard before from that authority:
  the same record written again opens nothing.
* The first one of an authority only sets the scale. One counts once the local
  monotonic clock has moved on between two of them as the authority's did: in a
  backlog, heartbeats that were written 200 ms apart arrive all at once.
* Its age is how much later it came than the quickest so far, judged by the two
  clocks' difference, so a stream of heartbeats that all come late grows stale too.

A live heartbeat of another log means that the broker has begun a new life, or that an
authority of the old one still speaks: either way they disagree, and the gate is closed.
A new heartbeat at an offset that an older one had means the same, though the log goes by
the old name: what this gate has applied is not what the topics hold, and a switch written
there would pass for a repeat. That gate stays closed until it is started anew. (Offsets
tell it once the lost log had lived for some seconds.)
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from infra.control.records import CONSENT_TOPIC, MAX_SKEW_MS, STANDING_TOPIC, SWITCH_TOPIC, Heartbeat
from infra.control.state import TOPICS, ControlState

MAX_AGE = 0.8
"""Seconds a heartbeat is good for: three of them may be missed at one each 200 ms. What
is left of the second that closing may take is for the INSERT under way at that moment."""
_DRIFT = 1e-3
"""Seconds a second by which two monotonic clocks may part. Clocks are disciplined by
at most 500 ppm each, so the quickest heartbeat's difference may grow by this."""
_LEAP = 0.5
"""Seconds. A difference that shrinks by more at once shows that the scale came from old heartbeats."""
_FORGET = 60.0
"""Seconds after which an authority that fell silent is forgotten; MAX_SKEW_MS stands guard then."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The last heartbeat of one authority. Local times in seconds of the monotonic clock."""

    log: str
    sequence: int
    at: int
    """The authority's clock, UTC epoch ms."""
    arrived: float
    quickest: float
    """The smallest difference of the two clocks (local monotonic minus authority's) so far."""
    live: bool

    @property
    def sent(self) -> float:
        """When it was sent, on the local monotonic clock."""
        return self.at / 1000 + self.quickest


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the heartbeats have said so far."""

    log: str
    heard: Mapping[str, Heard] = field(default_factory=dict)
    """By authority."""
    named: Mapping[str, int] = field(default_factory=dict)
    """By control topic, the highest offset that any heartbeat of this log named: one that lags cannot lower it."""
    clocks_apart: bool = False
    """The last heartbeat was dated too far from the local clock to count."""
    reached: int = -1
    """The highest offset at which a heartbeat that counts was read."""
    log_lost: bool = False
    """A new one was read at or below that: the broker has begun again with an empty log."""

    def recent(self) -> float | None:
        """When the freshest live heartbeat of this log was sent, on the local monotonic clock; None without one."""
        return max((heard.sent for heard in self.heard.values() if heard.live and heard.log == self.log), default=None)

    def other_log(self, mono: float) -> str:
        """Return the log of a live and recent heartbeat that is not of this log, or ""."""
        return next(
            (h.log for h in self.heard.values() if h.live and h.log != self.log and mono - h.sent <= MAX_AGE), ""
        )


def hear(pulse: Pulse, heartbeat: Heartbeat, mono: float, wall_ms: int, at_offset: int | None = None) -> Pulse:
    """Return the pulse after a heartbeat that arrived at `mono` (monotonic s) and `wall_ms` (UTC epoch ms).

    `at_offset` is where it stands in its topic, which may be read again from an earlier place.
    """
    if abs(heartbeat.at - wall_ms) > MAX_SKEW_MS:
        return replace(pulse, clocks_apart=True)
    before = pulse.heard.get(heartbeat.authority)
    if before is not None and (heartbeat.sequence <= before.sequence or heartbeat.at <= before.at):
        return pulse
    heard = {name: old for name, old in pulse.heard.items() if mono - old.arrived < _FORGET}
    heard[heartbeat.authority] = _measure(before, heartbeat, mono)
    named = dict(pulse.named)
    if heartbeat.log == pulse.log:
        for topic, offset in heartbeat.applied.items():
            named[topic] = max(offset, named.get(topic, -1))
    lost = pulse.log_lost or (at_offset is not None and at_offset <= pulse.reached)
    reached = pulse.reached if at_offset is None else max(at_offset, pulse.reached)
    return replace(pulse, heard=heard, named=named, clocks_apart=False, reached=reached, log_lost=lost)


def _measure(before: Heard | None, heartbeat: Heartbeat, mono: float) -> Heard:
    difference = mono - heartbeat.at / 1000
    if before is None or before.log != heartbeat.log:
        return Heard(heartbeat.log, heartbeat.sequence, heartbeat.at, mono, difference, live=False)
    passed, claimed = mono - before.arrived, (heartbeat.at - before.at) / 1000
    catching_up = passed < claimed / 2
    scale_was_old = before.quickest - difference > _LEAP
    return Heard(
        heartbeat.log,
        heartbeat.sequence,
        heartbeat.at,
        mono,
        quickest=min(difference, before.quickest + _DRIFT * passed),
        live=not catching_up or (before.live and not scale_was_old),
    )


def why_closed(pulse: Pulse, state: ControlState, read_to_end: Set[str], mono: float) -> str:
    """Return "" while the state is fresh at `mono` (monotonic s), else why not, for a person.

    `read_to_end` holds the control topics whose end has been seen at least once
    since they were read from the beginning.
    """
    other = pulse.other_log(mono)
    if other or pulse.log != state.log:
        return f"the broker has begun log {other or pulse.log}, this gate has read log {state.log}"
    if pulse.log_lost:
        return f"the broker has lost log {pulse.log} and begun again: this gate must be started anew"
    recent = pulse.recent()
    if recent is None:
        if pulse.clocks_apart:
            return f"the last heartbeat is old, or the authority's clock is over {MAX_SKEW_MS // 1000} s from this one"
        return "no live heartbeat from the authority yet"
    if mono - recent > MAX_AGE:
        return f"the authority's last heartbeat is {mono - recent:.1f} s old"
    lags = (_lag(pulse, state, topic, read_to_end) for topic in TOPICS[state.mode])
    return next((lag for lag in lags if lag), "")


def _lag(pulse: Pulse, state: ControlState, topic: str, read_to_end: Set[str]) -> str:
    if topic not in read_to_end:
        return f"{topic} has not been read to its end yet"
    if topic not in pulse.named:
        return f"the authority does not say how far {topic} reaches"
    reached, named = state.applied.get(topic, -1), pulse.named[topic]
    if reached < named:
        return f"{topic} is applied up to offset {reached} of {named}"
    if topic == STANDING_TOPIC and state.mode == "standing":
        # What is said of subjects and teams, these gates know only as far as it is translated.
        for source, translated in ((CONSENT_TOPIC, state.consent_reached), (SWITCH_TOPIC, state.switch_reached)):
            if source not in pulse.named:
                return f"the authority does not say how far {source} reaches"
            # What this gate has read itself counts before the authority names it: it is about to acknowledge it.
            known = max(pulse.named[source], state.applied.get(source, -1))
            if translated < known:
                return f"{STANDING_TOPIC} translates {source} up to offset {translated} of {known}"
    return ""


def why_clock_is_wrong(pulse: Pulse, mono: float, wall_ms: int) -> str:
    """Return "" while this machine's clock agrees with the authority's, else what is wrong, for a person.

    A clock that is set while heartbeats are recent would otherwise count for up to MAX_AGE.
    """
    told = authority_ms(pulse, mono)
    if told is None or abs(told - wall_ms) <= MAX_SKEW_MS:
        return ""
    return f"this machine's clock is {abs(told - wall_ms) / 1000:.0f} s from the authority's"


def authority_ms(pulse: Pulse, mono: float) -> int | None:
    """Return the authority's clock at `mono` (monotonic s), UTC epoch ms; None where none has been heard.

    A gate dates its acknowledgements by it, since its own clock may be wrong.
    """
    heard = max(pulse.heard.values(), key=lambda each: each.arrived, default=None)
    return None if heard is None else int((mono - heard.quickest) * 1000)
