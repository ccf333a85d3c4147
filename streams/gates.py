"""What a worker asks of its gate, and waiting for it to be open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from infra.control.passages import Passage
from infra.control.state import View
from streams.data import NotFreshError

T = TypeVar("T")

GATE_POLL_SECONDS = 0.02
"""How soon a worker notices that its gate has opened."""


class Gate(Protocol):
    """As `infra.control.keeper.GateKeeper`."""

    def view(self) -> View:
        """Return what may be gone by now."""

    def enter(self) -> Passage:
        """Begin to judge by the view of this moment; leave the passage when the outcome is known."""


async def when_open(gate: Gate, beat: Callable[[], None], attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what `attempt` returns, made whenever the gate is open, and again where it raises NotFreshError.

    Calls `beat` as it waits. Nothing passes meanwhile and nothing is lost.
    """
    while True:
        if gate.view().fresh:
            try:
                return await attempt()
            except NotFreshError:
                pass
        beat()
        await asyncio.sleep(GATE_POLL_SECONDS)


def enter(gate: Gate) -> Passage:
    """Enter an open gate. Raises NotFreshError, and leaves, where it has closed."""
    passage = gate.enter()
    if not passage.view.fresh:
        passage.leave()
        raise NotFreshError(passage.view.why)
    return passage
