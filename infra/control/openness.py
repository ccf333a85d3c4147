"""What a gate lets through as far as policy, switches and freshness go: the half of its verdicts that names nobody."""

from __future__ import annotations

from typing import NamedTuple

from infra.control.records import MAX_SKEW_MS
from infra.control.state import View
from schemas.catalogue import SOURCES


class Openness(NamedTuple):
    """What may pass of somebody who consents to everything and whom no switch names."""

    sources: tuple[str, ...]
    """In the order of the schema; empty means closed."""
    why: str
    """Why it is closed, for a person; empty where it is not."""


def openness(view: View, now_ms: int) -> Openness:
    """Return what passes a gate that goes by this view at this moment (UTC epoch ms)."""
    policy = view.state.policy
    if not view.fresh:
        return Openness((), view.why or "the control state is not fresh")
    if policy is None:
        return Openness((), "no policy is in force")
    if not max(policy.valid_from, policy.applied_at - MAX_SKEW_MS) <= now_ms < policy.valid_until:
        return Openness((), "the policy has run out" if now_ms >= policy.valid_until else "the policy has not begun")
    stopping = view.state.stopping(now_ms)
    # As for the gate: a source that is not known here may be any.
    whole = [s.id for s in stopping if s.scope == "everything" or (s.scope == "source" and s.value not in SOURCES)]
    if whole:
        return Openness((), f"stopped by {', '.join(sorted(whole))}")
    stopped = {(switch.scope, switch.value) for switch in stopping}
    running = [rule for rule in policy.purposes if ("purpose", rule.name) not in stopped]
    used = {source for rule in running for source in rule.sources if ("source", source) not in stopped}
    sources = tuple(source for source in SOURCES if source in used)
    return Openness(sources, "" if sources else "switches stop every source or purpose")
