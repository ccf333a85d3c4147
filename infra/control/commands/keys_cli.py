"""`tidegate keys`: make and list the keys that people sign with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.control import keyring
from infra.control.commands.cli_shared import READ_SECONDS, AsJson, answer
from infra.control.commands.policy_new import KEY_DAYS, approver_line
from infra.control.policy_warnings import in_days, pressing
from infra.control.readable import moment, printable
from infra.control.reader import ControlReader, wall_ms
from infra.control.records import Approver
from infra.errors import TidegateError

keys = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The keys that people sign with: what is private never leaves its file.",
)

LOOKUP_SECONDS = 1.0
"""How long a broker may take to answer before keys are listed without saying whose they are."""

Folder = Annotated[
    Path | None,
    typer.Option("--dir", help="The folder. (default: TIDEGATE_KEYS, else ~/.config/tidegate/keys)"),
]


@keys.command("new")
def keys_new(
    name: Annotated[str, typer.Argument(help="Whose it is, such as `anna`.", show_default=False)],
    folder: Folder = None,
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="After how many days it runs out.")] = KEY_DAYS,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print the line that names it in a policy. Overwrites nothing."""
    made = keyring.create(name, folder or keyring.folder())
    until = datetime.now(UTC).date() + timedelta(days=valid_days)
    line = approver_line(name, made.public, until)
    public_file = str(made.key_file)[: -len(keyring.SUFFIX)] + keyring.PUBLIC
    document = {
        "name": name,
        "key_file": str(made.key_file),
        "public_file": public_file,
        "public": made.public,
        "until": until.isoformat(),
        "line": line,
    }

    def told() -> None:
        print(f"{made.key_file}  the key: yours alone, never to be copied or sent")
        print(f"{public_file}  its public half: anybody may have it")
        print("\nTo make it an approver's, add this line to a policy, under `approvers`:\n")
        print(f"  {line}")
        print(
            "\nTo consent to being recorded, a key needs no policy to name it: "
            f"tidegate consent grant --subject-key {made.key_file} --purpose …"
        )

    answer(as_json, document, told)


@keys.command("list")
def keys_list(folder: Folder = None, as_json: AsJson = False) -> None:
    """Show your keys, and whose approver each is in the policy in force. Exits 1 where a file is not as it must be."""
    where = folder or keyring.folder()
    pairs = keyring.pairs(where)
    problem = keyring.folder_problem(where) if pairs else ""
    known = _approvers() if pairs else _Known()
    now = wall_ms()
    rows = [_row(pair, known, now) for pair in pairs]
    document = {"folder": str(where), "problem": problem, "policy": known.policy, "why": known.why, "keys": rows}
    answer(as_json, document, lambda: _show(where, rows, problem, known, now))
    if problem or any(row["problem"] for row in rows):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Known:
    """Who may approve, as far as the broker could be asked."""

    approvers: tuple[Approver, ...] = ()
    policy: int | None = None
    """Version of the policy that names them; None where there is none, or it is not known."""
    why: str = ""
    """Why it is not known; empty where it is."""


def _approvers() -> _Known:
    try:
        # Nobody's consents are needed, only the policy.
        with ControlReader(Addresses.load(), "consent", subjects=frozenset()) as reader:
            reader.wait_for(lambda _: reader.answered or reader.read_to_end, LOOKUP_SECONDS)
            if not reader.answered:
                return _Known(why=f"the broker did not answer within {LOOKUP_SECONDS:g} s")
            state = reader.wait_for(lambda _: reader.read_to_end or bool(reader.trouble), READ_SECONDS).state
            if not reader.read_to_end:
                return _Known(why=f"the control topics could not be read ({reader.trouble or 'no answer'})")
    except TidegateError as error:
        return _Known(why=str(error).rstrip("."))
    last = state.last_policy
    return _Known(last.approvers, last.version) if last else _Known()


def _row(pair: keyring.Pair, known: _Known, now: int) -> dict[str, Any]:
    approver = next((each for each in known.approvers if each.key == pair.public), None)
    return {
        "name": pair.name,
        "file": str(pair.key_file) if pair.key_file else None,
        "public": pair.public or None,
        "approver": approver.name if approver else None,
        "until": approver.until if approver else None,
        "good": None if known.why else approver is not None and (not approver.until or now < approver.until),
        "problem": pair.problem,
    }


def _show(where: Path, rows: list[dict[str, Any]], problem: str, known: _Known, now: int) -> None:
    if not rows:
        print(f"There are no keys in {where}. `tidegate keys new NAME` makes one.")
        return
    print(f"{where}:")
    for row in rows:
        whose = "" if known.why else f": {_whose(row, known, now)}"
        print(f"\n{row['name']}{'' if row['file'] else ' (public half only)'}{whose}")
        if row["public"]:
            print(f"  {row['public']}")
        if row["problem"]:
            print(f"  ! {row['problem']}")
    if problem:
        print(f"\n! {problem}")
    if known.why:
        print(f"\nWhose approver a key is could not be looked up: {known.why}.")


def _whose(row: dict[str, Any], known: _Known, now: int) -> str:
    if known.policy is None:
        return "nobody's approver: no policy was ever in force"
    if row["approver"] is None:
        return f"no approver in the policy in force (version {known.policy})"
    name, until = printable(row["approver"]), row["until"]
    if not until:
        return f"approver {name}, without an end"
    if not row["good"]:
        return f"approver {name}, but it ran out on {moment(until)}: it signs nothing any more"
    soon = "" if pressing(until, now) is None else ": a new key is due"
    return f"approver {name} until {moment(until)} ({in_days(until, now)}{soon})"
