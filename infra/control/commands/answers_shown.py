"""How the gates have answered, for people and for programs, and while they are waited for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from infra.control.commands.plain import clock, columns, count, length
from infra.control.records import Ack
from infra.control.roll import Answer, Answers, Gate

_MANY = 3
"""Gates of one role that answered are shown one by one up to this many."""

Knows = Callable[[Ack], bool]
"""Whether a gate that says this has read what it is asked about."""

_MEANING = {
    "busy": "finishing: it goes by the record for all that is new; something judged before is still on its way to the "
    "broker or the store.",
    "silent": "silent: nothing heard from it since. If it has lost the broker or the authority, it closed within 1 s "
    "of its last heartbeat; if it has ended, it is closed. It is certainly closed when its lease has run out.",
    "behind": "behind: heard from since, but it has not come to the record.",
    "apart": "another log: it reads another life of the broker than this command. See TIDEGATE_LOG.",
}


def answers_json(found: Answers) -> dict[str, Any]:
    """Return the answers for a program; times are UTC epoch ms."""
    return {
        "complete": found.complete,
        "gates": len(found.all),
        "done": found.done,
        "slowest_ms": found.slowest_ms,
        "trouble": found.trouble,
        "answers": [
            {**gate_json(each.gate, found.now_ms), "answer": each.how, "latency_ms": each.latency_ms}
            for each in found.all
        ],
        "lapsed": [gate_json(gate, found.now_ms) for gate in found.lapsed],
    }


def gate_json(gate: Gate, now_ms: int) -> dict[str, Any]:
    """Return what is known of one gate; times are UTC epoch ms."""
    ack = gate.last.ack
    return {
        "gate": gate.name,
        "role": gate.role,
        "host": gate.host,
        "log": ack.log,
        "started_at": ack.started_at,
        "heard_at": gate.last.at,
        "lease_until": 0 if gate.left else gate.last.lease_until,
        "can_be_open": gate.can_be_open(now_ms),
        "left": gate.left,
        "open": ack.open,
        "why": ack.why,
        "applied": dict(ack.applied),
        "sources": list(ack.sources),
        "switches": list(ack.switches),
        "epoch": ack.epoch,
        "policy_version": ack.policy_version,
    }


def where(gate: Gate) -> str:
    """Return on which machine a gate is; a producer does not say."""
    return gate.host or ("a recorded person's machine" if gate.role == "producer" else "not said")


def headline(what: str, found: Answers) -> str:
    """Return one line: `stopped: 8/8 gates in 143 ms`, or how far from that it is."""
    if not found.read:
        return f"not known whether it is {what} everywhere: control.ack could not be read ({found.trouble})"
    total = len(found.all)
    if not total:
        return f"{what}: no gate has announced itself, so none is open"
    slowest = "" if found.slowest_ms is None else f" in {length(found.slowest_ms)}"
    if found.complete:
        return f"{what}: {found.done}/{total} gates{slowest or ' go by it'}"
    waited = length(found.now_ms - found.asked.since)
    missing = len(found.missing)
    return f"not {what} everywhere yet: {found.done}/{total} gates{slowest}; {missing} not answered after {waited}"


def details(found: Answers, knows: Knows) -> Iterator[str]:
    """Yield lines: who has answered and how fast; who has not, since when, and what that means."""
    if rows := [row for role in _roles(found) for row in _answered(found, role)]:
        yield ""
        yield from columns(("role", "gate", "answer", "after"), rows, indent="  ")
    if found.missing:
        ways = {each.gate.name: _way(each, found, knows) for each in found.missing}
        missed = [_missed(each.gate, ways[each.gate.name], found.now_ms) for each in found.missing]
        yield ""
        yield from columns(("not answered", "where", "last heard", "lease runs out", ""), missed, indent="  ")
        yield ""
        yield from (f"  {_MEANING[way]}" for way in dict.fromkeys(ways.values()))
    if found.lapsed:
        gone = "; ".join(f"{gate.name} ({where(gate)})" for gate in found.lapsed)
        verb = "is" if len(found.lapsed) == 1 else "are"
        yield ""
        yield f"  closed, since the lease has run out without a word, and not counted, {verb}: {gone}"
    yield ""


def _roles(found: Answers) -> list[str]:
    return list(dict.fromkeys(each.gate.role for each in found.all))


def _answered(found: Answers, role: str) -> Iterator[tuple[str, str, str, str]]:
    of_role = [each for each in found.all if each.gate.role == role]
    applied = [each for each in of_role if each.how == "applied"]
    if len(applied) > _MANY:
        yield role, count(len(applied), "gate"), "applied", _span([a.latency_ms for a in applied])
    else:
        for each in applied:
            yield role, each.gate.host or each.gate.name, "applied", _span([each.latency_ms])
    for each in of_role:
        if each.how in ("left", "closed"):
            yield role, each.gate.host or each.gate.name, "has ended" if each.how == "left" else "is closed", ""


def _span(latencies: Sequence[int | None]) -> str:
    known = sorted(ms for ms in latencies if ms is not None)
    if not known:
        return ""
    return f"{known[0]} ms" if known[0] == known[-1] else f"{known[0]} to {known[-1]} ms"


def _way(answer: Answer, found: Answers, knows: Knows) -> str:
    last = answer.gate.last
    if last.ack.log != found.asked.log:
        return "apart"
    if knows(last.ack):
        return "busy"
    return "behind" if last.at > found.asked.since else "silent"


def _missed(gate: Gate, way: str, now_ms: int) -> tuple[str, str, str, str, str]:
    heard = f"{length(now_ms - gate.last.at)} ago, {clock(gate.last.at)}"
    until = gate.last.lease_until
    lease = f"{clock(until)}, in {length(until - now_ms)}"
    return gate.name, where(gate), heard, lease, _MEANING[way].partition(":")[0]


@contextmanager
def progress() -> Iterator[Callable[[Answers], None] | None]:
    """Show on a terminal, in one line that is gone afterwards, how many gates have answered."""
    if not sys.stderr.isatty():
        yield None
        return

    def told(so_far: Answers) -> None:
        waiting = f"waiting: {so_far.done} of {count(len(so_far.all), 'gate')} answered" if so_far.read else "waiting"
        print(f"\r\033[K{waiting} ...", end="", file=sys.stderr, flush=True)

    try:
        yield told
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
