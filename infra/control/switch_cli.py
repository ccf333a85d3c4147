"""`tidegate switch`: stop, release, and see what is stopped."""

from __future__ import annotations

import getpass
import re
import secrets
import time
from typing import Annotated

import typer

from infra.addresses import Addresses
from infra.control.cli_shared import AsJson, By, answer, moment, read_control, show_freshness, table
from infra.control.identity import is_subject
from infra.control.purposes import known_purposes
from infra.control.reader import wall_ms
from infra.control.records import SCOPES, Switch
from infra.control.state import View
from infra.control.suggest import unknown
from infra.control.writer import ControlWriter
from infra.errors import TidegateError
from schemas.catalogue import SOURCES

switch = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Kill switches: stopping is instant and needs a reason."
)


@switch.command("engage")
def switch_engage(
    scope: Annotated[str, typer.Option(help=f"What to stop: everything, or {' | '.join(SCOPES[1:])} with `:VALUE`.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept and shown.")],
    name: Annotated[str, typer.Option("--id", help="Its identifier. (default: the scope and six hex digits)")] = "",
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Stop what the scope covers, now. Needs the broker and nothing else.

    Examples: `--scope everything`, `--scope source:keys`, `--scope application:mail`.
    """
    started = time.monotonic()
    kind, value = _scope(scope)
    _need_reason(reason)
    addresses = Addresses.load()
    identifier, epoch, note = (f"{kind}-{secrets.token_hex(3)}", 0, "")
    if name:
        identifier, epoch, note = _chosen_id(addresses, name, kind, value)
    new = Switch(identifier, kind, value, True, reason.strip(), by or getpass.getuser(), wall_ms(), epoch)
    with ControlWriter(addresses) as writer:
        offset = writer.write(new)[0]
    took = round((time.monotonic() - started) * 1000)
    document = {"id": new.id, "scope": kind, "value": value, "engaged": True, "offset": offset, "milliseconds": took}

    def told() -> None:
        print(f"engaged {new.id}: {_covers(new)} is stopped; written in {took} ms (offset {offset}). {note}".rstrip())
        print(f"release it with: tidegate switch release {new.id} --reason ...")

    answer(as_json, document, told)


@switch.command("release")
def switch_release(
    name: Annotated[str, typer.Argument(metavar="ID", help="Which switch; `tidegate switch list` shows them.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept and shown.")],
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Release a switch. Starts a new epoch: what was captured while it stopped is never let in."""
    _need_reason(reason)
    addresses = Addresses.load()
    state = read_control(addresses).state
    old = state.switches.get(name)
    if old is None:
        engaged = [each.id for each in state.switches.values() if each.engaged]
        raise TidegateError(unknown("switch", name, engaged))
    if not old.engaged:
        raise TidegateError(f"the switch {name} is not engaged: it was released at {moment(old.at)}.")
    new = Switch(
        old.id, old.scope, old.value, False, reason.strip(), by or getpass.getuser(), wall_ms(), state.epoch + 1
    )
    with ControlWriter(addresses) as writer:
        offset = writer.write(new)[0]
    left = sum(each.engaged for each in state.switches.values()) - 1

    def told() -> None:
        print(f"released {new.id}: {_covers(new)} may go on, in epoch {new.epoch}.")
        if left:
            print(f"{left} other switch{'es are' if left > 1 else ' is'} still engaged: see `tidegate switch list`.")

    answer(
        as_json,
        {"id": new.id, "engaged": False, "epoch": new.epoch, "offset": offset, "still_engaged": left},
        told,
    )


@switch.command("list")
def switch_list(
    every: Annotated[bool, typer.Option("--all", help="Released ones too.")] = False, as_json: AsJson = False
) -> None:
    """Show the engaged switches."""
    view = read_control(Addresses.load(), listen=True)
    found = [each for each in view.state.switches.values() if each.engaged or every]
    found.sort(key=lambda each: (not each.engaged, each.at))
    rows = [
        {
            "id": s.id,
            "scope": s.scope,
            "value": s.value,
            "engaged": s.engaged,
            "reason": s.reason,
            "by": s.by,
            "at": s.at,
        }
        for s in found
    ]
    document = {"switches": rows, "epoch": view.state.epoch, "fresh": view.fresh, "why": view.why}
    answer(as_json, document, lambda: _show_switches(found, view))


def _scope(text: str) -> tuple[str, str]:
    kind, _, value = text.partition(":")
    if kind not in SCOPES:
        raise TidegateError(unknown("scope", kind, SCOPES), code=2)
    if kind == "everything":
        if value:
            raise TidegateError("the scope everything has no value.", code=2)
        return kind, ""
    if not value.strip():
        raise TidegateError(f"the scope {kind} needs a value, as in `--scope {kind}:NAME`.", code=2)
    known = {"source": SOURCES, "purpose": known_purposes()}.get(kind)
    if known and value not in known:
        raise TidegateError(unknown(kind, value, known), code=2)
    if kind == "subject" and not is_subject(value):
        raise TidegateError("the scope subject needs a subject identifier: 32 hex digits.", code=2)
    return kind, value


def _need_reason(reason: str) -> None:
    if not reason.strip():
        raise TidegateError("a reason is needed: say why, for those who find it later.", code=2)


def _chosen_id(addresses: Addresses, name: str, kind: str, value: str) -> tuple[str, int, str]:
    """Return identifier, epoch and a note. An identifier used before is never written over blindly:

    its record may cover more than the new one, or hold the epoch of its release.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is None:
        raise TidegateError("an --id is 1 to 64 letters, digits, dots, dashes or underscores.", code=2)
    try:
        old = read_control(addresses).state.switches.get(name)
    except TidegateError:
        other = f"{name}-{secrets.token_hex(3)}"
        return other, 0, f"Whether {name} is in use could not be read, so this one has a name of its own."
    if old is None:
        return name, 0, ""
    if old.engaged and (old.scope, old.value) != (kind, value):
        raise TidegateError(f"the switch {name} is engaged over something else: {_covers(old)}. Choose another --id.")
    return name, old.epoch, "It was engaged already." if old.engaged else ""


def _covers(one: Switch) -> str:
    match one.scope:
        case "everything":
            return "everything"
        case "subject":
            return "one subject"
        case "team":
            return f"team {one.value} (and, since no directory of teams is known, everybody)"
        case _:
            return f"{one.scope} {one.value}"


def _show_switches(found: list[Switch], view: View) -> None:
    if not found:
        print("No switch is engaged.")
    else:
        table(
            ("id", "stops", "", "reason", "by", "at"),
            ((s.id, _covers(s), "ENGAGED" if s.engaged else "released", s.reason, s.by, moment(s.at)) for s in found),
        )
    show_freshness(view)
