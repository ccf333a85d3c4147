"""Whether a switch held: from the history of the control topics and from counts to a verdict. Pure.

What is judged is the interval from the last acknowledgement to the release, or to
now. In it nothing that the switch covers may have been stored, minimised or
sampled; and whenever it was stored, nothing may have been captured in it. The
counts come from the store (`proof_sql`) and from the log (`proof_log`), so anybody
can count again. Times are UTC epoch ms unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from infra.control.freshness import MAX_AGE
from infra.control.identity import pseudonym_of
from infra.control.records import MAX_SKEW_MS, POLICY_TOPIC, SWITCH_TOPIC, Switch
from infra.control.roll import Gate, Word
from infra.control.state import ControlState, Entry, apply
from infra.control.switch_history import history
from schemas.catalogue import KIND_NAMES, SOURCE_OF_KIND

HELD, VIOLATED, OPEN = 0, 1, 3
"""Exit codes, as docs/ARCHITECTURE.md gives them."""
STARTING_MS = int(2 * MAX_AGE * 1000)
"""A gate first heard later than this after a switch cannot be open without it: by then every
heartbeat that is recent enough to open a gate names the record."""


# -- what the log says of the switch -----------------------------------------


@dataclass(frozen=True, slots=True)
class Engagement:
    """One time that a switch was engaged, and its end."""

    switch: Switch
    """The record that engaged it, under the name that it has in the state."""
    offset: int
    at: int
    """When the broker took it."""
    release: Switch | None = None
    """The release that counted; None while it is engaged."""
    release_offset: int = -1
    released_at: int | None = None
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Records of it since that did not count, by why."""
    times: int = 1
    """How many times the switch had been engaged by then, this one among them."""
    resolution_ms: int = 1
    """The coarsest resolution of the policies in force since: times of events are rounded down to it."""


def engagements(entries: Iterable[Entry], log: str) -> dict[str, Engagement]:
    """Return by switch the last time that it was engaged.

    `entries` are the records of control.policy and control.switch, each topic in
    the order of its offsets. What does not count for a gate does not count here.
    """
    listed = list(entries)
    found: dict[str, Engagement] = {}
    for event in history(listed, log):
        last = found.get(event.switch)
        if event.what == "engaged" and event.record is not None:
            times = last.times + 1 if last is not None else 1
            found[event.switch] = Engagement(event.record, event.offset, event.at, times=times)
        elif last is not None and event.what == "released":
            found[event.switch] = replace(last, release=event.record, release_offset=event.offset, released_at=event.at)
        elif last is not None and event.what in ("ignored", "proposed"):
            why = event.why or "too few signatures"
            found[event.switch] = replace(last, ignored={**last.ignored, why: last.ignored.get(why, 0) + 1})
    resolutions = list(_resolutions(listed, log))
    return {name: replace(each, resolution_ms=_coarsest(resolutions, each)) for name, each in found.items()}


def _resolutions(entries: Iterable[Entry], log: str) -> Iterator[tuple[int, int]]:
    """Yield when each policy came into force, and its resolution."""
    state = ControlState(log=log, mode="authority")
    for entry in entries:
        if entry.topic == POLICY_TOPIC:
            before, state = state, apply(state, [entry], entry.timestamp or 0)
            if state.policy is not None and state.policy is not before.policy:
                yield entry.timestamp or 0, state.policy.resolution_ms


def _coarsest(resolutions: Sequence[tuple[int, int]], engagement: Engagement) -> int:
    """Of the policies that came into force since it was engaged, and the one that was in force then."""
    since = max((at for at, _ in resolutions if at <= engagement.at), default=0)
    return max((ms for at, ms in resolutions if at >= since), default=1)


# -- what it covers ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Covers:
    """What a switch covers, as far as tables and topics can show it."""

    scope: Literal["everything", "source", "purpose", "application", "subject", "others"]
    """`others`: everybody but the people of other teams."""
    value: str = ""
    kinds: tuple[int, ...] = ()
    """Of a source: codes of its kinds."""
    pseudonyms: tuple[str, ...] = field(default=(), repr=False)
    """Of a subject: theirs. Of `others`: those who are left out. Never printed."""
    sure: bool = True
    """False where what is counted may not be covered."""
    note: str = ""
    """What a reader of the figures must know."""


class CannotTellError(Exception):
    """What a switch covers cannot be told here. The message says what is missing."""


def covers_of(switch: Switch, key: bytes | None, teams: Mapping[str, str]) -> Covers:
    """Return what a switch covers. `key` makes pseudonyms, `teams` is the directory by subject, as far as it is here.

    Raises CannotTellError where it takes the key to tell, and there is none.
    """
    match switch.scope:
        case "source":
            kinds = tuple(code for code, source in enumerate(SOURCE_OF_KIND) if source == switch.value)
            unknown = Covers("everything", note="the source is not known here, so it may be any: everything is counted")
            return Covers("source", switch.value, kinds=kinds, note="other sources go on") if kinds else unknown
        case "purpose":
            note = "a row that is recorded for other purposes too goes on, but must not name this one any more"
            return Covers("purpose", switch.value, note=note)
        case "application":
            return Covers("application", switch.value, note="other applications go on")
        case "subject":
            return Covers("subject", pseudonyms=(pseudonym_of(_need(key), switch.value),), note="other people go on")
        case "team":
            return _covers_team(switch.value, key, teams)
    return Covers("everything")


def _covers_team(team: str, key: bytes | None, teams: Mapping[str, str]) -> Covers:
    if not teams:
        note = "no directory of teams is here, so everybody is counted, people of other teams too if there is one"
        return Covers("everything", sure=False, note=note)
    made = _need(key)
    others = tuple(sorted(pseudonym_of(made, subject) for subject, name in teams.items() if name != team))
    return Covers("others", pseudonyms=others, note="people of other teams go on; who is in none is stopped too")


def _need(key: bytes | None) -> bytes:
    if key is None:
        raise CannotTellError(
            "whose rows the switch covers can be told only where the pseudonym key is, beside the minimiser"
        )
    return key


SESSION_KINDS = tuple(code for code, source in enumerate(SOURCE_OF_KIND) if source == "session")
"""Events of a session itself: they belong to no application."""
OTHER_KINDS = tuple(code for code in range(len(KIND_NAMES)) if code not in SESSION_KINDS)


# -- who had applied it, and when --------------------------------------------

How = Literal["acknowledged", "left", "lease ran out", "waiting"]


@dataclass(frozen=True, slots=True)
class Fate:
    """From when on a gate let nothing through any more that the switch covers."""

    gate: Gate
    how: How
    at: int
    """When it acknowledged, left, or its lease ran out; while it is waited for, when its lease will run out."""
    latency_ms: int
    """The same, counted from engaging."""


def fates(gates: Iterable[Gate], engaged: Engagement, log: str, end: int) -> list[Fate]:
    """Return what became of every gate that could be open when the switch was engaged, as far as known at `end`."""
    found = []
    for gate in gates:
        before = gate.at(engaged.at)
        known = before.is_known(engaged.at, log) if before is not None else _starts(gate, engaged, log)
        if known:
            how, at = _fate(gate, engaged, log, end)
            found.append(Fate(gate, how, at, max(0, at - engaged.at)))
    return sorted(found, key=lambda fate: (fate.at, fate.gate.name))


def _starts(gate: Gate, engaged: Engagement, log: str) -> bool:
    """Whether a gate first heard after engaging could have opened on what it had read before."""
    first = gate.words[0]
    return first.at <= engaged.at + STARTING_MS and first.ack.log == log and not _goes_by(first, engaged, log)


def _goes_by(word: Word, engaged: Engagement, log: str) -> bool:
    return word.ack.log == log and word.ack.applied.get(SWITCH_TOPIC, -1) >= engaged.offset


def _fate(gate: Gate, engaged: Engagement, log: str, end: int) -> tuple[How, int]:
    lease = engaged.at
    for word in gate.words:
        if word.at > end:
            break
        unaware = not _goes_by(word, engaged, log) and word.ack.lease_ms > 0 and word.ack.log == log
        if unaware:
            lease = max(lease, word.lease_until)
        elif word.at >= engaged.at or _goes_by(word, engaged, log):
            if lease < word.at:  # closed since then: before this word it let nothing through
                return "lease ran out", lease
            told: How = "acknowledged" if _goes_by(word, engaged, log) and word.ack.lease_ms else "left"
            return told, max(word.at, engaged.at)  # clocks that part by a few ms
    return ("lease ran out" if lease <= end else "waiting"), lease


# -- the clocks --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clocks:
    """How far the clocks are apart whose times are compared, ms. None where one could not be heard."""

    store: int | None = None
    """The store's minus this machine's."""
    trip: int = 0
    """How long the store took to say so: by half of that it may be wrong."""
    authority: int | None = None
    """The authority's minus this machine's."""
    broker: int | None = None
    """The broker's minus the authority's, by the acknowledgements of the time; what is on its way counts in it."""

    @property
    def apart(self) -> int:
        """How far the store's clock may be from the one that dates the acknowledgements."""
        return abs((self.store or 0) - (self.authority or 0) - (self.broker or 0)) + self.trip // 2 + 1


def broker_ahead(gates: Iterable[Gate]) -> int | None:
    """Return the broker's clock minus the authority's: the smallest difference between both dates of one word."""
    return min((word.at - word.ack.at for gate in gates for word in gate.words), default=None)


# -- the verdict -------------------------------------------------------------


class Column(NamedTuple):
    """What one column of a query, or one count of a topic, says."""

    name: str
    where: str
    """Table or topic."""
    what: str
    must_be_zero: bool
    doubt: str = ""
    """Column that says how much of it lies so near the interval's ends that the clocks cannot tell."""
    sure: bool = True
    """False where other than zero may still be allowed."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One count and what it must be."""

    where: str
    what: str
    count: int
    must_be_zero: bool
    in_doubt: int = 0
    """How much of `count` may be allowed, for all that can be told."""
    query: int = 0
    """Number of the query that it comes from, from 1; 0 for one from the log."""
    column: str = ""

    @property
    def verdict(self) -> str:
        """`ok`, `VIOLATED`, `UNDECIDED`; nothing for what may be any number."""
        if not self.must_be_zero:
            return ""
        if not self.count:
            return "ok"
        return "UNDECIDED" if self.in_doubt >= self.count else "VIOLATED"

    @property
    def text(self) -> str:
        """The figure in words."""
        return f"{self.where}, {self.what}: {self.count:,}"

    def document(self) -> dict[str, Any]:
        """Return the figure as `--json` prints it."""
        return {
            "where": self.where,
            "what": self.what,
            "figure": self.count,
            "must_be": 0 if self.must_be_zero else None,
            "verdict": self.verdict or None,
            "query": self.query or None,
            "column": self.column,
        }


def figures_of(
    columns: Sequence[Column], counts: Mapping[str, Any], query: int = 0, *, sure: bool = True
) -> list[Figure]:
    """Make the figures of one row of counts. `sure`: whether all that is counted is covered."""
    found = []
    for column in columns:
        count = int(counts[column.name] or 0)
        doubt = int(counts[column.doubt] or 0) if column.doubt else 0
        if not (sure and column.sure):
            doubt = count
        found.append(Figure(column.where, column.what, count, column.must_be_zero, doubt, query, column.name))
    return found


@dataclass(frozen=True, slots=True)
class Proof:
    """The verdict."""

    engaged: Engagement
    fates: Sequence[Fate]
    end: int
    """The release, or the moment of looking."""
    clocks: Clocks = Clocks()
    note: str = ""
    """What a reader of the figures must know; see Covers."""
    figures: Sequence[Figure] = ()
    queries: Sequence[tuple[str, str]] = ()
    """What was asked of the store: title and text."""
    unseen: Sequence[str] = ()
    """What could not be looked at."""

    @property
    def begin(self) -> int | None:
        """When the last gate had applied it; None while one is waited for, or where it was released before."""
        if self.waiting:
            return None
        last = max((fate.at for fate in self.fates), default=self.engaged.at)
        return last if last < self.end else None

    @property
    def waiting(self) -> list[Fate]:
        """The gates that have not applied it, as far as known."""
        return [fate for fate in self.fates if fate.how == "waiting"]

    @property
    def violations(self) -> list[Figure]:
        """The figures that must be zero and are not."""
        return [figure for figure in self.figures if figure.verdict == "VIOLATED"]

    @property
    def undecided(self) -> list[Figure]:
        """The figures that are not zero, but need not be forbidden either."""
        return [figure for figure in self.figures if figure.verdict == "UNDECIDED"]

    @property
    def code(self) -> int:
        """Exit code."""
        if self.violations:
            return VIOLATED
        return OPEN if self.begin is None or self.unseen or self.undecided else HELD

    @property
    def verdict(self) -> str:
        """The same as a word."""
        return {HELD: "held", VIOLATED: "violated", OPEN: "not proved"}[self.code]

    @property
    def sentence(self) -> str:
        """The same in a sentence, with the figures that decide it."""
        name = self.engaged.switch.id
        if self.violations:
            listed = "; ".join(each.text for each in self.violations)
            return f"{name} did NOT hold: {listed}."
        if self.begin is None:
            return self._no_interval(name)
        lasted = f"from the last acknowledgement to {'the release' if self.engaged.release else 'now'}"
        lasted = f"{lasted}, {(self.end - self.begin) / 1000:,.3f} s"
        if self.undecided or self.unseen:
            doubts = [f"forbidden or not, {each.text}" for each in self.undecided]
            return f"{name} is not proved {lasted}: {'; '.join([*doubts, *self.unseen])}."
        return f"{name} held: {lasted}, nothing that it covers was captured, minimised, stored or sampled."

    def _no_interval(self, name: str) -> str:
        waiting = self.waiting
        if waiting:
            names = ", ".join(fate.gate.name for fate in waiting)
            done = len(self.fates) - len(waiting)
            tail = " when it was released" if self.engaged.release else ""
            return f"{name} is not proved: {done} of {len(self.fates)} gates had applied it{tail}, not {names}."
        return f"{name} is not proved: it was released before the last gate had applied it."

    def document(self) -> dict[str, Any]:
        """Return the proof as `--json` prints it. It names no subject."""
        switch, release = self.engaged.switch, self.engaged.release
        return {
            "verdict": self.verdict,
            "code": self.code,
            "sentence": self.sentence,
            "id": switch.id,
            "scope": switch.scope,
            "value": None if switch.scope == "subject" else switch.value,
            "note": self.note,
            "engaged": {
                "offset": self.engaged.offset,
                "at": self.engaged.at,
                "by": switch.by,
                "reason": switch.reason,
                "times": self.engaged.times,
            },
            "released": None
            if release is None
            else {
                "offset": self.engaged.release_offset,
                "at": self.engaged.released_at,
                "by": release.by,
                "reason": release.reason,
                "epoch": release.epoch,
            },
            "ignored_releases": dict(self.engaged.ignored),
            "interval": None if self.begin is None else {"begin": self.begin, "end": self.end},
            "gates": [
                {
                    "gate": fate.gate.name,
                    "role": fate.gate.role,
                    "host": fate.gate.host,
                    "how": fate.how,
                    "at": fate.at,
                    "latency_ms": fate.latency_ms,
                }
                for fate in self.fates
            ],
            "clocks": {
                "store_ms": self.clocks.store,
                "trip_ms": self.clocks.trip,
                "authority_ms": self.clocks.authority,
                "broker_ms": self.clocks.broker,
                "apart_ms": self.clocks.apart,
            },
            "figures": [figure.document() for figure in self.figures],
            "queries": [{"number": n, "title": title, "sql": sql} for n, (title, sql) in enumerate(self.queries, 1)],
            "unseen": list(self.unseen),
        }


def clock_trouble(clocks: Clocks) -> str:
    """Return why times cannot be compared; empty where they can."""
    if clocks.store is not None and clocks.apart > MAX_SKEW_MS + clocks.trip // 2:
        return f"the store's clock is {clocks.apart / 1000:.1f} s from that of the acknowledgements"
    return "" if clocks.authority is not None else "the authority's clock, since no heartbeat of it is heard"
