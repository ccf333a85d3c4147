"""What the gate lets one subject's producer capture, at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from infra.control.gate import Verdict
from schemas.catalogue import KIND_NAMES


@dataclass(frozen=True, slots=True)
class Permit:
    """The gate's verdict as the capturing thread reads it: a table look-up a call."""

    epoch: int
    """The control epoch it was given in."""
    verdict: Verdict
    until: float
    """Monotonic seconds; afterwards it counts as refused, whatever it says."""

    @property
    def refusal(self) -> tuple[str, ...]:
        """By kind code: the empty string to pass, else the reason."""
        return self.verdict.refusal

    @property
    def open(self) -> bool:
        """Whether any kind of event may pass."""
        return not all(self.verdict.refusal)


def closed(reason: str, epoch: int = 0) -> Permit:
    """Return the permit that refuses everything for one reason."""
    kinds = len(KIND_NAMES)
    verdict = Verdict(frozenset(), frozenset(), (reason,) * kinds, (frozenset(),) * kinds)
    return Permit(epoch, verdict, float("inf"))
