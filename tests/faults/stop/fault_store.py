"""The store dies or hangs with an INSERT under way while everything is stopped, and comes back."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.stop.running import StopPath


@pytest.mark.parametrize("_round", range(2))
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_an_insert_of_unknown_outcome_holds_the_acknowledgement_back(path: StopPath, how: int, _round: int) -> None:
    """The windower waits for the store to say what became of an INSERT; when it has, no row follows."""
    path.line.at_next_insert(lambda: path.signal("store", how))
    stop = path.engage(but={"windower"})
    # The others have answered; it would have too.
    time.sleep(1)
    assert path.ask(stop.switch, stop.offset, stop.written, but={"windower"}).silent == {"windower"}
    if how == signal.SIGSTOP:
        path.signal("store", signal.SIGCONT)
    else:
        path.process("store").wait()
        path.restart("store")
    stop = path.ask(stop.switch, stop.offset, stop.written)
    path.holds(stop)
    path.resumes(stop)


@pytest.mark.parametrize("_round", range(2))
def test_a_store_killed_at_any_moment_stores_nothing_when_it_is_back(path: StopPath, _round: int) -> None:
    """Killed at any moment while everything is stopped, it finds nothing to store when it is back."""
    path.kill("store")
    stop = path.engage(but={"windower"})
    path.restart("store")
    stop = path.ask(stop.switch, stop.offset, stop.written)
    path.holds(stop)
    path.resumes(stop)
