"""Whether a loop still goes round. By itself, so that a producer need not load a metrics server to tell."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Tells whether a loop still goes round.

    The loop calls `beat()` each time round, idle or not; it counts as stalled
    when it has not for `limit_seconds`, and until its first beat. Being alive is
    not enough: a worker that waits for ever on a lock is alive.
    """

    def __init__(self, loop: str, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.loop = loop
        self.limit_seconds = limit_seconds
        self._clock = clock
        self._last: float | None = None

    def beat(self) -> None:
        """Say that the loop went round. Cheap enough for every round: one clock read."""
        self._last = self._clock()

    def stalled(self) -> str:
        """Return "" while the loop goes round, else a sentence that says since when it does not."""
        if self._last is None:
            return f"{self.loop}: not started"
        age = self._clock() - self._last
        if age <= self.limit_seconds:
            return ""
        return f"{self.loop}: no progress for {age:.1f} s (limit {self.limit_seconds:g} s)"
