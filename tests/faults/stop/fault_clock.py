"""A worker whose clock is set forward and back while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.faults.stop.clock import set_clock
from tests.faults.stop.parts import WORKERS
from tests.faults.stop.running import CLOSED_MS, StopPath
from tests.faults.stop.stored import now_ms

HOUR_S = 3600


@pytest.fixture
def set_worker(path: StopPath, need_programs: Callable[..., None]) -> Iterator[Callable[[str, int], None]]:
    """Sets a worker's clock so many seconds from the others'; they are right again at the end."""
    need_programs("faketime")
    yield partial(set_clock, path.home)
    for role in WORKERS:
        set_clock(path.home, f"{role}-1", 0)


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
def test_a_windower_whose_clock_is_an_hour_off_stores_nothing(path: StopPath, set_worker, seconds: int) -> None:
    """No row from then on, nor when the clock is right again, by a switch that was engaged meanwhile."""
    inserts = path.inserts()
    set_worker("window-1", seconds)
    wrong = now_ms()
    time.sleep(2.5)
    longest = path.longest_insert_ms(inserts)
    time.sleep(longest / 1000)
    assert path.stored.rows(wrong + CLOSED_MS + longest) == 0
    stop = path.engage()
    set_worker("window-1", 0)
    path.holds(stop)
    path.resumes(stop)


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
def test_a_minimiser_whose_clock_is_an_hour_off_passes_nothing_on(path: StopPath, set_worker, seconds: int) -> None:
    """Nothing that was captured from then on is stored before the clock is right, and everything after that is."""
    set_worker("minimise-1", seconds)
    wrong = now_ms()
    # In which what passes is stored several times over.
    time.sleep(5)
    assert path.stored.events(wrong + CLOSED_MS, now_ms()) == 0
    set_worker("minimise-1", 0)
    path.stored.wait_flow()
