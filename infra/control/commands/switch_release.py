"""`tidegate switch release`: takes a reason and two different approvers, together or one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.control import keyring, signing
from infra.control.acks import AckWatch
from infra.control.approval import Approval, approvers_for, endorse
from infra.control.commands.answers_shown import answers_json, details, headline
from infra.control.commands.cli_shared import AsJson, By, Keys, answer, moment, read_through
from infra.control.commands.plain import count, listed, say, word
from infra.control.commands.switch_engage import Wait, need_reason, wait_for_gates
from infra.control.commands.switch_scope import covers
from infra.control.readable import printable
from infra.control.reader import ControlReader, wall_ms
from infra.control.records import SWITCH_TOPIC, Ack, Switch
from infra.control.roll import Answers
from infra.control.state import ControlState
from infra.control.suggest import unknown
from infra.control.writer import ControlWriter
from infra.errors import TidegateError

_NOTHING = "Nothing was changed."
_TAKEN_SECONDS = 5.0
"""How long reading back what was written may take."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """A release with what it has of signatures, and what it ends."""

    old: Switch
    new: Switch
    approval: Approval


def switch_release(
    name: Annotated[str, typer.Argument(metavar="ID", help="Which switch; `tidegate switch list` shows them.")],
    reason: Annotated[
        str, typer.Option(help="Why; it is kept and shown. The second approver leaves it out.", show_default=False)
    ] = "",
    key: Keys = [],  # noqa: B006  # typer reads it and changes nothing
    wait: Wait = 2.0,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Release a switch: two different approvers sign, in one command or one after the other.

    Starts a new epoch: what was captured while it stopped is never let in. With one
    key it is proposed, and waits on control.switch for the second person's; exits 3 until then.
    """
    seeds = _seeds(name, key)
    addresses = Addresses.load()
    nobody = frozenset[str]()
    with (
        AckWatch(addresses) as watch,
        ControlReader(addresses, "consent", subjects=nobody) as reader,
        ControlWriter(addresses) as writer,
    ):
        state = read_through(reader, addresses).state
        signed = _sign(_engaged(name, state), reason, by, seeds, state)
        written = writer.put(signed.new)[0]
        if not signed.approval.enough:
            answer(as_json, _proposal_json(signed, written.offset), lambda: _tell_proposal(signed))
            raise typer.Exit(3)
        state = _taken(reader, signed.new, written.offset)
        if not as_json:
            say([_first_line(signed, state)])
        found = wait_for_gates(watch, written.offset, wait, written, lambda: reader.authority_ms)
        answer(as_json, _release_json(signed, state, found, written.offset), lambda: say(_lines(signed, state, found)))
    raise typer.Exit(0 if found.complete else 3)


def waiting_release(state: ControlState, one: Switch) -> Switch | None:
    """Return the proposed release of a switch as it is engaged now, if there is one."""
    waiting = state.pending.get((SWITCH_TOPIC, one.id))
    fits = isinstance(waiting, Switch) and waiting.releases == signing.digest(one, state.log)
    return waiting if fits and isinstance(waiting, Switch) else None


def who_signed(state: ControlState, release: Switch, now_ms: int) -> Approval:
    """Return whose signatures a proposed release has that count now, and who may sign."""
    approvers = approvers_for(release, state)
    names = signing.approvals(release, state.log, approvers, now_ms)
    return Approval(names, tuple(each.name for each in approvers if not each.until or now_ms < each.until))


def how_to_sign(name: str, others: Sequence[str]) -> str:
    """Return the command by which one of the others signs a proposed release."""
    return f"tidegate switch release {word(name)} --key {word(others[0]) if len(others) == 1 else 'NAME'}"


def _seeds(name: str, keys: list[str]) -> list[bytes]:
    if not keys:
        raise TidegateError(
            f"a release takes the keys of two different approvers: `tidegate switch release {name} --reason ... "
            f"--key NAME --key NAME` or, with one --key each, two people one after the other. {_NOTHING}",
            code=2,
        )
    seeds = keyring.load(keys)
    if len(set(seeds)) < len(seeds):
        raise TidegateError(
            f"{listed(keys)} are one and the same key: a release takes two different people. {_NOTHING}"
        )
    return seeds


def _engaged(name: str, state: ControlState) -> Switch:
    old = state.switches.get(name)
    if old is None:
        named = [each.id for each in state.switches.values() if each.engaged]
        raise TidegateError(printable(f"{unknown('switch', name, named)} {_NOTHING}"))
    if not old.engaged:
        raise TidegateError(f"the switch {name} is not engaged: it was released at {moment(old.at)}. {_NOTHING}")
    return old


def _sign(old: Switch, reason: str, by: str, seeds: Sequence[bytes], state: ControlState) -> _Signed:
    now = wall_ms()
    names = {each.key: each.name for each in approvers_for(old, state)}
    signing_now = [names[public] for public in map(signing.public_of, seeds) if public in names]
    waiting = waiting_release(state, old)
    before = () if waiting is None else who_signed(state, waiting, now).names
    said = " ".join(reason.split())
    if waiting is not None and (not said or said == waiting.reason):
        new = waiting
    elif waiting is not None and len(seeds) < signing.APPROVALS and not set(signing_now) & set(before):
        raise TidegateError(
            printable(
                f'{listed(before)} proposed to release {old.id} with the reason "{waiting.reason}". To sign that, '
                f"leave --reason out: `{how_to_sign(old.id, signing_now)}`. {_NOTHING}"
            )
        )
    else:
        new = Switch(
            old.id, old.scope, old.value, False, need_reason(reason), by or next(iter(signing_now), ""), now,
            state.epoch + 1, releases=signing.digest(old, state.log),
        )  # fmt: skip
        waiting = None
    new, _ = endorse(new, state, seeds, now)
    approval = who_signed(state, new, now)
    _need_another(old, waiting, before, approval)
    return _Signed(old, new, approval)


def _need_another(old: Switch, waiting: Switch | None, before: Sequence[str], approval: Approval) -> None:
    """Raise TidegateError where a person alone would get nowhere: who proposed it already, or who engaged it."""
    if approval.enough:
        return
    if waiting is not None and set(approval.names) <= set(before):
        raise TidegateError(
            printable(
                f"{listed(before)} signed this release already: it takes a second, different person "
                f"({' or '.join(approval.others)}), with `{how_to_sign(old.id, approval.others)}`. {_NOTHING}"
            )
        )
    if approval.names == (old.by,):
        raise TidegateError(
            printable(
                f"{old.by} engaged {old.id}, and who engaged a switch cannot be the one to propose its release. Let "
                f"{' or '.join(approval.others)} propose it and {old.by} sign as the second, or give both keys at "
                f"once. {_NOTHING}"
            )
        )


def _taken(reader: ControlReader, new: Switch, offset: int) -> ControlState:
    """Return the state once it has come to the release. Raises TidegateError where the gates do not take it."""
    state = reader.wait_for(lambda view: view.state.applied.get(SWITCH_TOPIC, -1) >= offset, _TAKEN_SECONDS).state
    one = state.switches.get(new.id)
    if state.applied.get(SWITCH_TOPIC, -1) >= offset and one is not None and one.engaged:
        raise TidegateError(
            f"the release of {new.id} was written, but no gate goes by it: it was engaged anew, or the approvers "
            "changed, in the same moment. See `tidegate switch show` and try again."
        )
    return state


def _first_line(signed: _Signed, state: ControlState) -> str:
    return (
        f"released {signed.old.id}: {covers(signed.old)}, signed by {listed(signed.approval.names)}; "
        f"this is epoch {state.epoch}"
    )


def _still(state: ControlState) -> list[Switch]:
    return sorted((each for each in state.switches.values() if each.engaged), key=lambda each: each.at)


def _release_json(signed: _Signed, state: ControlState, found: Answers, offset: int) -> dict[str, Any]:
    return {
        "id": signed.old.id,
        "engaged": False,
        "reason": signed.new.reason,
        "by": signed.new.by,
        "signed_by": list(signed.approval.names),
        "epoch": state.epoch,
        "offset": offset,
        "still_engaged": [each.id for each in _still(state)],
        **answers_json(found),
    }


def _lines(signed: _Signed, state: ControlState, found: Answers) -> Iterator[str]:
    yield headline("released", found)

    def knows(ack: Ack) -> bool:
        return signed.old.id not in ack.switches

    yield from details(found, knows)
    if found.missing:
        yield "A gate that has not come to the release goes on stopping, which does no harm."
    yield "What was captured while it stopped stays refused."
    if still := _still(state):
        yield f"{count(len(still), 'switch')} still engaged: {'; '.join(f'{s.id} stops {covers(s)}' for s in still)}."


def _proposal_json(signed: _Signed, offset: int) -> dict[str, Any]:
    others = signed.approval.others
    return {
        "id": signed.old.id,
        "engaged": True,
        "complete": False,
        "reason": signed.new.reason,
        "by": signed.new.by,
        "signed_by": list(signed.approval.names),
        "may_sign": list(others),
        "next": how_to_sign(signed.old.id, others),
        "offset": offset,
    }


def _tell_proposal(signed: _Signed) -> None:
    others = signed.approval.others
    say(
        (
            f'proposed: to release {signed.old.id}, signed by {listed(signed.approval.names)}: "{signed.new.reason}"',
            f"It still stops {covers(signed.old)}, until a second person signs: {' or '.join(others) or 'nobody may'}.",
            f"  {how_to_sign(signed.old.id, others)}",
        )
    )
