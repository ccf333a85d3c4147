"""What the control topics say, as one immutable value, and how records change it.

`apply(state, entries, now_ms)` is a pure function of the topics' records in the
order of their offsets, and needs only the last record of each key: compaction
changes nothing. What a record may not do is let more pass by being broken:

* Policy: the highest version stands. A lower version, or the same version with
  another content, is ignored; the same content again is welcome. A policy that
  cannot be read is ignored and the one before stands. A tombstone leaves no policy.
* Consent: the last record of subject and purpose stands. One that cannot be read,
  or a tombstone, leaves no consent. A grant dated in the future waits (see `gate.py`).
* Switch: the last record of an identifier stands. One that cannot be read counts
  as an engaged switch over everything: what it was meant to stop is not known. A
  tombstone of a switch is ignored, since removing a record is no release. A release
  dated in the future has not happened yet.
* Standing: the last record of a pseudonym stands unless it is based on less of
  `control.consent` than the one before (a second minimiser that lags).

Every record that is ignored, misread or dated in the future is counted in `ignored`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from infra.control.records import (
    CONSENT_TOPIC,
    MAX_SKEW_MS,
    POLICY_TOPIC,
    PROGRESS_KEY,
    STANDING_TOPIC,
    SWITCH_TOPIC,
    Consent,
    Policy,
    Record,
    Standing,
    Switch,
    Unreadable,
    key_of,
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
    """What a subject last said about one purpose."""

    granted: bool
    notice: str
    at: int
    """UTC epoch ms."""


class Entry(NamedTuple):
    """One record of a control topic as it was read. `record` is None for a tombstone."""

    topic: str
    offset: int
    key: str
    record: Record | Unreadable | None


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
    policy: Policy | None = None
    consents: Mapping[str, Words] = field(default_factory=dict)
    """By subject, or by pseudonym in mode `standing`."""
    switches: Mapping[str, Switch] = field(default_factory=dict)
    """By identifier, released ones too."""
    epoch: int = 0
    """The highest epoch that any release has started."""
    applied: Mapping[str, int] = field(default_factory=dict)
    """By topic, the last offset applied; absent where there is none."""
    consent_reached: int = -1
    """Mode `standing`: the offset of control.consent that the translation has reached."""
    based_on: Mapping[str, int] = field(default_factory=dict)
    """Mode `standing`: by pseudonym, the offset of control.consent its record is based on."""
    ignored: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By topic and why: records that were not taken at their word."""
    version: int = 0
    """Grows with every change that can change a verdict; verdicts are cached by it."""

    def words_of(self, subject: str) -> Words:
        """Return what one subject (or pseudonym) has said, by purpose."""
        return self.consents.get(subject, _NOTHING)

    def restarted(self, log: str) -> ControlState:
        """Return the empty state of another log: nothing of the old one holds there."""
        return ControlState(log=log, mode=self.mode, only=self.only, ignored=self.ignored, version=self.version + 1)


def apply(state: ControlState, entries: Iterable[Entry], now_ms: int) -> ControlState:
    """Return the state after these records, which come in the order of their offsets within each topic.

    A record at or below the offset already applied is a repeat and changes
    nothing. `now_ms` only decides what is counted as dated in the future.
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
        self._future = now_ms + MAX_SKEW_MS
        self.applied = dict(state.applied)
        self._ignored = dict(state.ignored)
        self._policy = state.policy
        self._consents: dict[str, Words] | None = None
        self._switches = dict(state.switches)
        self._epoch = state.epoch
        self._consent_reached = state.consent_reached
        self._based_on: dict[str, int] | None = None
        self._changed = False

    def add(self, entry: Entry) -> None:
        if isinstance(entry.record, Unreadable):
            self._ignore(entry.topic, entry.record.why)
        elif entry.record is not None and entry.key != key_of(entry.record):
            self._ignore(entry.topic, "wrong_key")
            entry = entry._replace(record=Unreadable("wrong_key"))
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
        new, old = entry.record, self._policy
        if new is None:
            self._policy = None
        elif isinstance(new, Policy):
            if old is not None and new.version < old.version:
                self._ignore(entry.topic, "lower_version")
                return
            if old is not None and new.version == old.version and new.content() != old.content():
                self._ignore(entry.topic, "same_version_other_content")
                return
            if new.applied_at > self._future:
                self._ignore(entry.topic, "future")
            self._policy = new
        else:
            return
        self._changed = True

    def _add_consent(self, entry: Entry) -> None:
        record = entry.record
        if isinstance(record, Consent):
            if record.at > self._future:
                self._ignore(entry.topic, "future")
            word = Word(record.granted, record.notice, record.at)
            self._say(record.subject, record.purpose, word)
        else:
            # Unreadable or removed: whatever was said before no longer stands.
            subject, _, purpose = entry.key.partition("/")
            self._say(subject, purpose, None)

    def _say(self, subject: str, purpose: str, word: Word | None) -> None:
        if self._state.mode == "authority" or (self._state.only is not None and subject not in self._state.only):
            return
        consents = self._state.consents if self._consents is None else self._consents
        if word is None and purpose not in consents.get(subject, _NOTHING):
            return
        if self._consents is None:
            self._consents = dict(self._state.consents)
        words = {name: said for name, said in self._consents.get(subject, _NOTHING).items() if name != purpose}
        if word is not None:
            words[purpose] = word
        self._consents[subject] = words
        self._changed = True

    def _add_switch(self, entry: Entry) -> None:
        record = entry.record
        if record is None:
            self._ignore(entry.topic, "tombstone")
            return
        if not isinstance(record, Switch):
            name = entry.key or f"unreadable-{entry.offset}"
            record = Switch(name, "everything", "", True, "a record that cannot be read", "", 0, 0)
        elif record.at > self._future:
            self._ignore(entry.topic, "future")
        self._switches[record.id] = record
        self._epoch = max(self._epoch, record.epoch)
        self._changed = True

    def _add_standing(self, entry: Entry) -> None:
        record = entry.record
        if self._state.mode != "standing":
            return
        if not isinstance(record, Standing):
            self._stand(entry.key, {})
        elif entry.key == PROGRESS_KEY:
            self._consent_reached = max(self._consent_reached, record.consent_offset)
        elif record.consent_offset < self._base().get(record.pseudonym, -1):
            self._ignore(entry.topic, "lagging")
        else:
            self._base()[record.pseudonym] = record.consent_offset
            said = zip(record.purposes, record.notices, strict=True)
            self._stand(record.pseudonym, {purpose: Word(True, notice, 0) for purpose, notice in said})

    def _base(self) -> dict[str, int]:
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
            # Plain: copying a proxy is ten times slower, and these grow with the number of people.
            consents=old.consents if self._consents is None else self._consents,
            switches=MappingProxyType(self._switches),
            epoch=self._epoch,
            applied=MappingProxyType(self.applied),
            consent_reached=self._consent_reached,
            based_on=old.based_on if self._based_on is None else self._based_on,
            ignored=MappingProxyType(self._ignored),
            version=old.version + 1 if self._changed else old.version,
        )


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

    A subject whom an engaged switch covers has, for those gates, no consent: they
    cannot recognise the subject that the switch names.
    """
    stopped = any(s.scope == "subject" and s.value == subject and s.stops(now_ms) for s in state.switches.values())
    words = state.words_of(subject)
    granted = sorted(
        (purpose, word.notice)
        for purpose, word in words.items()
        if word.granted and word.at <= now_ms + MAX_SKEW_MS and not stopped
    )
    return Standing(
        pseudonym=pseudonym,
        purposes=tuple(purpose for purpose, _ in granted),
        notices=tuple(notice for _, notice in granted),
        consent_offset=state.applied.get(CONSENT_TOPIC, -1),
    )
