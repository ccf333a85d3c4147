"""What the authority tells of that no gate would: a policy about to run out, a switch past its time, loosening refused.

It only tells. A policy that runs out closes the gates by itself; a switch goes
on stopping until two people release it.
"""

from __future__ import annotations

from infra import telemetry
from infra.control.policy_warnings import pressing
from infra.control.records import Switch
from infra.control.state import ControlState
from infra.metrics import AuthorityMetrics

_DAY_S = 86_400


def overdue(state: ControlState, now_ms: int) -> list[Switch]:
    """Return the engaged switches whose time to look at them again has passed (now: UTC epoch ms), oldest first."""
    late = [s for s in state.switches.values() if s.engaged and 0 < s.expires_at <= now_ms]
    return sorted(late, key=lambda switch: switch.expires_at)


class Alarms:
    """Logs each of them once, and keeps the metrics in step. For one thread."""

    def __init__(self, metrics: AuthorityMetrics) -> None:
        self._metrics = metrics
        self._log = telemetry.logger("infra.control.authority")
        self._policy: tuple[int, int | None] = (0, None)
        self._overdue: set[str] = set()
        self._ignored: dict[tuple[str, str], int] = {}

    def look(self, state: ControlState, now_ms: int) -> None:
        """Tell what is new at this moment (UTC epoch ms)."""
        self._look_at_policy(state, now_ms)
        self._look_at_switches(state, now_ms)
        for (topic, why), count in state.ignored.items():
            more = count - self._ignored.get((topic, why), 0)
            if more:
                self._metrics.ignored.labels(topic, why).inc(more)
                self._log.warning("control records were not taken at their word", topic=topic, reason=why, count=more)
        self._ignored = dict(state.ignored)
        self._metrics.pending.set(len(state.pending))

    def _look_at_policy(self, state: ControlState, now_ms: int) -> None:
        policy = state.policy
        left = 0.0 if policy is None else (policy.valid_until - now_ms) / 1000
        self._metrics.policy_left.set(max(left, 0.0))
        if policy is None:
            return
        now = (policy.version, pressing(policy.valid_until, now_ms))
        if now != self._policy and now[1] is not None:
            what = "the policy has run out, every gate is closed" if now[1] == 0 else "the policy runs out soon"
            self._log.warning(what, version=policy.version, days=round(left / _DAY_S, 1))
        self._policy = now

    def _look_at_switches(self, state: ControlState, now_ms: int) -> None:
        late = {switch.id for switch in overdue(state, now_ms)}
        for name in sorted(late - self._overdue):
            self._log.warning("a switch is past its time and goes on stopping", switch_id=name)
        self._overdue = late
        self._metrics.engaged.set(sum(switch.engaged for switch in state.switches.values()))
        self._metrics.overdue.set(len(late))
