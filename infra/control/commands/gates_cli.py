"""`tidegate gates`: every gate, what it has applied, and whether it is open."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.control.acks import AckWatch
from infra.control.commands.answers_shown import gate_json
from infra.control.commands.cli_shared import HEARTBEAT_SECONDS, AsJson, answer, read_through, show_freshness
from infra.control.commands.live import Rows, follow
from infra.control.commands.plain import clock, columns, count, length, say
from infra.control.reader import ControlReader, wall_ms
from infra.control.records import CONSENT_TOPIC, POLICY_TOPIC, SWITCH_TOPIC
from infra.control.roll import Gate
from infra.errors import TidegateError

gates = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Every gate: where it is, what it has applied, whether it is open."
)

READ_SECONDS = 5.0
"""How long control.ack may take to be read to its end."""
_GRACE_SECONDS = 1.0
"""How long a gate may take to apply what the control topics held when they were read."""
_PAST_MS = 3_600_000
"""How far back `--all` shows gates that have closed."""
_HEADER = ("role", "gate", "where", "switch", "policy", "consent", "since", "heard", "lease", "")


@gates.command("list")
def gates_list(
    every: Annotated[
        bool, typer.Option("--all", help="Those of the last hour too that have ended, or whose lease has run out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show every gate that can be open. Exits 3 when one lags behind the control topics.

    The figures are the last offsets that a gate has applied. A producer says
    nothing of consents, and does not name its machine.
    """
    addresses = Addresses.load()
    with _watch(addresses, every) as watch, ControlReader(addresses, "authority") as reader:
        read_through(reader, addresses)
        view = reader.wait_fresh(HEARTBEAT_SECONDS)
        if not watch.wait_read(READ_SECONDS):
            raise TidegateError(
                f"control.ack at {addresses.kafka} could not be read to its end ({watch.trouble or 'no answer'}). "
                "`tidegate topics apply` creates topics that are missing."
            )
        ends = reader.applied
        known, others = _caught_up(watch, reader, ends)
        now = reader.authority_ms
    shown = [*known, *(others if every else ())]
    lagging = [gate for gate in known if behind(gate, ends)]
    document = {
        "gates": [{**gate_json(gate, now), "behind": behind(gate, ends)} for gate in shown],
        "ends": ends,
        "complete": not lagging,
        "fresh": view.fresh,
        "why": view.why,
    }

    def told() -> None:
        say(draw_gates(shown, ends, now))
        if lagging:
            say(["", f"{count(len(lagging), 'gate')} behind the control topics; follow with `tidegate gates watch`."])
        show_freshness(view)

    answer(as_json, document, told)
    raise typer.Exit(3 if lagging else 0)


@gates.command("watch")
def gates_watch(as_json: AsJson = False) -> None:
    """Follow every gate until Ctrl-C; with --json, one line for each change."""
    addresses = Addresses.load()
    with _watch(addresses, every=False) as watch, ControlReader(addresses, "authority") as reader:
        read_through(reader, addresses)
        reader.wait_fresh(HEARTBEAT_SECONDS)
        watch.wait_read(READ_SECONDS)

        def draw() -> list[str]:
            now = reader.authority_ms
            return [*draw_gates(known_gates(watch, now), reader.applied, now), *trouble(reader, watch)]

        follow(
            lambda: gate_rows(known_gates(watch, reader.authority_ms), reader.applied), draw, watch.wait_change,
            as_json=as_json,
        )  # fmt: skip


def gate_rows(known: Iterable[Gate], ends: Mapping[str, int]) -> Rows:
    """Return of each gate what counts as a change."""
    return {("gate", gate.name): _row(gate, ends) for gate in known}


def draw_gates(shown: Iterable[Gate], ends: Mapping[str, int], now_ms: int) -> list[str]:
    """Return the lines of a table of gates for a person; `ends` are the last offsets of the control topics."""
    rows = [_cells(gate, ends, now_ms) for gate in shown]
    if not rows:
        return ["No gate has announced itself, so none is open: nothing is captured, stored or sampled."]
    return columns(_HEADER, rows)


def behind(gate: Gate, ends: Mapping[str, int]) -> dict[str, int]:
    """Return by control topic how many records a gate has yet to apply; only where there are any."""
    applied = gate.last.ack.applied
    return {topic: ends[topic] - offset for topic, offset in applied.items() if offset < ends.get(topic, -1)}


def trouble(reader: ControlReader, watch: AckWatch) -> list[str]:
    """Return what a person must know who trusts what is shown, in lines; none where all is well."""
    view = reader.view()
    said = [] if view.fresh else [f"Gates are closed, and this is as far as the log could be read: {view.why}."]
    if not watch.read_to_end:
        said.append(f"control.ack could not be read to its end ({watch.trouble or 'no answer'}).")
    return said


def _watch(addresses: Addresses, every: bool) -> AckWatch:
    return AckWatch(addresses, since_ms=wall_ms() - _PAST_MS if every else None)


def known_gates(watch: AckWatch, now_ms: int) -> list[Gate]:
    """Return the gates that can be open at a moment, UTC epoch ms, by role and place."""
    found = [gate for gate in watch.gates() if gate.can_be_open(now_ms)]
    return sorted(found, key=lambda gate: (gate.role, gate.host, gate.name))


def _caught_up(watch: AckWatch, reader: ControlReader, ends: Mapping[str, int]) -> tuple[list[Gate], list[Gate]]:
    """Return the gates that can be open, given a moment to apply what is there, and those that cannot be any more."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while True:
        now = reader.authority_ms
        known = known_gates(watch, now)
        if time.monotonic() >= deadline or not any(behind(gate, ends) for gate in known):
            break
        watch.wait_change(0.05)
    gone = [gate for gate in watch.gates() if not gate.can_be_open(now) and gate.last.at > now - _PAST_MS]
    return known, gone


def _row(gate: Gate, ends: Mapping[str, int]) -> dict[str, Any]:
    ack = gate.last.ack
    return {
        "role": ack.role,
        "host": ack.host,
        "log": ack.log,
        "applied": dict(ack.applied),
        "behind": behind(gate, ends),
        "open": ack.open,
        "why": ack.why,
        "sources": list(ack.sources),
        "switches": list(ack.switches),
        "epoch": ack.epoch,
        "policy_version": ack.policy_version,
    }


def _cells(gate: Gate, ends: Mapping[str, int], now_ms: int) -> tuple[str, ...]:
    ack = gate.last.ack
    offsets = [_offset(ack.applied.get(topic), ends.get(topic, -1)) for topic in (SWITCH_TOPIC, POLICY_TOPIC)]
    consent = "" if ack.role == "producer" else _offset(ack.applied.get(CONSENT_TOPIC), ends.get(CONSENT_TOPIC, -1))
    heard = f"{length(now_ms - gate.last.at)} ago"
    lease = length(gate.last.lease_until - now_ms) if gate.can_be_open(now_ms) else ""
    since = f"{length(now_ms - ack.started_at)} ago"
    return (ack.role, gate.name, gate.host, *offsets, consent, since, heard, lease, _condition(gate, now_ms))


def _offset(applied: int | None, end: int) -> str:
    if applied is None:
        return ""
    return f"{applied} of {end}" if applied < end else "none" if applied < 0 else str(applied)


def _condition(gate: Gate, now_ms: int) -> str:
    ack = gate.last.ack
    if gate.left:
        return "ended"
    if not gate.can_be_open(now_ms):
        return f"closed: its lease ran out at {clock(gate.last.lease_until)}"
    return f"open: {' '.join(ack.sources)}" if ack.open else f"closed: {ack.why}"
