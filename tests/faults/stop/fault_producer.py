"""A producer that is away when everything is stopped, and comes back after the release with what it still has."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stop.running import StopPath
from tests.faults.stop.stored import PATIENCE_S, POLL_S
from tests.line import Line
from tests.path_stack import wait

ROUNDS = range(3)
OFFLINE, OFFLINE_RATE = "offline", 2_000
SPOOL_BYTES, SPOOLED_EVENTS = 20_000, 500
"""At least so much is spooled before the stop: batches of an event or more, at 200 bytes at most."""


@pytest.mark.parametrize("_round", ROUNDS)
def test_a_producer_that_was_asleep_brings_nothing_back(path: StopPath, _round: int) -> None:
    """What it held when it was stopped is refused and counted after the release, and what it captures then passes."""
    path.signal("load", signal.SIGSTOP)
    stop = path.engage(but={"producer"})
    assert stop.silent == {"producer"}
    path.holds(stop)
    before = path.stored.dropped()
    released = path.release(stop.switch)
    path.signal("load", signal.SIGCONT)
    path.stored.wait_flow(released)
    assert path.stored.events(0, released, stored_after_ms=stop.acked_ms) == 0
    wait(lambda: path.stored.dropped() > before, "what it held is counted", PATIENCE_S)


@pytest.fixture
def offline(path: StopPath) -> Iterator[Line]:
    """A second producer's line to the broker: cut, and all that it captures goes to a spool on its disk."""
    line = Line(f"http://{path.addresses.kafka}")
    line.set("refuse")
    address = line.address.removeprefix("http://")
    path.start_load(OFFLINE, "tests.faults.stop.offline", rate=OFFLINE_RATE, LINE=address)
    yield line
    if path.alive(OFFLINE):
        path.end_load(OFFLINE)
    line.set("refuse")


@pytest.mark.parametrize("_round", range(2))
def test_a_spool_from_before_the_stop_is_refused(path: StopPath, offline: Line, _round: int) -> None:
    """What was captured before the stop and comes after the release is counted as of an earlier epoch, to the event."""
    known = path.stored.sessions()
    spool = path.home / "spool"
    full = size(spool) + SPOOL_BYTES
    wait(lambda: size(spool) > full, "it spools", PATIENCE_S)
    stop = path.engage()
    path.holds(stop)
    released = path.release(stop.switch)
    offline.set("pass")
    wait(lambda: path.stored.rows_of_others(known, released), "it has sent its spool, and goes on", PATIENCE_S, POLL_S)
    report = path.end_load(OFFLINE)
    assert (report["spooled"], report["unsent"]) == (0, 0)
    sent = report["captured"] - sum(report["dropped"].values())
    wait(lambda: path.stored.received_of_others(known)[0] == sent, "all of it is accounted for", PATIENCE_S, POLL_S)
    assert path.stored.received_of_others(known)[1] > SPOOLED_EVENTS
    assert path.stored.events(0, released, stored_after_ms=stop.acked_ms) == 0


def size(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
