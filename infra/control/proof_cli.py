"""`tidegate switch proof`: show from the store and the log alone whether a switch held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from infra.addresses import Addresses
from infra.control.commands.cli_shared import AsJson, answer
from infra.control.commands.plain import columns, count, length, say
from infra.control.commands.switch_scope import covers
from infra.control.readable import moment
from infra.control.records import Switch

if TYPE_CHECKING:
    from infra.control.proof import Clocks, Proof


def proof_command(
    name: Annotated[str, typer.Argument(metavar="ID", help="Which switch; `tidegate switch list --all` shows them.")],
    as_json: AsJson = False,
) -> None:
    """Show whether a switch held, from the store and the log alone: nothing that it covers was captured or stored.

    Prints every query that it ran, for any ClickHouse client. Exits 1 where a figure
    that must be zero is not, 3 where a gate has not applied the switch yet or
    something could not be looked at.
    """
    # Numpy and the clients of store and registry take half a second, which whoever engages a switch does not have.
    from infra.control.proving import prove

    proof = prove(Addresses.load(), name)
    answer(as_json, proof.document(), lambda: say(_lines(proof)))
    raise typer.Exit(proof.code)


def _lines(proof: Proof) -> Iterator[str]:
    engaged = proof.engaged
    switch = engaged.switch
    yield f"{switch.id} stops {covers(switch)}"
    again = f", the {_ordinal(engaged.times)} time that it was" if engaged.times > 1 else ""
    yield f"engaged   {_moment(engaged.at)}, {_who(switch)} (offset {engaged.offset}){again}"
    if engaged.release is not None and engaged.released_at is not None:
        released = f"{_moment(engaged.released_at)}, {_who(engaged.release)} (offset {engaged.release_offset})"
        yield f"released  {released}, epoch {engaged.release.epoch}"
    else:
        yield f"released  not yet; looked at {_moment(proof.end)}"
    for why, number in sorted(engaged.ignored.items()):
        yield f"ignored   {count(number, 'record')} about it: {why.replace('_', ' ')}"
    yield from ("", *_gates(proof), "", f"clocks: {_clocks(proof.clocks)}", "")
    for number, (title, sql) in enumerate(proof.queries, 1):
        yield from (f"-- {number}. {title}", *f"{sql};".split("\n"), "")
    if any("{pseudonyms:" in sql for _, sql in proof.queries):
        yield from (
            "-- `pseudonyms` is for whoever holds the key that makes them to fill in; it is printed nowhere.",
            "",
        )
    yield from _figures(proof)
    yield proof.sentence


def _gates(proof: Proof) -> Iterable[str]:
    if not proof.fates:
        return ["No gate could be open when it was engaged."]
    rows = [
        (
            fate.gate.name,
            fate.gate.role,
            fate.gate.host or "-",
            fate.how if fate.how != "waiting" else "NOT YET; its lease ends",
            _moment(fate.at, "%H:%M:%S.%f"),
            length(fate.latency_ms),
        )
        for fate in proof.fates
    ]
    return columns(("gate", "role", "host", "", "at", "after"), rows)


def _figures(proof: Proof) -> Iterator[str]:
    if proof.begin is None or not proof.figures:
        return
    yield from (f"from the last acknowledgement, {_moment(proof.begin)}, to {_moment(proof.end)}:", "")
    rows = [
        (
            f"{each.count:,}",
            "0" if each.must_be_zero else "any",
            each.verdict,
            f"query {each.query}" if each.query else "the log",
            each.where,
            each.what,
        )
        for each in proof.figures
    ]
    yield from (*columns(("figure", "must be", "", "from", "in", "what"), rows), "")
    if proof.note:
        yield from (f"note: {proof.note}", "")


def _clocks(clocks: Clocks) -> str:
    parts = []
    if clocks.store is not None:
        parts.append(f"the store's is {clocks.store:+,} ms from this machine's (± {clocks.trip // 2 + 1} ms)")
    if clocks.authority is not None:
        parts.append(f"the authority's is {clocks.authority:+,} ms from this machine's")
    else:
        parts.append("no heartbeat of the authority is heard")
    if clocks.broker is not None:
        parts.append(f"the broker's was {clocks.broker:+,} ms from the authority's when it took acknowledgements")
    return ", ".join(parts)


def _who(switch: Switch) -> str:
    who = f"by {switch.by}" if switch.by else "by nobody named"
    return f"{who}: {switch.reason}" if switch.reason else who


def _moment(ms: int, form: str = "%Y-%m-%d %H:%M:%S.%f") -> str:
    """Return UTC epoch ms to the millisecond."""
    shown = moment(ms, form)
    return f"{shown[:-3]} UTC" if shown[-7:-6] == "." else shown


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
