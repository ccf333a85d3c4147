"""Putting a policy in force: refused, proposed to the next approver, or in force and read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from infra.addresses import Addresses
from infra.control.approval import endorse
from infra.control.commands.cli_shared import read_control
from infra.control.commands.policy_plan import Plan, either, plan, proposal, two_of
from infra.control.reader import wall_ms
from infra.control.records import MAX_SKEW_MS, POLICY_TOPIC, Policy
from infra.control.signing import APPROVALS
from infra.control.state import ControlState
from infra.control.writer import ControlWriter
from infra.errors import TidegateError

_NOT_TAKEN = {
    "future": f"its date is more than {MAX_SKEW_MS // 1000} s ahead of the broker's clock. Set this machine's clock "
    "right, then apply it again",
    "lower_version": "a higher version was put in force at the same moment. See it with `tidegate policy show`",
    "same_version": "this version was put in force with another content at the same moment. Raise `version`",
    "not_approved": "fewer than two of its signatures count: a key has run out, or those who may sign have changed. "
    "See who they are with `tidegate policy show`",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What applying a policy came to."""

    kind: Literal["unchanged", "signed_before", "proposed", "in_force"]
    policy: Policy
    plan: Plan
    signed: tuple[str, ...] = ()
    """The approvers whose signatures it has."""

    @property
    def is_proposal(self) -> bool:
        """Whether it waits for a signature."""
        return self.kind in {"signed_before", "proposed"}


def apply_policy(addresses: Addresses, file: str, new: Policy, seeds: Sequence[bytes]) -> Outcome:
    """Write the policy of a file, signed with these keys, and read back what became of it.

    Raises TidegateError, saying what to do, when the policy may not follow the one in
    force, when it needs signatures and there are none, when a key is no approver's,
    and when what was written was not taken.
    """
    now = wall_ms()
    state = read_control(addresses).state
    found = plan(state, new, now)
    if found.refused:
        raise TidegateError(f"{file} cannot be applied: {found.refused} Nothing was written.")
    if found.unchanged:
        return Outcome("unchanged", found.old or new, found)
    signed: tuple[str, ...] = ()
    if found.needs:
        if not seeds:
            raise TidegateError(_unsigned(found, file))
        new, approval = endorse(new, state, seeds, now)
        signed = approval.names
        if set(signed) == set(found.signed) and not approval.enough:
            return Outcome("signed_before", new, found, signed)
    after = _write(addresses, new)
    if after.policy is not None and after.policy.content() == new.content():
        return Outcome("in_force", after.policy, found, signed)
    waiting = proposal(after)
    if waiting is not None and waiting.content() == new.content() and len(signed) < APPROVALS:
        return Outcome("proposed", waiting, found, signed)
    raise TidegateError(f"version {new.version} was written, but it is not in force: {_why(state, after)}.")


def _unsigned(found: Plan, file: str) -> str:
    why = "allows more" if found.old is not None else "is the first, and so allows more"
    if found.old is None and found.last is not None:
        why = "follows one that was put out of force, and so counts as allowing more"
    if len(found.good) < APPROVALS:
        return (
            f"{file} {why}. That takes two approvers, and "
            f"{either(found.good) or 'none'} is the only one whose key is still good: under this log nobody can allow "
            "more any longer. Nothing was written."
        )
    had = f" {either(found.signed, 'and')} has signed it already." if found.signed else ""
    return (
        f"{file} {why}. That takes the signatures of {two_of(found.good)}.{had} Nothing was written.\n"
        f"  tidegate policy plan {file}              says what it would change\n"
        f"  tidegate policy apply {file} --key NAME  signs it, once for each approver"
    )


def _write(addresses: Addresses, record: Policy) -> ControlState:
    """Write the record, and return what the topic says from then on."""
    with ControlWriter(addresses) as writer:
        offset = writer.write(record)[0]
    state = read_control(addresses).state
    if state.applied.get(POLICY_TOPIC, -1) < offset:
        raise TidegateError(
            f"version {record.version} was written, but could not be read back yet. "
            "`tidegate policy show` says whether it is in force."
        )
    return state


def _why(before: ControlState, after: ControlState) -> str:
    grown = [
        why
        for (topic, why), count in after.ignored.items()
        if topic == POLICY_TOPIC and count > before.ignored.get((topic, why), 0)
    ]
    for why in grown:
        if why in _NOT_TAKEN:
            return _NOT_TAKEN[why]
    if after.policy is not None:
        return f"version {after.policy.version} has followed it. See it with `tidegate policy show`"
    return f"a record on {POLICY_TOPIC} that cannot be read, or its removal, came after it. Raise `version`, sign again"
