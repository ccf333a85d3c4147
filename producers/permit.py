"""What the gate lets one subject's producer capture, at one moment."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from infra.control.gate import Verdict, View, judge
from infra.control.reasons import STALE
from schemas.catalogue import KIND_NAMES, POLICY_FIELDS

_EXTEND_BELOW = 0.8
"""Of its time to run: at 1 s a permit is extended five times a second, which leaves 0.8 s for a starved thread."""


@dataclass(frozen=True, slots=True)
class Permit:
    """The gate's verdict as the capturing thread reads it: a table look-up a call."""

    epoch: int
    """The control epoch it was given in."""
    verdict: Verdict
    until: float
    """Monotonic seconds; afterwards it counts as refused, whatever it says."""
    since: int = 0
    """When its epoch began, UTC epoch ms: what happened before was not captured in it."""

    refusal: tuple[str, ...] = field(init=False)
    """By kind code: the empty string to pass, else the reason. The verdict's own, one step nearer."""
    withheld: tuple[str, ...] = field(init=False)
    """The fields that some kind which may pass must go without."""

    def __post_init__(self) -> None:
        verdict = self.verdict
        kept = [fields for reason, fields in zip(verdict.refusal, verdict.kind_fields, strict=True) if not reason]
        withheld = tuple(name for name in POLICY_FIELDS if not all(name in fields for fields in kept))
        object.__setattr__(self, "refusal", verdict.refusal)
        object.__setattr__(self, "withheld", withheld)

    @property
    def open(self) -> bool:
        """Whether any kind of event may pass."""
        return not all(self.refusal)


def closed(reason: str, epoch: int = 0) -> Permit:
    """Return the permit that refuses everything for one reason."""
    kinds = len(KIND_NAMES)
    verdict = Verdict(frozenset(), frozenset(), (reason,) * kinds, (frozenset(),) * kinds)
    return Permit(epoch, verdict, float("inf"))


class Holder:
    """One session's permit, kept in step with the control state. `renew` is for one thread, `current` for any."""

    def __init__(self, subject: str, valid_s: float) -> None:
        """A permit is good for `valid_s` seconds after the look at the control state that it stems from."""
        self.permit = closed(STALE)
        self._subject = subject
        self._valid_s = valid_s
        self._looked: tuple[str, int, bool] | None = None
        self._judged_at = 0

    def current(self) -> Permit:
        """Return the permit, or where nobody has renewed it in time, one that refuses everything."""
        permit = self.permit
        return permit if time.monotonic() < permit.until else closed(STALE, permit.epoch)

    def renew(self, view: View) -> None:
        """Judge anew when the control state has changed or the verdict has run out; else extend it when it is due."""
        now, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        looked = (view.state.log, view.state.version, view.fresh)
        verdict = self.permit.verdict
        if looked != self._looked or not self._judged_at <= now_ms < verdict.until:
            verdict = judge(view, self._subject, now_ms, view.state.epoch)
            self._looked, self._judged_at = looked, now_ms
        elif self.permit.until - now > _EXTEND_BELOW * self._valid_s:
            # The same object for as long as may be: rows under one permit are batched as a whole.
            return
        self.permit = Permit(view.state.epoch, verdict, now + self._valid_s, view.state.epoch_since)
