"""`tidegate switch list` and `show`: what stops, since when and why, what waits for a signature, what was ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.control import signing
from infra.control.acks import AckWatch
from infra.control.commands.answers_shown import gate_json, where
from infra.control.commands.cli_shared import (
    HEARTBEAT_SECONDS,
    AsJson,
    answer,
    moment,
    read_through,
    show_freshness,
)
from infra.control.commands.plain import columns, count, length, listed, say
from infra.control.commands.switch_release import how_to_sign, waiting_release, who_signed
from infra.control.commands.switch_scope import covers
from infra.control.readable import printable
from infra.control.reader import wall_ms
from infra.control.records import SWITCH_TOPIC, Switch
from infra.control.roll import Gate
from infra.control.state import ControlState, View
from infra.control.suggest import unknown
from infra.control.switch_history import Event, Recorder, history
from infra.errors import TidegateError

READ_SECONDS = 3.0
"""How long reading control.ack to its end may take."""

_IGNORED: Mapping[str, str] = {
    "not_approved": "a release without two approvers' valid signatures",
    "not_engaged": "a release of something that was not engaged",
    "replayed": "a release of another engagement than the one that stood",
    "future": "a release dated ahead of the broker's clock",
    "removed": "a record removed, which releases nothing",
    "wrong_key": "a record under another switch's name, taken for one that cannot be read: it stops everything",
    "no_key": "a record without a name: it stops everything",
}
_UNREADABLE = "a record that cannot be read: it stops everything"


def switch_list(
    every: Annotated[bool, typer.Option("--all", help="Released ones too.")] = False,
    overdue: Annotated[
        bool, typer.Option("--overdue", help="Only those past the time to look at them again; exits 1 if any.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is engaged, which releases wait for a second signature, and which records were ignored."""
    addresses = Addresses.load()
    with Recorder(addresses) as recorder:
        read_through(recorder.reader, addresses)
        view = recorder.reader.wait_fresh(HEARTBEAT_SECONDS)
        ignored = _ignored(view.state, history(list(recorder.entries), view.state.log))
    now, state = wall_ms(), view.state
    found = [one for one in state.switches.values() if (one.engaged or every) and (not overdue or is_overdue(one, now))]
    found.sort(key=lambda each: (not each.engaged, each.at))
    document = {
        "switches": [switch_json(one, state, now) for one in found],
        "ignored": ignored,
        "epoch": state.epoch,
        "fresh": view.fresh,
        "why": view.why,
    }
    nothing = "No engaged switch is overdue." if overdue else "No switch is engaged."
    answer(as_json, document, lambda: _tell_list(found, view, now, {} if overdue else ignored, nothing))
    raise typer.Exit(1 if overdue and found else 0)


def switch_show(
    name: Annotated[str, typer.Argument(metavar="ID", help="Which switch; `tidegate switch list --all` shows them.")],
    as_json: AsJson = False,
) -> None:
    """Show everything of one switch: what it stops and why, all that was done to it, and which gates hold it."""
    addresses = Addresses.load()
    with AckWatch(addresses) as watch, Recorder(addresses) as recorder:
        read_through(recorder.reader, addresses)
        view = recorder.reader.wait_fresh(HEARTBEAT_SECONDS)
        state = view.state
        if name not in state.switches:
            raise TidegateError(printable(unknown("switch", name, state.switches)))
        watch.wait_read(READ_SECONDS)
        now = recorder.reader.authority_ms
        gates = [gate for gate in watch.gates() if gate.is_known(now, state.log)]
        events = [event for event in history(list(recorder.entries), state.log) if event.switch == name]
        trouble = "" if watch.read_to_end else f"control.ack could not be read ({watch.trouble or 'no answer'})"
    one = state.switches[name]
    engaging = next((event.record for event in reversed(events) if event.what == "engaged" and event.record), one)
    document = {
        **switch_json(engaging, state, now),
        "engaged": one.engaged,
        "history": [_event_json(event) for event in events],
        "gates": [{**gate_json(gate, now), "holds": holds(gate, one)} for gate in gates],
        "trouble": trouble,
        "fresh": view.fresh,
        "why": view.why,
    }

    def told() -> None:
        say(_switch_lines(one, engaging, state, events, now))
        say([trouble or _gates_line(one, gates)])
        show_freshness(view)

    answer(as_json, document, told)


def is_overdue(one: Switch, now_ms: int) -> bool:
    """Whether somebody should have looked at it again by now (UTC epoch ms)."""
    return one.engaged and 0 < one.expires_at <= now_ms


def holds(gate: Gate, one: Switch) -> bool:
    """Whether a gate goes by a switch."""
    return one.id in gate.last.ack.switches


def switch_json(one: Switch, state: ControlState, now_ms: int) -> dict[str, Any]:
    """Return a switch for a program, with the release that waits for a signature; times are UTC epoch ms."""
    waiting = waiting_release(state, one)
    pending = None
    if waiting is not None:
        approval = who_signed(state, waiting, now_ms)
        pending = {
            "reason": waiting.reason,
            "by": waiting.by,
            "at": waiting.at,
            "signed_by": list(approval.names),
            "may_sign": list(approval.others),
        }
    return {
        "id": one.id,
        "scope": one.scope,
        "value": one.value,
        "engaged": one.engaged,
        "reason": one.reason,
        "by": one.by,
        "at": one.at,
        "expires_at": one.expires_at,
        "overdue": is_overdue(one, now_ms),
        "digest": signing.digest(one, state.log),
        "pending": pending,
    }


def _event_json(event: Event) -> dict[str, Any]:
    record = event.record
    return {
        "what": event.what,
        "offset": event.offset,
        "at": event.at,
        "by": record.by if record else "",
        "reason": record.reason if record else "",
        "why": event.why,
        "epoch": event.epoch,
    }


def _ignored(state: ControlState, events: list[Event]) -> dict[str, int]:
    """By why: records of control.switch that were not taken at their word, without those that were proposals."""
    counts = {why: number for (topic, why), number in sorted(state.ignored.items()) if topic == SWITCH_TOPIC}
    proposals = sum(event.what == "proposed" for event in events)
    return {why: left for why, n in counts.items() if (left := n - proposals if why == "not_approved" else n) > 0}


def _tell_list(found: list[Switch], view: View, now: int, ignored: Mapping[str, int], nothing: str) -> None:
    say(_list_lines(found, view.state, now, ignored, nothing))
    show_freshness(view)


def _list_lines(
    found: list[Switch], state: ControlState, now: int, ignored: Mapping[str, int], nothing: str
) -> Iterator[str]:
    if not found:
        yield nothing
    else:
        rows = [(s.id, covers(s), condition(s, now), s.by, moment(s.at), s.reason) for s in found]
        yield from columns(("id", "stops", "", "by", "at", "reason"), rows)
    for one in found:
        waiting = waiting_release(state, one)
        if waiting is not None:
            yield ""
            yield from proposal(one, waiting, state, now)
    if ignored:
        yield ""
        yield "Records of control.switch that were not taken at their word:"
        for why, number in ignored.items():
            yield f"  {number} x  {_IGNORED.get(why, f'{_UNREADABLE} ({why})')}"


def condition(one: Switch, now: int) -> str:
    """Return whether a switch stops, and when somebody must look at it, in words."""
    if not one.engaged:
        return "released"
    if is_overdue(one, now):
        return f"ENGAGED, OVERDUE by {length(now - one.expires_at)}"
    return f"ENGAGED, look again in {length(one.expires_at - now)}" if one.expires_at else "ENGAGED"


def proposal(one: Switch, waiting: Switch, state: ControlState, now: int) -> list[str]:
    """Return lines: who proposed a release, who may sign it, and how."""
    approval = who_signed(state, waiting, now)
    others = " or ".join(approval.others) or "nobody may"
    return [
        f"A release of {one.id} waits for a second person's signature ({others}):",
        f'  proposed at {moment(waiting.at)}, signed by {listed(approval.names)}: "{waiting.reason}"',
        f"  {how_to_sign(one.id, approval.others)}",
    ]


def _switch_lines(one: Switch, engaging: Switch, state: ControlState, events: list[Event], now: int) -> Iterator[str]:
    yield f"{one.id}: {covers(one)}, {condition(one, now)}"
    rows = [
        ("scope", f"{engaging.scope}:{engaging.value}" if engaging.value else engaging.scope),
        ("reason", engaging.reason or "none given"),
        ("engaged by", engaging.by or "not said"),
        ("at", moment(engaging.at)),
        ("look again", moment(engaging.expires_at) if engaging.expires_at else "nobody said when"),
        ("digest", signing.digest(engaging, state.log)),
    ]
    yield from (f"  {label:<11} {text}" for label, text in rows)
    waiting = waiting_release(state, one)
    if waiting is not None:
        yield from proposal(one, waiting, state, now)
    yield "History, by the broker's clock:"
    yield from (f"  {moment(event.at)}  offset {event.offset:<4} {_deed(event, state)}" for event in events)


def _deed(event: Event, state: ControlState) -> str:
    record = event.record
    by = f" by {record.by}" if record is not None and record.by else ""
    reason = f': "{record.reason}"' if record is not None and record.reason else ""
    names = signing.approvals(record, state.log, state.approvers_at(event.at), event.at) if record else ()
    match event.what:
        case "engaged":
            return f"engaged{by}{reason}"
        case "again":
            return f"engaged again{by}, which changed nothing{reason}"
        case "proposed":
            return f"release proposed, signed by {listed(names)}{reason}"
        case "released":
            return f"released, signed by {listed(names)}, beginning epoch {event.epoch}{reason}"
        case _:
            return f"ignored: {_IGNORED.get(event.why, event.why)}"


def _gates_line(one: Switch, gates: list[Gate]) -> str:
    holding = [gate for gate in gates if holds(gate, one)]
    if not gates:
        return "No gate has announced itself, so none is open."
    if not one.engaged:
        still = f"; still held by {listed(f'{g.name} ({where(g)})' for g in holding)}" if holding else ""
        return f"{count(len(gates), 'gate')} known, {len(gates) - len(holding)} without it{still}."
    others = [gate for gate in gates if gate not in holding]
    missing = f"; not by {listed(f'{gate.name} ({where(gate)})' for gate in others)}" if others else ""
    return f"Held by {len(holding)} of {count(len(gates), 'gate')}{missing}."
