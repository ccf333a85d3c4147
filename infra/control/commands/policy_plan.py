"""What applying a policy would do, and whether it may be done: for `tidegate policy plan` and `apply`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.control import signing
from infra.control.policy_change import Change, changes
from infra.control.policy_warnings import foresight
from infra.control.records import POLICY_KEY, POLICY_TOPIC, Approver, Policy
from infra.control.state import ControlState


@dataclass(frozen=True, slots=True)
class Lapse:
    """Consents that a new notice takes away, or brings back."""

    consents: int
    people: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What putting a policy in force would mean now."""

    new: Policy
    old: Policy | None
    """The one in force."""
    last: Policy | None
    """The one in force or, where it was put out of force, the one before."""
    log: str
    changes: tuple[Change, ...]
    refused: str
    """Why it cannot follow the one before, and what to do; empty where it can."""
    lapsing: Lapse
    returning: Lapse
    approvers: tuple[Approver, ...]
    """Whose signatures count, those whose keys have run out among them."""
    good: tuple[str, ...]
    """The names of those whose keys have not."""
    waiting: Policy | None
    """What waits for signatures."""
    signed: tuple[str, ...]
    """Who has signed what waits, if it is this very policy."""
    notes: tuple[str, ...]

    @property
    def unchanged(self) -> bool:
        """Whether this very policy is in force already."""
        return self.old is not None and self.old.content() == self.new.content()

    @property
    def needs(self) -> bool:
        """Whether it takes signatures: it allows more, or nothing is in force that it could be less than."""
        return self.old is None or any(change.loosens for change in self.changes)

    @property
    def takes_place_of(self) -> Policy | None:
        """Another proposal that waits, which nobody would find any more."""
        same = self.waiting is not None and self.waiting.content() == self.new.content()
        return None if same else self.waiting

    def of(self, effect: str) -> list[str]:
        """Return the changes of one effect, in words."""
        return [change.what for change in self.changes if change.effect == effect]

    def document(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "name": self.new.name,
            "version": self.new.version,
            "in_force": None if self.old is None else self.old.version,
            "allows": self.of("allows"),
            "forbids": self.of("forbids"),
            "differs": self.of("differs"),
            "consents_lapse": self.lapsing.consents,
            "people_lapse": self.lapsing.people,
            "consents_return": self.returning.consents,
            "signatures_needed": signing.APPROVALS if self.needs and not self.unchanged else 0,
            "may_sign": list(self.good),
            "signed_by": list(self.signed),
            "waiting": None if self.waiting is None else waiting_document(self.waiting, self.log, self.approvers),
            "refused": self.refused,
            "notes": list(self.notes),
        }


def plan(state: ControlState, new: Policy, now_ms: int) -> Plan:
    """Say what applying `new` would do at `now_ms` (UTC epoch ms)."""
    old, last = state.policy, state.last_policy
    approvers = may_sign(new, state)
    waiting = proposal(state)
    same = waiting is not None and waiting.content() == new.content()
    before = last.notice_id if last is not None else ""
    changed = before != new.notice_id
    return Plan(
        new=new,
        old=old,
        last=last,
        log=state.log,
        changes=tuple(changes(old, new)),
        refused=_refused(old, last, new),
        lapsing=_consents(state, before) if changed and before else Lapse(0, 0),
        returning=_consents(state, new.notice_id) if changed else Lapse(0, 0),
        approvers=approvers,
        good=tuple(a.name for a in approvers if not a.until or now_ms < a.until),
        waiting=waiting,
        signed=signing.approvals(waiting, state.log, approvers, now_ms) if waiting is not None and same else (),
        notes=tuple(_notes(last, new, now_ms)),
    )


def may_sign(policy: Policy, state: ControlState) -> tuple[Approver, ...]:
    """Return whose signatures on a policy count: the approvers of the last one or, for the first one, its own."""
    return policy.approvers if state.last_policy is None else state.last_policy.approvers


def proposal(state: ControlState) -> Policy | None:
    """Return the policy that waits for signatures, or None."""
    waiting = state.pending.get((POLICY_TOPIC, POLICY_KEY))
    return waiting if isinstance(waiting, Policy) else None


def ignored(state: ControlState) -> dict[str, int]:
    """Return how many records of the policy's topic were not taken at their word, by why."""
    return {why: count for (topic, why), count in sorted(state.ignored.items()) if topic == POLICY_TOPIC}


def waiting_document(waiting: Policy, log: str, approvers: tuple[Approver, ...]) -> dict[str, Any]:
    """Return a proposal for `--json`."""
    return {
        "name": waiting.name,
        "version": waiting.version,
        "proposed_by": waiting.applied_by,
        "proposed_at": waiting.applied_at,
        "signed_by": list(signing.approvals(waiting, log, approvers, waiting.applied_at)),
    }


def either(names: tuple[str, ...] | list[str], word: str = "or") -> str:
    """Return names as people list them."""
    return f" {word} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def two_of(names: tuple[str, ...]) -> str:
    """Return whose signatures it takes, two of them."""
    return either(names, "and") if len(names) <= signing.APPROVALS else f"two of {either(names, 'and')}"


def _refused(old: Policy | None, last: Policy | None, new: Policy) -> str:
    if last is None:
        return ""
    raised = f"Raise `version` to {last.version + 1}."
    if old is None and new.version <= last.version:
        return (
            f"version {last.version} was put out of force, by a record that was removed or cannot be read, and its "
            f"version is used up. {raised}"
        )
    if new.version < last.version:
        return (
            f"it is version {new.version}, and version {last.version} is in force: a lower one never follows. {raised}"
        )
    if new.version == last.version and new.content() != last.content():
        return f"version {new.version} is in force with another content. {raised}"
    return ""


def _consents(state: ControlState, notice: str) -> Lapse:
    counts = [
        sum(bool(purpose) and word.granted and word.notice == notice for purpose, word in words.items())
        for words in state.consents.values()
    ]
    return Lapse(sum(counts), sum(bool(count) for count in counts))


def _notes(last: Policy | None, new: Policy, now_ms: int) -> Iterator[str]:
    if new.valid_from > now_ms and last is not None:
        yield "it takes the place of the one before at once, not only when it begins."
    if last is not None and last.notice == new.notice and last.notice_id != new.notice_id:
        yield f"the notice has another text under the same version, {new.notice}: who reads the version is misled."
    yield from foresight(new, now_ms)
