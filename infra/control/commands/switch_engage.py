"""`tidegate switch engage`: writes first and asks later. It needs the broker and nothing else."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.control.acks import AckWatch
from infra.control.commands.answers_shown import answers_json, details, headline, progress
from infra.control.commands.cli_shared import AsJson, By, answer, moment
from infra.control.commands.plain import say, whoami, word
from infra.control.commands.switch_scope import check_value, covers, needs_state, parse_scope, topics_for
from infra.control.readable import printable
from infra.control.reader import ControlReader, wall_ms
from infra.control.records import SCOPES, SWITCH_TOPIC, Ack, Switch
from infra.control.roll import Answers
from infra.control.state import ControlState
from infra.control.writer import ControlWriter, Written
from infra.errors import TidegateError

HEAR_SECONDS = 0.6
"""How long to wait for a first word of the broker before writing all the same."""
CHECK_SECONDS = 1.5
"""How long the control topics may take to be read before the stop is no longer held up for names."""
WRITE_SECONDS = 0.5
"""How long a broker that has said nothing by then has for its first answer: 2 s in all, with the start of Python."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the gates' acknowledgements.")]


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be stopped, and what became of the order."""

    switch: Switch
    """The record: the one that was written, or the one that stops it already."""
    written: Written | None
    """None where it was engaged already."""
    offset: int
    """What a gate must have applied of control.switch."""
    note: str = ""
    """What could not be made sure of."""


def switch_engage(
    scope: Annotated[str, typer.Option(help=f"What to stop: everything, or {' | '.join(SCOPES[1:])} with `:NAME`.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept and shown.")],
    wait: Wait = 2.0,
    expires: Annotated[
        str, typer.Option(help="When somebody must look at it again, as in 4h. It warns then; it never releases.")
    ] = "",
    name: Annotated[str, typer.Option("--id", help="Its identifier. (default: the scope and six hex digits)")] = "",
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Stop what the scope covers, now, and say which gates go by it. Needs the broker and nothing else.

    Engaging the same again changes nothing and asks the gates anew. Exits 3 while a gate has not answered.

    Examples: `--scope everything`, `--scope source:keys`, `--scope application:mail`.
    """
    kind, value = parse_scope(scope)
    said = need_reason(reason)
    now = wall_ms()
    expires_at = now + _duration(expires) if expires else 0
    if name and _ID.fullmatch(name) is None:
        raise TidegateError(
            "an --id is 1 to 64 letters, digits, dots, dashes or underscores. Nothing was changed.", code=2
        )
    new = Switch(
        name or f"{kind}-{secrets.token_hex(3)}", kind, value, True, said, by or whoami(), now, 0, expires_at=expires_at
    )
    addresses = Addresses.load()
    subjects = None if kind == "subject" else frozenset[str]()
    with (
        AckWatch(addresses) as watch,
        ControlReader(addresses, "consent", subjects=subjects) as reader,
        ControlWriter(addresses, timeout=WRITE_SECONDS) as writer,
    ):
        order = _engage(new, name, reader, writer)
        if not as_json:
            say([_first_line(order)])
        found = wait_for_gates(watch, order.offset, wait, order.written, lambda: reader.authority_ms)
        answer(as_json, _document(order, found), lambda: say(_lines(order, found)))
    raise typer.Exit(0 if found.complete else 3)


def need_reason(reason: str) -> str:
    """Return a reason in one line. Raises TidegateError where there is none."""
    said = " ".join(reason.split())
    if not said:
        raise TidegateError("a reason is needed: say why, for those who find it later. Nothing was changed.", code=2)
    return said


def wait_for_gates(
    watch: AckWatch, offset: int, seconds: float, written: Written | None, now: Callable[[], int]
) -> Answers:
    """Wait for every gate to apply an offset of control.switch, at most so long; Ctrl-C ends the wait."""
    latest: list[Answers] = []
    with progress() as told:

        def heard(so_far: Answers) -> None:
            latest[:] = [so_far]
            if told is not None:
                told(so_far)

        try:
            return watch.wait_applied(
                SWITCH_TOPIC, offset, timeout=seconds, written=written, clock=now, on_progress=heard
            )
        except KeyboardInterrupt:
            if not latest:
                raise
            return latest[-1]


def _engage(new: Switch, chosen: str, reader: ControlReader, writer: ControlWriter) -> _Order:
    reader.wait_for(lambda _: reader.answered, HEAR_SECONDS)
    state = None
    if reader.answered:
        needed = topics_for(new.scope)
        view = reader.wait_for(lambda _: reader.has_read(*needed), CHECK_SECONDS)
        state = view.state if reader.has_read(*needed) else None
    if state is not None:
        check_value(new.scope, new.value, state)
        if (already := _engaged_already(new, chosen, state)) is not None:
            return _Order(already, None, state.applied[SWITCH_TOPIC])
    written = writer.put(new)[0]
    if state is not None:
        return _Order(new, written, written.offset)
    unsure = "whether it was engaged before"
    if needs_state(new.scope, new.value):
        unsure = f"whether there is such a {new.scope}"
    return _Order(
        new, written, written.offset, f"The control topics could not be read in time, so {unsure} is unknown."
    )


def _engaged_already(new: Switch, chosen: str, state: ControlState) -> Switch | None:
    """Return the switch that stops this already. Raises TidegateError where the chosen name is taken."""
    if not chosen:
        same = [s for s in state.switches.values() if s.engaged and (s.scope, s.value) == (new.scope, new.value)]
        return min(same, key=lambda each: each.at, default=None)
    old = state.switches.get(chosen)
    if old is None or not old.engaged:
        return None
    if (old.scope, old.value) != (new.scope, new.value):
        raise TidegateError(
            f"the switch {chosen} is engaged over something else: {printable(covers(old))}. Nothing was changed; "
            "choose another --id, or leave it out."
        )
    return old


def _duration(text: str) -> int:
    from infra.control.policy_file import duration_ms  # what reads files is not imported to stop something

    try:
        ms = duration_ms(text)
    except ValueError as error:
        raise TidegateError(f"--expires: {text!r} {error}. Nothing was changed.", code=2) from None
    if ms < 1:
        raise TidegateError("--expires must be longer than nothing. Nothing was changed.", code=2)
    return ms


def _first_line(order: _Order) -> str:
    one = order.switch
    if order.written is None:
        return (
            f"{one.id} stops {covers(one)} already, by {one.by or 'somebody'} since {moment(one.at)}"
            f': "{one.reason}". Nothing new was written.'
        )
    took = round((order.written.taken - order.written.began) * 1000)
    return f"engaged {one.id}: {covers(one)} (the broker took it in {took} ms, offset {order.offset})"


def _document(order: _Order, found: Answers) -> dict[str, Any]:
    one, written = order.switch, order.written
    return {
        "id": one.id,
        "scope": one.scope,
        "value": one.value,
        "engaged": True,
        "already": written is None,
        "reason": one.reason,
        "by": one.by,
        "at": one.at,
        "expires_at": one.expires_at,
        "offset": order.offset,
        "milliseconds": None if written is None else round((written.taken - written.began) * 1000),
        "note": order.note,
        **answers_json(found),
    }


def _lines(order: _Order, found: Answers) -> Iterator[str]:
    one = order.switch
    if order.note:
        yield order.note
    yield headline("stopped", found)

    def knows(ack: Ack) -> bool:
        return one.id in ack.switches

    yield from details(found, knows)
    if not found.complete:
        yield "The switch stands whatever happens next. To ask again, give the same command again;"
        yield "to follow it live: tidegate gates watch"
    if one.scope == "team":
        yield "Whoever is in no team that a gate knows of is stopped too."
    if one.expires_at:
        yield f"Look at it again by {moment(one.expires_at)}; it goes on stopping until it is released."
    yield f"prove:    tidegate switch proof {word(one.id)}"
    yield f'release:  tidegate switch release {word(one.id)} --reason "..." --key NAME --key NAME   (two people)'
