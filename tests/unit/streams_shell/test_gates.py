"""Waiting for a gate."""

from __future__ import annotations

import asyncio

import pytest

from streams import gates
from streams.data import NotFreshError
from tests.streams_support import ANN, TRAINING, OpenGate, before_and_after, closed, until

BEFORE, AFTER = before_and_after({ANN: [TRAINING]})


def test_a_gate_that_is_closed_is_not_entered():
    """Nobody is under way in it: what comes next is judged by what is known then."""
    gate = OpenGate(closed(BEFORE))
    with pytest.raises(NotFreshError, match="no heartbeat"):
        gates.enter(gate)
    gate.now = AFTER
    assert gate.acknowledged() == 6


def test_waits_for_a_gate_to_open_and_beats_meanwhile():
    """No attempt is made before, and one that finds the gate closed again is made anew."""

    async def scenario():
        gate, beats, attempts = OpenGate(closed(BEFORE)), [], []

        async def attempt():
            attempts.append(gate.now.fresh)
            if len(attempts) == 1:
                gate.now = closed(BEFORE)
                raise NotFreshError
            return "done"

        task = asyncio.create_task(gates.when_open(gate, lambda: beats.append(1), attempt))
        for tries in (1, 2):
            before = len(beats)
            await until(lambda before=before: len(beats) > before + 2)
            assert len(attempts) == tries - 1
            gate.now = BEFORE
            await until(lambda tries=tries: len(attempts) == tries)
        assert await task == "done"
        assert attempts == [True, True]

    asyncio.run(scenario())
