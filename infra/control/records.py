"""The records of the control topics, typed, and their keys.

A record travels in Avro single-object encoding, so that it can be written and
read with nothing but the broker. `decode` never trusts: whatever cannot be read,
or says something that makes no sense, becomes `Unreadable`, and `state.py` decides
what that means for each topic (never: more is allowed).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from schemas import wire
from schemas.catalogue import SUBJECTS_OF_TOPICS, load
from schemas.refusals import Refusal

POLICY_TOPIC = "control.policy"
CONSENT_TOPIC = "control.consent"
SWITCH_TOPIC = "control.switch"
STANDING_TOPIC = "control.standing"
HEARTBEAT_TOPIC = "control.heartbeat"

POLICY_KEY = "policy"
PROGRESS_KEY = "progress"
"""Key of the Standing record that says how far the translation of control.consent reaches."""

MAX_SKEW_MS = 5_000
"""How far two machines' clocks may be apart. Machines that keep time are within
a few hundred ms; beyond 5 s a clock is wrong, and what it dates counts as future."""

MAX_WINDOW_MS = 2**31 - 1
"""An event's place in its window is an int32: 24 days."""
MAX_COPIES = 64
"""Hopping windows that one event may stand in."""


@dataclass(frozen=True, slots=True)
class PurposeRule:
    """What one purpose may use."""

    name: str
    description: str
    sources: tuple[str, ...]
    fields: tuple[str, ...]
    retention_days: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may record what for which purpose. Times are UTC epoch ms, lengths ms."""

    name: str
    version: int
    valid_from: int
    valid_until: int
    notice: str
    purposes: tuple[PurposeRule, ...]
    grid_px: int
    resolution_ms: int
    future_tolerance_ms: int
    window_kind: str
    window_size_ms: int
    window_step_ms: int
    window_gap_ms: int
    lateness_ms: int
    approvers: tuple[str, ...]
    applied_at: int
    applied_by: str

    def content(self) -> Policy:
        """Return the policy without who applied it and when: equal contents are the same policy."""
        return replace(self, applied_at=0, applied_by="")

    def purpose(self, name: str) -> PurposeRule | None:
        """Return the rule of one purpose, or None when the policy does not have it."""
        return next((rule for rule in self.purposes if rule.name == name), None)


@dataclass(frozen=True, slots=True)
class Consent:
    """One subject's word on one purpose. `at` is UTC epoch ms."""

    subject: str
    purpose: str
    granted: bool
    notice: str
    at: int


@dataclass(frozen=True, slots=True)
class Switch:
    """Stops whatever its scope covers while it is engaged. `at` is UTC epoch ms."""

    id: str
    scope: str
    value: str
    engaged: bool
    reason: str
    by: str
    at: int
    epoch: int

    def stops(self, now_ms: int) -> bool:
        """Say whether it stops at that moment: a release dated in the future has not happened yet."""
        return self.engaged or self.at > now_ms + MAX_SKEW_MS


@dataclass(frozen=True, slots=True)
class Standing:
    """What a pseudonym's subject consents to; with an empty pseudonym: how far the translation reaches."""

    pseudonym: str
    purposes: tuple[str, ...]
    notices: tuple[str, ...]
    consent_offset: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The authority's word on how far the control topics reach. `at` is the authority's clock, UTC epoch ms."""

    authority: str
    log: str
    sequence: int
    at: int
    applied: Mapping[str, int]


Record = Policy | Consent | Switch | Standing | Heartbeat


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that cannot be read, or makes no sense; `why` is a constant, never content."""

    why: str


SCOPES: tuple[str, ...] = tuple(
    next(f for f in load("switch").definition["fields"] if f["name"] == "scope")["type"]["symbols"]
)
"""What a switch may cover."""

_TYPES: Mapping[str, type[Record]] = MappingProxyType(
    {"policy": Policy, "consent": Consent, "switch": Switch, "standing": Standing, "heartbeat": Heartbeat}
)
_SCHEMAS = {kind: name for name, kind in _TYPES.items()}
_TOPICS = {_TYPES[name]: topic for topic, name in SUBJECTS_OF_TOPICS.items() if name in _TYPES}


def topic_of(record: Record) -> str:
    """Return the control topic that a record belongs on."""
    return _TOPICS[type(record)]


def key_of(record: Record) -> str:
    """Return a record's key: the last record of a key stands, so compaction loses nothing."""
    match record:
        case Policy():
            return POLICY_KEY
        case Consent():
            return consent_key(record.subject, record.purpose)
        case Switch():
            return record.id
        case Standing():
            return record.pseudonym or PROGRESS_KEY
        case Heartbeat():
            return record.authority


def consent_key(subject: str, purpose: str) -> str:
    """Return the key of one subject's word on one purpose."""
    return f"{subject}/{purpose}"


def encode(record: Record) -> bytes:
    """Return a record's value as it stands on its topic."""
    return wire.encode_single(load(_SCHEMAS[type(record)]), asdict(record))


def decode(topic: str, value: bytes) -> Record | Unreadable:
    """Read the value of a message of a control topic. Raises nothing: what cannot be read is `Unreadable`."""
    name = SUBJECTS_OF_TOPICS[topic]
    single = wire.decode_single(value)
    if isinstance(single, Refusal):
        return Unreadable(single.value)
    if single.schema.name != name:
        return Unreadable("other_schema")
    return _check(_build(_TYPES[name], single.record))


def _build(kind: type[Record], fields: Mapping[str, Any]) -> Record:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    if kind is Policy:
        values["purposes"] = tuple(
            PurposeRule(**{**rule, "sources": tuple(rule["sources"]), "fields": tuple(rule["fields"])})
            for rule in fields["purposes"]
        )
    return kind(**values)


def _check(record: Record) -> Record | Unreadable:
    match record:
        case Policy():
            bad = bool(policy_fault(record))
        case Consent():
            bad = not record.subject or not record.purpose or "/" in record.subject
        case Switch():
            bad = not record.id or (record.scope != "everything" and not record.value) or record.epoch < 0
        case Standing():
            bad = len(record.purposes) != len(record.notices)
        case Heartbeat():
            bad = not record.authority or not record.log
    return Unreadable("senseless") if bad else record


def policy_fault(policy: Policy) -> str:
    """Return what makes a policy senseless, or "" when it can be put in force."""
    names = [rule.name for rule in policy.purposes]
    lengths = policy.window_size_ms, policy.window_step_ms, policy.window_gap_ms, policy.lateness_ms
    faults = {
        "the name is empty": not policy.name,
        "the version must be at least 1": policy.version < 1,
        "valid until must come after valid from": policy.valid_until <= policy.valid_from,
        "the notice's version is empty": not policy.notice,
        "it has no purpose": not names,
        "a purpose stands in it twice": len(set(names)) != len(names),
        "retention must be at least 1 day": any(rule.retention_days < 1 for rule in policy.purposes),
        "the grid must be at least 1 px": policy.grid_px < 1,
        "the resolution must be at least 1 ms": policy.resolution_ms < 1,
        "the future tolerance must not be negative": policy.future_tolerance_ms < 0,
    }
    of_window = (f"window {part}: {what}" for part, what in window_faults(policy.window_kind, *lengths))
    return next((fault for fault, there in faults.items() if there), "") or next(of_window, "")


def window_faults(kind: str, size: int, step: int, gap: int, lateness: int) -> Iterator[tuple[str, str]]:
    """Yield what makes a way to cut windows senseless: which of the lengths (ms), by name, and why."""
    if size < 1:
        yield "size", "must be positive"
    elif size > MAX_WINDOW_MS:
        yield "size", f"must be at most {MAX_WINDOW_MS} ms, which is 24 days"
    if kind != "hopping":
        if step != size:
            yield "step", "only hopping windows have a step"
    elif step < 1:
        yield "step", "must be positive"
    elif step > size:
        yield "step", "is longer than the size: events between two windows would be in none"
    elif size > step * MAX_COPIES:
        yield "step", f"must be at least 1/{MAX_COPIES} of the size: an event stands in every window"
    if kind != "session":
        if gap:
            yield "gap", "only session windows have a gap"
    elif gap < 1:
        yield "gap", "a session window needs a gap: the silence that ends it"
    elif gap > size:
        yield "gap", "is longer than the size"
    if lateness < 0:
        yield "lateness", "must not be negative"
