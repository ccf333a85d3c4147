"""`tidegate policy`: begin, check, plan, apply and show policies."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.control import keyring
from infra.control.commands.cli_shared import AsJson, By, Keys, answer, read_control, show_freshness
from infra.control.commands.plain import whoami
from infra.control.commands.policy_apply import apply_policy
from infra.control.commands.policy_plan import ignored, may_sign, plan, proposal, waiting_document
from infra.control.commands.policy_shown import (
    show_ignored,
    show_in_force,
    show_outcome,
    show_plan,
    show_policy,
    show_waiting,
)
from infra.control.policy_warnings import days_left, foresight
from infra.control.reader import wall_ms
from infra.control.records import Policy
from infra.control.signing import APPROVALS

policy = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The policy in force: who may record what for which purpose. Without one, nothing.",
)

PolicyFile = Annotated[Path, typer.Argument(help="The policy, a YAML file.", show_default=False)]


@policy.command("check")
def policy_check(file: PolicyFile, as_json: AsJson = False) -> None:
    """Read a policy file as the gate will, and say what is wrong with it. Changes nothing, needs no stack."""
    checked, now = _load(file), wall_ms()
    answer(as_json, _policy_json(checked, now), lambda: show_policy(checked, f"{file} is a valid policy.", now))


@policy.command("new")
def policy_new(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not be there yet.", show_default=False)],
    approver: Annotated[
        list[str], typer.Option(help="Who may allow more: a key by name, or its .pub file; again for each.")
    ],
    name: Annotated[str, typer.Option(help="The policy's name. (default: the file's)")] = "",
    as_json: AsJson = False,
) -> None:
    """Write a policy to begin with, with comments, and its notice beside it. Overwrites nothing, needs no stack."""
    from infra.control.commands import policy_new

    written = policy_new.write(file, name, approver, datetime.now(UTC).date())
    missing = max(0, APPROVALS - len(approver))
    document = {"policy": str(file), "notice": str(written.notice), "approvers_missing": missing}

    def told() -> None:
        print(f"{file}  the policy: read it, and change what it allows")
        print(f"{written.notice}  what people agree to{': it was there, and is as it was' * written.notice_was_there}")
        if missing:
            print(
                "\nIt needs one approver more: have somebody else run `tidegate keys new NAME`, and add the line that "
                "it prints under `approvers`."
            )
        print(f"\nThen: tidegate policy check {file}")
        print(f"      tidegate policy plan {file}")
        print(f"      tidegate policy apply {file} --key NAME      (once by each of two approvers)")

    answer(as_json, document, told)


@policy.command("plan")
def policy_plan(file: PolicyFile, as_json: AsJson = False) -> None:
    """Say what a policy would allow and forbid compared with the one in force, and whose signatures it takes."""
    new = _load(file)
    found = plan(read_control(Addresses.load()).state, new, wall_ms())
    answer(as_json, found.document(), lambda: show_plan(found, str(file)))


@policy.command("apply")
def policy_apply(file: PolicyFile, key: Keys | None = None, by: By = "", as_json: AsJson = False) -> None:
    """Put a policy in force. What allows more takes the signatures of two approvers, by one command or by two.

    With one signature it is a proposal (exit code 3): it waits on the topic, and the
    same command with the key of another approver completes it.
    """
    new = replace(_load(file), applied_at=wall_ms(), applied_by=by or whoami())
    done = apply_policy(Addresses.load(), str(file), new, keyring.load(key or []))
    document = {
        **_policy_json(done.policy, wall_ms()),
        "state": "proposed" if done.is_proposal else "in_force",
        "changed": done.kind in {"proposed", "in_force"},
        "signed_by": list(done.signed),
        "may_sign": [name for name in done.plan.good if name not in done.signed],
    }
    answer(as_json, document, lambda: show_outcome(done, file))
    if done.is_proposal:
        raise typer.Exit(3)


@policy.command("show")
def policy_show(
    file: Annotated[Path | None, typer.Argument(help="A file to show instead.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show the policy in force and what waits for signatures, or the policy in a file."""
    if file is not None:
        policy_check(file, as_json)
        return
    view, now = read_control(Addresses.load(), listen=True), wall_ms()
    state = view.state
    waiting = proposal(state)
    document = {
        **_policy_json(state.policy, now),
        "waiting": waiting_document(waiting, state.log, may_sign(waiting, state)) if waiting else None,
        "ignored": ignored(state),
        "fresh": view.fresh,
        "why": view.why,
    }

    def told() -> None:
        show_in_force(state, now)
        if waiting is not None:
            print()
            show_waiting(waiting, state.log, may_sign(waiting, state))
        show_ignored(ignored(state))
        show_freshness(view)

    answer(as_json, document, told)


def _load(file: Path) -> Policy:
    from infra.control.policy_file import load_policy

    return load_policy(file, wall_ms())


def _policy_json(found: Policy | None, now_ms: int) -> dict[str, Any]:
    if found is None:
        return {"policy": None}
    return {
        "policy": {**asdict(found), "notice_digest": found.notice_digest},
        "days_left": round(days_left(found.valid_until, now_ms), 2),
        "warnings": foresight(found, now_ms),
    }
