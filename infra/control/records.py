"""The records of the control topics, typed, and their keys.

A record travels in Avro single-object encoding, so that it can be written and
read with nothing but the broker. `decode` never trusts: whatever cannot be read,
or says something that makes no sense, becomes `Unreadable`, and `state.py` decides
what that means for each topic (never: more is allowed).
"""

from __future__ import annotations

import hashlib
import json
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
ACK_TOPIC = "control.ack"

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
ALL_PURPOSES = ""
"""In place of a purpose: a pause over all of them, or its end."""
LATEST_MS = 253_402_300_800_000
"""The year 10,000: a moment from then on cannot be written as a date, so no record may hold one."""


@dataclass(frozen=True, slots=True)
class Signature:
    """An Ed25519 signature, both parts in hex; see `signing.py` for what is signed."""

    key: str
    signature: str


@dataclass(frozen=True, slots=True)
class Approver:
    """Somebody whose signature counts towards allowing more. `until` is UTC epoch ms, 0 for no end."""

    name: str
    key: str
    until: int = 0


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
    approvers: tuple[Approver, ...]
    applied_at: int
    applied_by: str
    notice_text: str = ""
    teams: tuple[str, ...] = ()
    signatures: tuple[Signature, ...] = ()

    def content(self) -> Policy:
        """Return the policy without who applied and signed it, and when: equal contents are the same policy."""
        return replace(self, applied_at=0, applied_by="", signatures=())

    @property
    def notice_digest(self) -> str:
        """SHA-256 of the notice's text, hex; empty where the policy holds no text."""
        return digest_of(self.notice_text)

    @property
    def notice_id(self) -> str:
        """What a consent must have been given under to count."""
        return notice_id(self.notice, self.notice_digest)

    def purpose(self, name: str) -> PurposeRule | None:
        """Return the rule of one purpose, or None when the policy does not have it."""
        return next((rule for rule in self.purposes if rule.name == name), None)


@dataclass(frozen=True, slots=True)
class Consent:
    """One subject's word on one purpose, or on a pause over all of them. Times are UTC epoch ms."""

    subject: str
    purpose: str
    """ALL_PURPOSES for a pause: not granted pauses, granted resumes."""
    granted: bool
    notice: str
    at: int
    notice_digest: str = ""
    until: int = 0
    """When a pause ends by itself; 0 for not."""
    signatures: tuple[Signature, ...] = ()


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
    expires_at: int = 0
    """When somebody must look at it again, UTC epoch ms; 0 where nobody said. It never releases."""
    releases: str = ""
    """Of a release: the digest of the engaging record (`signing.digest`)."""
    signatures: tuple[Signature, ...] = ()

    def stops(self, now_ms: int) -> bool:
        """Say whether it stops at that moment: a release dated in the future has not happened yet."""
        return self.engaged or self.at > now_ms + MAX_SKEW_MS


@dataclass(frozen=True, slots=True)
class Standing:
    """What a pseudonym's subject consents to; with an empty pseudonym: how far the translation reaches."""

    pseudonym: str
    purposes: tuple[str, ...]
    notices: tuple[str, ...]
    """By purpose, the notice consented under, as `notice_id` names it."""
    consent_offset: int
    switch_offset: int = -1


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The authority's word on how far the control topics reach. `at` is the authority's clock, UTC epoch ms."""

    authority: str
    log: str
    sequence: int
    at: int
    applied: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ack:
    """A gate's word on what it has applied and what it lets through. Times are UTC epoch ms."""

    gate: str
    role: str
    host: str
    log: str
    started_at: int
    at: int
    """By the authority's clock."""
    lease_ms: int
    """For how long the gate may stay open on this word; 0 where it has left."""
    applied: Mapping[str, int]
    open: bool
    why: str
    sources: tuple[str, ...]
    switches: tuple[str, ...]
    epoch: int
    policy_version: int


Record = Policy | Consent | Switch | Standing | Heartbeat | Ack


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that cannot be read, or makes no sense; `why` is a constant, never content."""

    why: str


SCOPES: tuple[str, ...] = tuple(
    next(f for f in load("switch").definition["fields"] if f["name"] == "scope")["type"]["symbols"]
)
"""What a switch may cover."""

_TYPES: Mapping[str, type[Record]] = MappingProxyType(
    {"policy": Policy, "consent": Consent, "switch": Switch, "standing": Standing, "heartbeat": Heartbeat, "ack": Ack}
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
        case Ack():
            return record.gate


def consent_key(subject: str, purpose: str) -> str:
    """Return the key of one subject's word on one purpose."""
    return f"{subject}/{purpose}"


def encode(record: Record) -> bytes:
    """Return a record's value as it stands on its topic."""
    return wire.encode_single(load(_SCHEMAS[type(record)]), asdict(record))


def notice_id(version: str, digest: str) -> str:
    """Return what names a notice: its version and, where its text is known, the first half of its digest."""
    return f"{version}#{digest[:32]}" if digest else version


def digest_of(text: str) -> str:
    """Return the SHA-256 of a notice, hex; empty for no text."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def decode(topic: str, value: bytes, key: str = "", at: int = 0) -> Record | Unreadable:
    """Read the value of a message of a control topic. Raises nothing: what cannot be read is `Unreadable`.

    A switch may also be engaged in plain JSON, which needs nothing but a stock
    Kafka client; then `key` names it, and `at` (the message's time) dates it.
    """
    if topic == SWITCH_TOPIC and value[:1] == b"{":
        return _plain_switch(value, key, at)
    name = SUBJECTS_OF_TOPICS[topic]
    single = wire.decode_single(value)
    if isinstance(single, Refusal):
        return Unreadable(single.value)
    if single.schema.name != name:
        return Unreadable("other_schema")
    return _check(_build(_TYPES[name], single.record))


def _plain_switch(value: bytes, key: str, at: int) -> Switch | Unreadable:
    """Read `{"scope": …, "value": …, "reason": …, "by": …}`: it can only engage, and only `scope` must be there."""
    try:
        said = json.loads(value)
    except (ValueError, RecursionError):
        return Unreadable("not_json")
    known = {"scope", "value", "reason", "by"}
    if not key or not known.issuperset(said) or not all(_is_text(text) for text in said.values()):
        return Unreadable("senseless")
    scope, _, joined = said.get("scope", "").partition(":")
    if scope not in SCOPES:
        return Unreadable("senseless")
    engaged = Switch(
        key, scope, said.get("value", joined), True, said.get("reason", ""), said.get("by", ""), at, epoch=0
    )
    return engaged if not _is_senseless(engaged) else Unreadable("senseless")


def _is_text(value: object) -> bool:
    # JSON can spell half a surrogate pair, which no encoding can write.
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _build(kind: type[Record], fields: Mapping[str, Any]) -> Record:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    if kind is Policy:
        values["purposes"] = tuple(
            PurposeRule(**{**rule, "sources": tuple(rule["sources"]), "fields": tuple(rule["fields"])})
            for rule in fields["purposes"]
        )
        values["approvers"] = tuple(Approver(**approver) for approver in fields["approvers"])
    if "signatures" in values:
        values["signatures"] = tuple(Signature(**signature) for signature in fields["signatures"])
    return kind(**values)


def _check(record: Record) -> Record | Unreadable:
    return Unreadable("senseless") if _is_senseless(record) else record


def _is_senseless(record: Record) -> bool:
    match record:
        case Policy():
            return bool(policy_fault(record))
        case Consent():
            return not record.subject or "/" in record.subject or _has_no_date(record.at, record.until)
        case Switch():
            covers_nothing = record.scope != "everything" and not record.value
            return not record.id or covers_nothing or record.epoch < 0 or _has_no_date(record.at, record.expires_at)
        case Standing():
            return len(record.purposes) != len(record.notices)
        case Heartbeat():
            return not record.authority or not record.log
        case Ack():
            return not record.gate or record.lease_ms < 0


def _has_no_date(*moments: int) -> bool:
    return not all(0 <= moment < LATEST_MS for moment in moments)


def policy_fault(policy: Policy) -> str:
    """Return what makes a policy senseless, or "" when it can be put in force."""
    names = [rule.name for rule in policy.purposes]
    lengths = policy.window_size_ms, policy.window_step_ms, policy.window_gap_ms, policy.lateness_ms
    ends = [approver.until for approver in policy.approvers]
    faults = {
        "the name is empty": not policy.name,
        "the version must be at least 1": policy.version < 1,
        "valid until must come after valid from": policy.valid_until <= policy.valid_from,
        "its dates must lie between the years 1970 and 9999": _has_no_date(
            policy.valid_from, policy.valid_until, policy.applied_at, *ends
        ),
        "the notice's version is empty": not policy.notice,
        "it has no purpose": not names,
        "a purpose stands in it twice": len(set(names)) != len(names),
        "retention must be at least 1 day": any(rule.retention_days < 1 for rule in policy.purposes),
        "the grid must be at least 1 px": policy.grid_px < 1,
        "the resolution must be at least 1 ms": policy.resolution_ms < 1,
        "the future tolerance must not be negative": policy.future_tolerance_ms < 0,
        "it needs two approvers or more": len({approver.key for approver in policy.approvers}) < 2,
        "an approver stands in it twice": _twice(policy.approvers),
    }
    of_window = (f"window {part}: {what}" for part, what in window_faults(policy.window_kind, *lengths))
    return next((fault for fault, there in faults.items() if there), "") or next(of_window, "")


def _twice(approvers: tuple[Approver, ...]) -> bool:
    return any(len({getattr(each, part) for each in approvers}) < len(approvers) for part in ("name", "key"))


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
