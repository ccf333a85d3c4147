"""Who may have recorded what, at one moment: `judge`, a pure function of the control state.

The rules of the gate stand here; `gate.py` applies them to columns of events.
Whatever is missing, stale, unreadable or dated in the future means no.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from infra.control import reasons
from infra.control.purposes import served_fields
from infra.control.records import ALL_PURPOSES, MAX_SKEW_MS, Policy, PurposeRule, Switch
from infra.control.state import ControlState, View
from schemas.catalogue import KIND_NAMES, POLICY_FIELDS, SOURCE_OF_KIND, SOURCES

__all__ = ["Judge", "Verdict", "judge", "kinds_open", "served_fields"]

_KINDS = len(KIND_NAMES)
_FOREVER = 2**62


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one subject may have recorded at one moment."""

    purposes: frozenset[str]
    """Purposes consented to, in the policy, and not stopped."""
    fields: frozenset[str]
    """The fields that any of them may keep, of any kind of event; see `kind_fields`."""
    refusal: tuple[str, ...]
    """By kind code: "" to pass, else a reason."""
    kind_fields: tuple[frozenset[str], ...]
    """By kind code: the fields that an event of that kind may keep, over the purposes that may use its source."""
    stopped_applications: frozenset[str] = frozenset()
    """Applications that a switch covers."""
    until: int = _FOREVER
    """UTC epoch ms: before then, and from the moment judged at, the same state gives the same verdict."""
    codes: bytes = field(init=False, repr=False)
    """`refusal` as reason codes, one byte a kind."""
    bits: bytes = field(init=False, repr=False)
    """`kind_fields` as bit sets over POLICY_FIELDS, two bytes a kind, native order."""

    def __post_init__(self) -> None:
        bits = [sum(1 << i for i, name in enumerate(POLICY_FIELDS) if name in kept) for kept in self.kind_fields]
        object.__setattr__(self, "codes", bytes(reasons.CODES[reason] for reason in self.refusal))
        object.__setattr__(self, "bits", np.array(bits, dtype=np.uint16).tobytes())


def judge(view: View, subject: str, now_ms: int, epoch: int) -> Verdict:
    """Decide what `subject` (a pseudonym, where the view's mode is `standing`) may have recorded.

    `now_ms` is UTC epoch ms, `epoch` the control epoch in which the events were
    captured. The verdict depends on nothing but the arguments; `Judge` caches it.
    """
    state = view.state
    if not view.fresh:
        return _refuse(reasons.STALE)
    policy = state.policy
    if policy is None:
        return _refuse(reasons.NO_POLICY)
    until = _until(state, policy, subject, now_ms)
    stopping = state.stopping(now_ms)
    reason = _out_of_force(policy, now_ms) or (reasons.EPOCH if epoch < state.epoch else "")
    reason = reason or _stopped(state, stopping, subject, now_ms)
    if reason:
        return _refuse(reason, until)
    consented, lapsed = _consented(state, policy, subject, now_ms)
    if not consented:
        return _refuse(reasons.NOTICE_CHANGED if lapsed else reasons.NO_CONSENT, until)
    stopped = frozenset((switch.scope, switch.value) for switch in stopping)
    return _by_kind(tuple(consented), stopped, until)


@lru_cache(maxsize=256)
def _refuse(reason: str, until: int = _FOREVER) -> Verdict:
    return Verdict(frozenset(), frozenset(), (reason,) * _KINDS, (frozenset(),) * _KINDS, until=until)


def _out_of_force(policy: Policy, now_ms: int) -> str:
    if policy.applied_at > now_ms + MAX_SKEW_MS:
        return reasons.NO_POLICY
    if now_ms < policy.valid_from:
        return reasons.POLICY_NOT_YET
    return reasons.POLICY_EXPIRED if now_ms >= policy.valid_until else ""


def _until(state: ControlState, policy: Policy, subject: str, now_ms: int) -> int:
    """The next moment at which time alone changes the verdict."""
    moments = [policy.valid_from, policy.valid_until, policy.applied_at - MAX_SKEW_MS]
    moments += [moment for word in state.words_of(subject).values() for moment in (word.at - MAX_SKEW_MS, word.until)]
    moments += [switch.at - MAX_SKEW_MS for switch in state.stopping(now_ms)]
    return min((moment for moment in moments if moment > now_ms), default=_FOREVER)


def _stopped(state: ControlState, stopping: Sequence[Switch], subject: str, now_ms: int) -> str:
    """Why nothing of this subject may pass, be it by others' word or their own; "" where something may."""
    if any(_covers_all(state, switch, subject) for switch in stopping):
        return reasons.SWITCH
    pause = state.words_of(subject).get(ALL_PURPOSES)
    return reasons.PAUSED if pause is not None and pause.pauses(now_ms) else ""


def _covers_all(state: ControlState, switch: Switch, subject: str) -> bool:
    """Whether it stops everything that this subject does.

    One for a source that is not known here may mean any: it may stop too much,
    never too little. Gates of pseudonyms learn of subjects and teams by `standing_of`.
    """
    match switch.scope:
        case "subject" | "team":
            return state.mode != "standing" and state.covers_subject(switch, subject)
        case "source":
            return switch.value not in SOURCES
        case "purpose" | "application":
            return False
        case _:
            return True


def _consented(state: ControlState, policy: Policy, subject: str, now_ms: int) -> tuple[list[PurposeRule], bool]:
    """The policy's purposes that the subject allows now, and whether others were allowed under another notice."""
    consented, lapsed = [], False
    words = state.words_of(subject)
    for rule in policy.purposes:
        word = words.get(rule.name)
        if word is None or not word.granted or word.at > now_ms + MAX_SKEW_MS or not served_fields(rule.name):
            continue
        if word.notice == policy.notice_id:
            consented.append(rule)
        else:
            lapsed = True
    return consented, lapsed


# Most subjects share a handful of verdicts: a change of the state judges thousands of them anew, at 10 µs each.
@lru_cache(maxsize=256)
def _by_kind(consented: tuple[PurposeRule, ...], stopped: frozenset[tuple[str, str]], until: int) -> Verdict:
    running = [rule for rule in consented if ("purpose", rule.name) not in stopped]
    refusal, kind_fields = [], []
    for source in SOURCE_OF_KIND:
        using = [rule for rule in running if source in rule.sources] if ("source", source) not in stopped else []
        fields = frozenset().union(*(served_fields(rule.name).intersection(rule.fields) for rule in using))
        if using and source:
            refusal.append(reasons.PASS)
        else:
            allowed = source and any(source in rule.sources for rule in consented)
            refusal.append(reasons.SWITCH if allowed else reasons.SOURCE_NOT_ALLOWED)
        kind_fields.append(fields)
    return Verdict(
        purposes=frozenset(rule.name for rule in running),
        fields=frozenset().union(*kind_fields),
        refusal=tuple(refusal),
        kind_fields=tuple(kind_fields),
        stopped_applications=frozenset(value for scope, value in stopped if scope == "application"),
        until=until,
    )


def kinds_open(verdict: Verdict) -> NDArray[np.bool_]:
    """Return by kind code whether an event of that kind may be captured at all.

    An application that a switch covers is not in it: ask `verdict.stopped_applications`.
    """
    passes: NDArray[np.bool_] = np.frombuffer(verdict.codes, dtype=np.uint8) == 0
    return passes


class Judge:
    """`judge`, remembering its verdicts for as long as they hold. For one thread.

    A verdict holds for one version of the state, and until time alone changes it
    (a policy begins or runs out); a clock set back makes it judge again.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._of: tuple[str, int, bool] | None = None
        self._known: dict[tuple[str, int], tuple[int, Verdict]] = {}

    def __call__(self, view: View, subject: str, now_ms: int, epoch: int) -> Verdict:
        """Return the verdict, judging only when it is not known. Same arguments as `judge`."""
        of = (view.state.log, view.state.version, view.fresh)
        if of != self._of or len(self._known) >= self._limit:
            self._of = of
            self._known.clear()
        judged_at, verdict = self._known.get((subject, epoch), (0, None))
        if verdict is None or not judged_at <= now_ms < verdict.until:
            verdict = judge(view, subject, now_ms, epoch)
            self._known[subject, epoch] = (now_ms, verdict)
        return verdict
