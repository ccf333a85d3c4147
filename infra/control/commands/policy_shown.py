"""How policies, plans and proposals are shown to a person."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import typer

from infra.control import signing
from infra.control.commands.policy_apply import Outcome
from infra.control.commands.policy_plan import Plan, either, two_of
from infra.control.policy_change import length, windows
from infra.control.policy_warnings import foresight, in_days
from infra.control.readable import moment, printable
from infra.control.reader import wall_ms
from infra.control.records import Approver, Policy
from infra.control.signing import APPROVALS
from infra.control.state import ControlState

_SIGNS = (
    ("allows", "+", "green", "Becomes allowed:"),
    ("forbids", "-", "red", "Becomes forbidden:"),
    ("differs", "~", "yellow", "Becomes different, which counts as allowing more:"),
)


def _say(line: str = "", colour: str | None = None) -> None:
    """Print a line, of which a record may have written some; in colour where a terminal shows it and nobody minds."""
    shown = printable(line)
    typer.echo(typer.style(shown, colour) if colour and not os.environ.get("NO_COLOR") else shown)


def show_policy(found: Policy, title: str, now_ms: int) -> None:
    """Show a policy whole, with what somebody must do about it soon."""
    _say(title)
    _say(f"  {found.name}, version {found.version}")
    _say(f"  from {moment(found.valid_from)} until {moment(found.valid_until)} ({in_days(found.valid_until, now_ms)})")
    _say(f"  notice {found.notice}, SHA-256 of its text {found.notice_digest or 'not known'}")
    _say(
        f"  windows: {windows(found)}, lateness {length(found.lateness_ms)}; "
        f"grid {found.grid_px} px, resolution {length(found.resolution_ms)}"
    )
    _say(f"  approvers: {', '.join(_approver(each, now_ms) for each in found.approvers) or 'none'}")
    _say(f"  teams: {', '.join(found.teams) or 'none'}")
    for rule in found.purposes:
        _say(f"  {rule.name}, kept for {rule.retention_days} days: {' '.join(rule.description.split())}")
        _say(f"    sources  {' '.join(rule.sources) or 'none'}")
        _say(f"    fields   {' '.join(rule.fields) or 'none'}")
    show_notes(foresight(found, now_ms))


def show_notes(notes: list[str] | tuple[str, ...]) -> None:
    """Say what somebody should know, or do."""
    for note in notes:
        _say(f"! {note[0].upper()}{note[1:]}")


def show_waiting(waiting: Policy, log: str, approvers: tuple[Approver, ...]) -> None:
    """Show a policy that waits for signatures."""
    names = signing.approvals(waiting, log, approvers, waiting.applied_at)
    _say(
        f"Version {waiting.version} waits for signatures: proposed by {waiting.applied_by} at "
        f"{moment(waiting.applied_at)}, signed by {either(names, 'and') or 'nobody'}."
    )
    others = tuple(each.name for each in approvers if each.name not in names)
    _say(f"One signature more puts it in force, by {either(others)}: tidegate policy apply FILE --key NAME")


_IGNORED = {
    "not_approved": "allowed more, with fewer than two signatures that count (proposals are among them)",
    "lower_version": "of a lower version than the one before",
    "same_version": "of a version that is used up",
    "future": "dated ahead of the broker's clock",
    "removed": "removed, which put the policy out of force",
}


def show_ignored(counts: Mapping[str, int]) -> None:
    """Say which records were not taken at their word; every proposal is among them."""
    for why, count in counts.items():
        said = _IGNORED.get(why, f"could not be read ({why}), which put the policy out of force")
        _say(f"Not taken since the log began: {count} record{'' if count == 1 else 's'} {said}.")


def show_in_force(state: ControlState, now_ms: int) -> None:
    """Show the policy in force, or why there is none."""
    found, last = state.policy, state.last_policy
    if found is not None:
        word = "In force" if found.valid_from <= now_ms < found.valid_until else "Applied, but not in its time"
        # Those of the policy before it decided; of the first one, its own.
        *_, (_, deciding) = [(0, found.approvers), *state.approvers[:-1]]
        signed = signing.approvals(found, state.log, deciding, found.applied_at)
        by = f", signed by {either(signed, 'and')}" if signed else ""
        show_policy(found, f"{word}, by {found.applied_by} at {moment(found.applied_at)}{by}:", now_ms)
    elif last is not None:
        _say(
            f"No policy is in force, so nothing passes: a record that was removed or cannot be read has put version "
            f"{last.version} out of force. What follows is version {last.version + 1} or higher, signed by two of "
            f"{either([each.name for each in last.approvers], 'and')}: tidegate policy apply FILE --key NAME"
        )
    else:
        _say("No policy is in force, so nothing passes. To write one to begin with:")
        _say("  tidegate policy new FILE --approver NAME --approver NAME")


def show_outcome(done: Outcome, file: Path) -> None:
    """Say what applying a policy came to."""
    signed = either(done.signed, "and")
    if done.is_proposal:
        others = tuple(name for name in done.plan.good if name not in done.signed)
        again = " before" if done.kind == "signed_before" else ""
        _say(f"Proposed, not in force: {done.policy.name} version {done.policy.version}, signed by {signed}{again}.")
        _say(f"One signature more puts it in force, by {either(others)}, from any machine with this file:")
        _say(f"  tidegate policy apply {file} --key NAME")
        if done.plan.takes_place_of is not None:
            show_notes([f"it has taken the place of the proposal of version {done.plan.takes_place_of.version}."])
        return
    if done.kind == "unchanged":
        title = "In force already:"
    elif signed:
        title = f"In force now, signed by {signed}:"
    else:
        title = "In force now. It only forbids, so nobody had to sign it:"
    show_policy(done.policy, title, wall_ms())


def show_plan(plan: Plan, file: str) -> None:
    """Show what applying a policy would change, and whose signatures it takes."""
    _say(f"{file} ({plan.new.name}, version {plan.new.version}), compared with {_before(plan)}:")
    if plan.unchanged:
        _say()
        _say("It is in force already. Nothing becomes allowed or forbidden.")
        return
    for effect, sign, colour, title in _SIGNS:
        lines = plan.of(effect)
        if effect == "differs" and not lines:
            continue
        _say()
        _say(title if lines else f"{title} nothing")
        for line in lines:
            _say(f"  {sign} {line}", colour)
    _say()
    _show_consents(plan)
    other = plan.takes_place_of
    if other is not None:
        _say(f"The proposal of version {other.version} by {other.applied_by}, which waits, would lose its place to it.")
    show_notes(plan.notes)
    _show_signatures(plan, file)


def _before(plan: Plan) -> str:
    if plan.old is not None:
        return f"version {plan.old.version} in force"
    if plan.last is not None:
        return f"nothing, since version {plan.last.version} was put out of force"
    return "nothing, since no policy was ever in force"


def _show_consents(plan: Plan) -> None:
    lapsing, returning = plan.lapsing, plan.returning
    if plan.last is not None and plan.last.notice_id != plan.new.notice_id:
        if lapsing.consents:
            _say(f"The notice changes: {_many(lapsing.consents, lapsing.people)} lapse until they are given again.")
        else:
            _say("The notice changes. No consent lapses: none stands under the one before.")
    if returning.consents:
        _say(f"{_many(returning.consents, returning.people)}, given to this very notice before, count again.")


def _many(consents: int, people: int) -> str:
    return f"{consents} consent{'' if consents == 1 else 's'} of {people} {'person' if people == 1 else 'people'}"


def _show_signatures(plan: Plan, file: str) -> None:
    if plan.refused:
        _say(f"It cannot be applied: {plan.refused}")
        return
    if not plan.needs:
        _say(f"It only forbids, so it needs nobody's signature: tidegate policy apply {file}")
        return
    had = f"{either(plan.signed, 'and')} has signed it already." if plan.signed else "Nobody has signed it yet."
    if len(plan.good) < APPROVALS:
        _say(f"It needs two signatures, and only {either(plan.good) or 'nobody'} has a key that is still good.")
        _say("It cannot be applied.")
        return
    _say(f"It needs the signatures of {two_of(plan.good)}. {had}")
    _say(f"Each signs with: tidegate policy apply {file} --key NAME")


def _approver(approver: Approver, now_ms: int) -> str:
    if not approver.until:
        return approver.name
    if approver.until <= now_ms:
        return f"{approver.name} (ran out {moment(approver.until)[:10]})"
    return f"{approver.name} (until {moment(approver.until)[:10]})"
