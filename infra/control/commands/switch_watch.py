"""`tidegate switch watch`: what stops, and which gates go by it, as it changes."""

from __future__ import annotations

from infra.addresses import Addresses
from infra.control.acks import AckWatch
from infra.control.commands.cli_shared import HEARTBEAT_SECONDS, AsJson, read_through
from infra.control.commands.gates_cli import READ_SECONDS, draw_gates, gate_rows, known_gates, trouble
from infra.control.commands.live import Rows, follow
from infra.control.commands.plain import columns
from infra.control.commands.switch_release import waiting_release
from infra.control.commands.switch_scope import covers
from infra.control.commands.switch_show import condition, holds, proposal, switch_json
from infra.control.reader import ControlReader
from infra.control.roll import Gate
from infra.control.state import ControlState


def switch_watch(as_json: AsJson = False) -> None:
    """Follow switches and gates until Ctrl-C; with --json, one line for each change."""
    addresses = Addresses.load()
    with AckWatch(addresses) as watch, ControlReader(addresses, "authority") as reader:
        read_through(reader, addresses)
        reader.wait_fresh(HEARTBEAT_SECONDS)
        watch.wait_read(READ_SECONDS)

        def take() -> Rows:
            state, now = reader.view().state, reader.authority_ms
            engaged = {name: one for name, one in state.switches.items() if one.engaged}
            rows = {("switch", name): switch_json(one, state, now) for name, one in engaged.items()}
            return {**rows, **gate_rows(known_gates(watch, now), reader.applied)}

        def draw() -> list[str]:
            state, now = reader.view().state, reader.authority_ms
            gates = known_gates(watch, now)
            drawn = draw_gates(gates, reader.applied, now)
            return [*_switches(state, gates, now), "", *drawn, *trouble(reader, watch)]

        follow(take, draw, watch.wait_change, as_json=as_json)


def _switches(state: ControlState, gates: list[Gate], now: int) -> list[str]:
    engaged = sorted((one for one in state.switches.values() if one.engaged), key=lambda one: one.at)
    if not engaged:
        return ["No switch is engaged."]
    held = [f"{sum(holds(gate, one) for gate in gates)}/{len(gates)}" for one in engaged]
    rows = [
        (one.id, covers(one), condition(one, now), on, one.by, one.reason)
        for one, on in zip(engaged, held, strict=True)
    ]
    waiting = [(one, release) for one in engaged if (release := waiting_release(state, one))]
    proposals = (line for one, release in waiting for line in proposal(one, release, state, now))
    return [*columns(("id", "stops", "", "gates", "by", "reason"), rows), *proposals]
