"""What the control topics say, as one immutable value, and how records change it.

`apply(state, entries, now_ms)` is a pure function of the topics' histories, each in
the order of its offsets, `control.policy` before the others (the reader sees to it).
The one rule: what forbids needs nobody's leave, what allows more needs signatures
(`signing.py`), and nothing allows more by being broken, repeated, or dated ahead of
the moment at which the broker took it.

* Policy: the highest version stands. Unless it only forbids more than the one in
  force, two of that one's approvers must have signed it; of the first policy,
  two of its own. A record that cannot be read, or none, leaves no policy until one
  of a higher version is signed: what it was meant to forbid is not known.
* Consent: a word stands until a later one, later in the log and later by its date.
  A grant, a resumption, or a pause shorter than the one that holds needs the
  subject's own signature, or those of two approvers. What cannot be read withdraws.
* Switch: engaged by any record that says so, or that cannot be read (then over
  everything). Engaging again over the same changes nothing; over something else, both
  hold. Released by a record that names the digest of the one that engaged it and is
  signed by two approvers; once. A record removed is no release. Each release is an epoch.
* Standing: the last record of a pseudonym stands unless it is based on less of
  `control.consent` and `control.switch` than the one before (a minimiser that lags).
  Where each is based on more of one of them, what both allow stands.

Approvers are those of the policy that was in force when the broker took the record.
A policy may be read after what it decides, for topics come at their own pace; then
that is decided again, so that all gates agree whatever order they read the topics in.
Every record that is not taken at its word is counted in `ignored`, and one that lacks
no more than signatures waits in `pending`, for whoever signs next and for all to see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from infra.control import signing
from infra.control.policy_change import loosens
from infra.control.records import (
    ALL_PURPOSES,
    CONSENT_TOPIC,
    MAX_SKEW_MS,
    POLICY_TOPIC,
    PROGRESS_KEY,
    STANDING_TOPIC,
    SWITCH_TOPIC,
    Approver,
    Consent,
    Policy,
    Record,
    Standing,
    Switch,
    Unreadable,
    consent_key,
    key_of,
    notice_id,
)

Mode = Literal["consent", "standing", "authority"]
"""Who the gate judges: subjects (producer, minimiser), pseudonyms (downstream), or
nobody (the authority, which only follows how far the topics reach)."""

TOPICS: Mapping[Mode, tuple[str, ...]] = MappingProxyType(
    {
        "consent": (POLICY_TOPIC, CONSENT_TOPIC, SWITCH_TOPIC),
        "standing": (POLICY_TOPIC, STANDING_TOPIC, SWITCH_TOPIC),
        "authority": (POLICY_TOPIC, CONSENT_TOPIC, SWITCH_TOPIC, STANDING_TOPIC),
    }
)
"""The topics each mode must have applied."""


class Word(NamedTuple):
    """What a subject last said about one purpose, or, under ALL_PURPOSES, about a pause. Times are UTC epoch ms."""

    granted: bool
    notice: str
    """As `notice_id` names it."""
    at: int
    until: int = 0
    """When a pause ends by itself; 0 for not."""

    def pauses(self, now_ms: int) -> bool:
        """Of the word under ALL_PURPOSES: whether it forbids everything at that moment."""
        return not self.granted and (not self.until or now_ms < self.until)


class Entry(NamedTuple):
    """One record of a control topic as it was read. `record` is None for a tombstone."""

    topic: str
    offset: int
    key: str
    record: Record | Unreadable | None
    timestamp: int | None = None
    """When the broker took it, UTC epoch ms; None where it does not say."""


Words = Mapping[str, Word]
"""By purpose."""
_NOTHING: Mapping[str, Word] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ControlState:
    """What the control topics of one log say, up to the offsets in `applied`."""

    log: str
    mode: Mode = "consent"
    only: frozenset[str] | None = None
    """The subjects whose consents are held; None for all. A producer knows of nobody else's."""
    teams: Mapping[str, str] = field(default_factory=dict)
    """By subject, their team, as far as a directory tells this process. Who is in none may be in any."""
    policy: Policy | None = None
    last_policy: Policy | None = None
    """The one in force or, where none is, the one before: its version is used up, and its approvers decide."""
    approvers: tuple[tuple[int, tuple[Approver, ...]], ...] = ()
    """Who could allow more from which moment on (UTC epoch ms, as the broker took the policy)."""
    notices: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Every notice that was ever in force, by `notice_id`: version and text."""
    consents: Mapping[str, Words] = field(default_factory=dict)
    """By subject, or by pseudonym in mode `standing`."""
    switches: Mapping[str, Switch] = field(default_factory=dict)
    """By identifier, released ones too."""
    epoch: int = 0
    """The highest epoch that any release has started."""
    epoch_since: int = 0
    """When the broker took that release, UTC epoch ms: what is dated before was not captured in this epoch."""
    applied: Mapping[str, int] = field(default_factory=dict)
    """By topic, the last offset applied; absent where there is none."""
    consent_reached: int = -1
    """Mode `standing`: the offset of control.consent that the translation has reached."""
    switch_reached: int = -1
    """Mode `standing`: the offset of control.switch that the translation has reached."""
    based_on: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Mode `standing`: by pseudonym, the offsets of control.consent and control.switch its record is based on."""
    ignored: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By topic and why: records that were not taken at their word."""
    pending: Mapping[tuple[str, str], Policy | Consent | Switch] = field(default_factory=dict)
    """By topic and key: what would allow more and lacks only signatures."""
    spent: frozenset[str] = frozenset()
    """Digests of the releases that were taken: none is taken twice."""
    switch_log: tuple[Entry, ...] = ()
    """All of control.switch, for a policy that is read late."""
    disputed: Mapping[str, tuple[Word | None, tuple[Entry, ...]]] = field(default_factory=dict)
    """By key of control.consent, from the first record on that approvers decided: the word before it, and all since."""
    version: int = 0
    """Grows with every change that can change a verdict; verdicts are cached by it."""
    _engaged: tuple[Switch, ...] = field(init=False, repr=False, compare=False)
    _last_release: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Each subject is judged by the switches, and years of them pile up: those that stop are few.
        object.__setattr__(self, "_engaged", tuple(each for each in self.switches.values() if each.engaged))
        last = max((each.at for each in self.switches.values() if not each.engaged), default=0)
        object.__setattr__(self, "_last_release", last)

    def stopping(self, now_ms: int) -> tuple[Switch, ...]:
        """Return the switches that stop something at a moment (UTC epoch ms)."""
        if self._last_release <= now_ms + MAX_SKEW_MS:
            return self._engaged
        return tuple(each for each in self.switches.values() if each.stops(now_ms))

    def words_of(self, subject: str) -> Words:
        """Return what one subject (or pseudonym) has said, by purpose."""
        return self.consents.get(subject, _NOTHING)

    def approvers_at(self, ms: int) -> tuple[Approver, ...]:
        """Return who could allow more at a moment, by the broker's clock (UTC epoch ms)."""
        return next((who for since, who in reversed(self.approvers) if since <= ms), ())

    def covers_subject(self, switch: Switch, subject: str) -> bool:
        """Whether a switch over a subject or a team is over this subject. Who is in no team may be in any."""
        if switch.scope == "team":
            return self.teams.get(subject, switch.value) == switch.value
        return switch.scope == "subject" and switch.value == subject

    def restarted(self, log: str) -> ControlState:
        """Return the empty state of another log: nothing of the old one holds there."""
        return ControlState(
            log=log, mode=self.mode, only=self.only, teams=self.teams, ignored=self.ignored, version=self.version + 1
        )


def apply(state: ControlState, entries: Iterable[Entry], now_ms: int) -> ControlState:
    """Return the state after these records, which come in the order of their offsets within each topic.

    A record at or below the offset already applied is a repeat and changes
    nothing. `now_ms` stands in for the timestamp of an entry that has none.
    """
    draft = _Draft(state, now_ms)
    for entry in entries:
        if entry.offset > draft.applied.get(entry.topic, -1):
            draft.add(entry)
            draft.applied[entry.topic] = entry.offset
    return draft.finished()


class _Draft:
    """A state in the making. Copies a mapping once a call, not once a record."""

    def __init__(self, state: ControlState, now_ms: int) -> None:
        self._state = state
        self._now = now_ms
        self.applied = dict(state.applied)
        self._ignored = dict(state.ignored)
        self._pending = dict(state.pending)
        self._policy, self._last_policy = state.policy, state.last_policy
        self._approvers = state.approvers
        self._notices = state.notices
        self._consents: dict[str, Words] | None = None
        self._switches = dict(state.switches)
        self._switch_log, self._spent = list(state.switch_log), state.spent
        self._disputed = dict(state.disputed)
        self._epoch, self._epoch_since = state.epoch, state.epoch_since
        self._consent_reached, self._switch_reached = state.consent_reached, state.switch_reached
        self._based_on: dict[str, tuple[int, int]] | None = None
        self._changed = False

    def add(self, entry: Entry) -> None:
        if isinstance(entry.record, Unreadable):
            self._ignore(entry.topic, entry.record.why)
        elif entry.record is not None and entry.key != key_of(entry.record):
            self._ignore(entry.topic, "wrong_key")
            entry = entry._replace(record=Unreadable("wrong_key"))
        if entry.timestamp is None:
            entry = entry._replace(timestamp=self._now)
        if entry.topic == POLICY_TOPIC:
            self._add_policy(entry)
        elif entry.topic == CONSENT_TOPIC:
            self._add_consent(entry)
        elif entry.topic == SWITCH_TOPIC:
            self._add_switch(entry)
        elif entry.topic == STANDING_TOPIC:
            self._add_standing(entry)

    def _ignore(self, topic: str, why: str) -> None:
        self._ignored[topic, why] = self._ignored.get((topic, why), 0) + 1

    def _add_policy(self, entry: Entry) -> None:
        new, last = entry.record, self._last_policy
        if not isinstance(new, Policy):
            if new is None:
                self._ignore(entry.topic, "removed")
            self._policy = None
        elif (why := self._why_not(entry, new, last)) or self._lacks_approval(entry, new):
            self._ignore(entry.topic, why or "not_approved")
            return
        elif self._policy is None or new.version > self._policy.version:
            self._policy = self._last_policy = new
            self._approvers = (*self._approvers, (_taken(entry), new.approvers))
            self._notices = {**self._notices, new.notice_id: (new.notice, new.notice_text)}
            self._pending.pop((entry.topic, entry.key), None)
            self._decide_again(_taken(entry))
        self._changed = True

    def _decide_again(self, since: int) -> None:
        """Decide again what the broker took from then on (UTC epoch ms) and was read here before the policy."""
        ignored = dict(self._ignored)
        if any(_taken(entry) >= since for entry in self._switch_log):
            entries, epoch = self._switch_log, self._epoch
            self._switches, self._switch_log, self._spent, self._epoch = {}, [], frozenset(), 0
            self._pending = {key: record for key, record in self._pending.items() if key[0] != SWITCH_TOPIC}
            for entry in entries:
                self._add_switch(entry)
            self._epoch = max(self._epoch, epoch)
        for key, (word, said) in list(self._disputed.items()):
            if any(_taken(entry) >= since for entry in said):
                del self._disputed[key]
                self._pending.pop((CONSENT_TOPIC, key), None)
                subject, _, purpose = key.partition("/")
                others = {of: said_of for of, said_of in self._words(subject).items() if of != purpose}
                self._stand(subject, others if word is None else {**others, purpose: word})
                for entry in said:
                    self._add_consent(entry)
        # Counted when it was decided first.
        self._ignored = ignored

    def _why_not(self, entry: Entry, new: Policy, last: Policy | None) -> str:
        if last is not None and new.version < last.version:
            return "lower_version"
        if last is not None and new.version == last.version:
            # The same policy again is welcome, unless what came since has put it out of force.
            return "" if self._policy is not None and new.content() == last.content() else "same_version"
        return "future" if new.applied_at > _taken(entry) + MAX_SKEW_MS else ""

    def _lacks_approval(self, entry: Entry, new: Policy) -> bool:
        last = self._last_policy
        if self._policy is not None and (new.version == self._policy.version or not loosens(self._policy, new)):
            return False
        approvers = last.approvers if last is not None else new.approvers
        return not self._approved(entry, new, approvers)

    def _approved(self, entry: Entry, record: Policy | Consent | Switch, approvers: Iterable[Approver]) -> bool:
        """Say whether enough approvers stand for it; with some, but too few, it waits for more."""
        at = record.applied_at if isinstance(record, Policy) else record.at
        # By either date: a key that has run out cannot be used again by dating a record back.
        names = signing.approvals(record, self._state.log, approvers, max(at, _taken(entry)))
        if len(names) >= signing.APPROVALS:
            return True
        if names:
            self._pending[entry.topic, entry.key] = record
        return False

    def _approvers_at(self, entry: Entry) -> tuple[Approver, ...]:
        return replace(self._state, approvers=self._approvers).approvers_at(_taken(entry))

    def _add_consent(self, entry: Entry) -> None:
        record = entry.record
        subject, _, purpose = entry.key.partition("/")
        if self._state.mode == "authority" or (self._state.only is not None and subject not in self._state.only):
            return
        old = self._words(subject).get(purpose)
        if entry.key in self._disputed:
            before, said = self._disputed[entry.key]
            self._disputed[entry.key] = before, (*said, entry)
        if not isinstance(record, Consent):
            # Unreadable or removed: whatever was said before no longer stands.
            self._say(subject, purpose, Word(False, "", max(_taken(entry), old.at if old else 0)))
            return
        word = Word(record.granted, notice_id(record.notice, record.notice_digest), record.at, record.until)
        if not _allows_more(word, old, purpose):
            # Dated ahead, it must not stand in the way of every later word.
            at = min(word.at, _taken(entry) + MAX_SKEW_MS)
            self._say(subject, purpose, word._replace(at=max(at, old.at if old else 0)))
        elif old is not None and word.at <= old.at:
            if word != old:
                self._ignore(entry.topic, "replayed")
        elif word.at > _taken(entry) + MAX_SKEW_MS:
            self._ignore(entry.topic, "future")
        elif signing.is_own(record, self._state.log):
            self._say(subject, purpose, word)
        else:
            if record.signatures:
                self._disputed.setdefault(entry.key, (old, (entry,)))
            if self._approved(entry, record, self._approvers_at(entry)):
                self._say(subject, purpose, word)
            else:
                self._ignore(entry.topic, "not_approved")

    def _words(self, subject: str) -> Words:
        consents = self._state.consents if self._consents is None else self._consents
        return consents.get(subject, _NOTHING)

    def _say(self, subject: str, purpose: str, word: Word) -> None:
        self._stand(subject, {**self._words(subject), purpose: word})
        self._pending.pop((CONSENT_TOPIC, consent_key(subject, purpose)), None)

    def _add_switch(self, entry: Entry) -> None:
        record = entry.record
        self._switch_log.append(entry)
        if record is None:
            self._ignore(entry.topic, "removed")
            return
        if not isinstance(record, Switch):
            name = entry.key or f"unreadable-{entry.offset}"
            why = f"a record that cannot be read ({record.why if isinstance(record, Unreadable) else 'other kind'})"
            record = Switch(name, "everything", "", True, why, "", _taken(entry), 0)
        old = self._switches.get(record.id)
        if record.engaged:
            self._engage(record, old)
            return
        why = self._why_no_release(entry, record, old)
        if why:
            self._ignore(entry.topic, why)
            return
        self._switches[record.id] = record
        self._spent |= {signing.digest(record, self._state.log)}
        self._epoch = max(self._epoch + 1, record.epoch)
        self._epoch_since = max(self._epoch_since, _taken(entry))
        self._pending.pop((entry.topic, entry.key), None)
        self._changed = True

    def _engage(self, record: Switch, old: Switch | None) -> None:
        if old is not None and old.engaged:
            same = (old, *(each for name, each in self._switches.items() if name.startswith(f"{old.id}+")))
            if any(each.engaged and (each.scope, each.value) == (record.scope, record.value) for each in same):
                return
            # Both hold: neither the narrower nor the wider replaces the other.
            digest = signing.digest(record, self._state.log)
            short = f"{old.id}+{digest[:6]}"
            there = self._switches.get(short)
            record = replace(record, id=f"{old.id}+{digest}" if there is not None and there.engaged else short)
        self._switches[record.id] = record
        self._pending.pop((SWITCH_TOPIC, record.id), None)
        self._changed = True

    def _why_no_release(self, entry: Entry, release: Switch, old: Switch | None) -> str:
        if old is None or not old.engaged:
            return "not_engaged"
        if release.releases != signing.digest(old, self._state.log):
            return "replayed"
        if signing.digest(release, self._state.log) in self._spent:
            return "replayed"  # the same record has engaged it again
        if release.at > _taken(entry) + MAX_SKEW_MS:
            return "future"
        return "" if self._approved(entry, release, self._approvers_at(entry)) else "not_approved"

    def _add_standing(self, entry: Entry) -> None:
        record = entry.record
        if self._state.mode != "standing":
            return
        if not isinstance(record, Standing):
            self._stand(entry.key, {})
        elif entry.key == PROGRESS_KEY:
            self._consent_reached = max(self._consent_reached, record.consent_offset)
            self._switch_reached = max(self._switch_reached, record.switch_offset)
        else:
            self._translate(entry, record)

    def _translate(self, entry: Entry, record: Standing) -> None:
        said = zip(record.purposes, record.notices, strict=True)
        words = {purpose: Word(True, notice, 0) for purpose, notice in said}
        old, new = self._base().get(record.pseudonym, (-1, -1)), (record.consent_offset, record.switch_offset)
        base = max(old[0], new[0]), max(old[1], new[1])
        if base == old != new:
            self._ignore(entry.topic, "lagging")
            return
        if base not in (old, new):
            # Each of two minimisers has read a stop that the other had not: only what both allow is certain.
            self._ignore(entry.topic, "crossing")
            before = self._words(record.pseudonym)
            words = {purpose: word for purpose, word in words.items() if before.get(purpose) == word}
        self._base()[record.pseudonym] = base
        self._stand(record.pseudonym, words)

    def _base(self) -> dict[str, tuple[int, int]]:
        if self._based_on is None:
            self._based_on = dict(self._state.based_on)
        return self._based_on

    def _stand(self, pseudonym: str, words: Words) -> None:
        if self._consents is None:
            self._consents = dict(self._state.consents)
        self._consents[pseudonym] = words
        self._changed = True

    def finished(self) -> ControlState:
        old = self._state
        return replace(
            old,
            policy=self._policy,
            last_policy=self._last_policy,
            approvers=self._approvers,
            notices=self._notices,
            # Plain: copying a proxy is ten times slower, and these grow with the number of people.
            consents=old.consents if self._consents is None else self._consents,
            switches=MappingProxyType(self._switches),
            epoch=self._epoch,
            epoch_since=self._epoch_since,
            applied=MappingProxyType(self.applied),
            consent_reached=self._consent_reached,
            switch_reached=self._switch_reached,
            based_on=old.based_on if self._based_on is None else self._based_on,
            ignored=MappingProxyType(self._ignored),
            pending=MappingProxyType(self._pending),
            spent=self._spent,
            switch_log=tuple(self._switch_log),
            disputed=MappingProxyType(self._disputed),
            version=old.version + 1 if self._changed else old.version,
        )


def _taken(entry: Entry) -> int:
    """When the broker took the record; `add` has seen to it that this is known."""
    return entry.timestamp or 0


def _allows_more(word: Word, old: Word | None, purpose: str) -> bool:
    if purpose != ALL_PURPOSES or word.granted or old is None or old.granted:
        return word.granted
    # A pause that ends sooner than the one before. Whether that is over does not matter: then this one is too.
    return bool(word.until) and (not old.until or word.until < old.until)


@dataclass(frozen=True, slots=True)
class View:
    """What a gate may go by at one moment."""

    state: ControlState
    fresh: bool
    """False means closed, whatever the state says."""
    why: str = ""
    """Why it is not fresh, for a person; empty when it is."""


def standing_of(state: ControlState, subject: str, pseudonym: str, now_ms: int) -> Standing:
    """Translate one subject's consents for the gates that know pseudonyms only.

    A subject who has paused, or whom an engaged switch over a subject or a team
    covers, has, for those gates, no consent: they cannot recognise who is meant.
    """
    words = state.words_of(subject)
    pause = words.get(ALL_PURPOSES)
    stopped = any(state.covers_subject(each, subject) for each in state.stopping(now_ms))
    granted = sorted(
        (purpose, word.notice)
        for purpose, word in words.items()
        if purpose and word.granted and word.at <= now_ms + MAX_SKEW_MS
    )
    if stopped or (pause is not None and pause.pauses(now_ms)):
        granted = []
    return Standing(
        pseudonym=pseudonym,
        purposes=tuple(purpose for purpose, _ in granted),
        notices=tuple(notice for _, notice in granted),
        consent_offset=state.applied.get(CONSENT_TOPIC, -1),
        switch_offset=state.applied.get(SWITCH_TOPIC, -1),
    )
