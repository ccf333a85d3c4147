"""The authority killed, and two of them of which one lags."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.stop.running import CLOSED_MS, PERMIT_MS, StopPath

ROUNDS = range(3)


@pytest.mark.parametrize("_round", ROUNDS)
def test_a_dead_authority_ends_every_row_within_a_second(path: StopPath, _round: int) -> None:
    """Nothing is stored later than 1 s and one INSERT after its last heartbeat, nor what was captured meanwhile."""
    inserts = path.inserts()
    path.kill("authority")
    # The silence itself, long enough to tell a row that comes too late.
    time.sleep(2.5)
    longest = path.longest_insert_ms(inserts)
    time.sleep(longest / 1000)
    last, first = path.heartbeats.silence_before(path.start_authority())
    path.stored.wait_flow()
    assert path.stored.rows(last + CLOSED_MS + longest, first) == 0
    assert path.stored.events(last + CLOSED_MS + PERMIT_MS, first, deaf=False) == 0


def test_an_authority_that_was_stopped_opens_nothing_when_it_continues(path: StopPath) -> None:
    """It knows of no switch that was engaged meanwhile, and the one that did know is dead."""
    lagging, other = "authority", "authority-2"
    for _ in ROUNDS:
        path.start_authority(other)
        path.signal(lagging, signal.SIGSTOP)
        stop = path.engage()
        path.kill(other)
        since = path.heartbeats.count
        path.signal(lagging, signal.SIGCONT)
        path.holds(stop)
        assert path.heartbeats.count > since, "it beats again"
        path.resumes(stop)
