"""`tidegate policy`: check, apply and show policies."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.control.cli_shared import AsJson, By, answer, moment, read_control, show_freshness, table
from infra.control.reader import wall_ms
from infra.control.records import Policy
from infra.control.writer import ControlWriter
from infra.errors import TidegateError

policy = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The policy in force: who may record what for which purpose. Without one, nothing.",
)

PolicyFile = Annotated[Path, typer.Argument(help="The policy, a YAML file.", show_default=False)]


@policy.command("check")
def policy_check(file: PolicyFile, as_json: AsJson = False) -> None:
    """Read a policy file as the gate will, and say what is wrong with it. Changes nothing, needs no stack."""
    from infra.control.policy_file import load_policy

    checked = load_policy(file, wall_ms())
    answer(as_json, _policy_json(checked), lambda: _show_policy(checked, f"{file} is a valid policy."))


@policy.command("apply")
def policy_apply(file: PolicyFile, by: By = "", as_json: AsJson = False) -> None:
    """Put a policy in force. It must be newer than the one in force: raise its version to change it."""
    from dataclasses import replace

    from infra.control.policy_file import load_policy

    new = replace(load_policy(file, wall_ms()), applied_at=wall_ms(), applied_by=by or getpass.getuser())
    addresses = Addresses.load()
    old = read_control(addresses).state.policy
    if old is not None and new.version < old.version:
        raise TidegateError(
            f"{file} is version {new.version}, and version {old.version} is in force: a lower version never replaces "
            f"a higher one. Raise `version` to {old.version + 1}."
        )
    if old is not None and new.version == old.version:
        if new.content() != old.content():
            raise TidegateError(
                f"version {new.version} is in force with another content. Raise `version` to {new.version + 1}."
            )
        answer(as_json, {**_policy_json(old), "changed": False}, lambda: _show_policy(old, "In force already:"))
        return
    with ControlWriter(addresses) as writer:
        writer.write(new)
    answer(as_json, {**_policy_json(new), "changed": True}, lambda: _show_policy(new, "In force now:"))


@policy.command("show")
def policy_show(
    file: Annotated[Path | None, typer.Argument(help="A file to show instead.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show the policy in force, or the one in a file."""
    if file is not None:
        policy_check(file, as_json)
        return
    view = read_control(Addresses.load(), listen=True)
    found = view.state.policy
    document = {**_policy_json(found), "fresh": view.fresh, "why": view.why}

    def told() -> None:
        if found is None:
            print("No policy is in force, so nothing passes. Put one in force with `tidegate policy apply FILE`.")
        else:
            now = wall_ms()
            word = "In force" if found.valid_from <= now < found.valid_until else "Applied, but not in its time"
            _show_policy(found, f"{word}, by {found.applied_by} at {moment(found.applied_at)}:")
        show_freshness(view)

    answer(as_json, document, told)


def _policy_json(found: Policy | None) -> dict[str, Any]:
    from dataclasses import asdict

    return {"policy": None if found is None else asdict(found)}


def _show_policy(found: Policy, title: str) -> None:
    print(title)
    print(f"  {found.name}, version {found.version}, notice {found.notice}")
    print(f"  valid from {moment(found.valid_from)} until {moment(found.valid_until)}")
    extra = {"hopping": f", step {found.window_step_ms} ms", "session": f", gap {found.window_gap_ms} ms"}
    print(
        f"  {found.window_kind} windows of {found.window_size_ms} ms{extra.get(found.window_kind, '')}, "
        f"lateness {found.lateness_ms} ms; grid {found.grid_px} px, resolution {found.resolution_ms} ms"
    )
    table(
        ("purpose", "sources", "fields", "kept"),
        (
            (rule.name, " ".join(rule.sources), " ".join(rule.fields), f"{rule.retention_days} days")
            for rule in found.purposes
        ),
    )
