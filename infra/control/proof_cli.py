"""`tidegate switch proof`: show from the store and the log alone whether a switch held."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from infra.addresses import Addresses
from infra.control.cli_shared import AsJson, answer
from infra.control.plain import columns, length
from infra.control.records import Switch
from infra.control.switch_scope import covers

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
    answer(as_json, proof.document(), lambda: _show(proof))
    raise typer.Exit(proof.code)


def _show(proof: Proof) -> None:
    engaged = proof.engaged
    switch = engaged.switch
    print(f"{switch.id} stops {covers(switch)}")
    again = f", the {_ordinal(engaged.times)} time that it was" if engaged.times > 1 else ""
    print(f"engaged   {_moment(engaged.at)}, {_who(switch)} (offset {engaged.offset}){again}")
    if engaged.release is not None and engaged.released_at is not None:
        released = f"{_moment(engaged.released_at)}, {_who(engaged.release)} (offset {engaged.release_offset})"
        print(f"released  {released}, epoch {engaged.release.epoch}")
    else:
        print(f"released  not yet; looked at {_moment(proof.end)}")
    for why, count in sorted(engaged.ignored.items()):
        print(f"ignored   {count} {'record' if count == 1 else 'records'} about it: {why.replace('_', ' ')}")
    print()
    _show_gates(proof)
    print(f"\nclocks: {_clocks(proof.clocks)}\n")
    for number, (title, sql) in enumerate(proof.queries, 1):
        print(f"-- {number}. {title}\n{sql};\n")
    if any("{pseudonyms:" in sql for _, sql in proof.queries):
        print("-- `pseudonyms` is filled in by whoever holds the key that makes them; it is printed nowhere.\n")
    _show_figures(proof)
    print(proof.sentence)


def _show_gates(proof: Proof) -> None:
    if not proof.fates:
        print("No gate could be open when it was engaged.")
        return
    rows = [
        (
            fate.gate.name,
            fate.gate.role,
            fate.gate.host or "-",
            fate.how if fate.how != "waiting" else "NOT YET; its lease ends",
            f"{_moment(fate.at)[11:]}",
            length(fate.latency_ms),
        )
        for fate in proof.fates
    ]
    print(columns(("gate", "role", "host", "", "at", "after"), rows))


def _show_figures(proof: Proof) -> None:
    if proof.begin is None:
        return
    print(f"from the last acknowledgement, {_moment(proof.begin)}, to {_moment(proof.end)}:\n")
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
    print(columns(("figure", "must be", "", "from", "in", "what"), rows))
    print(f"\nnote: {proof.note}\n" if proof.note else "")


def _clocks(clocks: Clocks) -> str:
    parts = []
    if clocks.store is not None:
        parts.append(f"the store's is {clocks.store:+,} ms from this machine's (± {clocks.trip} ms)")
    if clocks.authority is not None:
        parts.append(f"the authority's {clocks.authority:+,} ms")
    else:
        parts.append("no heartbeat of the authority is heard")
    if clocks.broker is not None:
        parts.append(f"the broker's was {clocks.broker:+,} ms from the authority's when it took acknowledgements")
    return ", ".join(parts)


def _who(switch: Switch) -> str:
    who = f"by {_plain(switch.by)}" if switch.by else "by nobody named"
    return f"{who}: {_plain(switch.reason)}" if switch.reason else who


def _plain(text: str) -> str:
    """What people wrote, without what could steer a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
