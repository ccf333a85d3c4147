"""Workers whose control reader hangs, that end, and that join."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.faults.stop.parts import WORKERS
from tests.faults.stop.running import CLOSED_MS, StopPath
from tests.faults.stop.stored import PATIENCE_S, now_ms

ROUNDS = range(3)
ROLES = {"minimise": "minimiser", "window": "windower"}


@pytest.mark.parametrize("worker", [*WORKERS, "window"])
def test_a_worker_that_hears_no_more_lets_nothing_through_and_is_named(path: StopPath, worker: str) -> None:
    """Its gate goes stale within 1 s, and whoever stops is told that it has not answered."""
    name, inserts = f"{worker}-1", path.inserts()
    stuck = path.hold_reader(name)
    done = path.command("switch", "engage", "--scope", "everything", "--reason", "test", "--wait", "3", "--json")
    told = json.loads(done.stdout)
    missing = [each for each in told["answers"] if each["answer"] == "missing"]
    assert (done.returncode, [each["role"] for each in missing]) == (3, [ROLES[worker]]), told["answers"]
    assert missing[0]["host"].endswith(f":{path.process(name).pid}")
    # Time for what it could still have on its way.
    time.sleep(1)
    longest, until = path.longest_insert_ms(inserts), now_ms()
    assert path.stored.rows(stuck + CLOSED_MS + longest, until) == 0
    path.let_reader_go(name)
    (switch,) = path.engaged()
    stop = path.ask(switch, told["offset"])
    path.holds(stop)
    path.resumes(stop)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_is_started_while_all_is_stopped_lets_nothing_through(path: StopPath, how: int) -> None:
    """A worker that begins anew reads its windows again, and one that is added takes some: both acknowledge first."""
    stop = path.engage()
    for role in WORKERS:
        path.signal(f"{role}-1", how)
        path.process(f"{role}-1").wait(PATIENCE_S)
    for role in WORKERS:
        path.start_worker(role, ready=False)
    added = path.start_worker("window", 2)
    for role in WORKERS:
        path.wait_ready(f"{role}-1")
    asked = path.ask(stop.switch, stop.offset, stop.written)
    started = {path.process(name).pid for name in ("minimise-1", "window-1", added)}
    applied = {int(each.gate.host.rpartition(":")[2]) for each in asked.answers.by("applied") if each.gate.host}
    assert started <= applied
    # From the first acknowledgements on: what was engaged stays engaged, whoever comes.
    path.holds(stop)
    assert path.stored.rows(after_ms=stop.acked_ms) == 0
    path.terminate(added)
    path.resumes(stop)
