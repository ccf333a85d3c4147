"""The broker hangs and goes on, and dies and comes back with an empty log."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace

from infra import topics
from infra.stack import broker
from tests.faults.stop.parts import WORKERS
from tests.faults.stop.running import CLOSED_MS, PERMIT_MS, StopPath
from tests.faults.stop.stored import PATIENCE_S, now_ms
from tests.path_stack import wait

ROUNDS = range(3)
ANSWER_S = 2.0
"""In which a command says that the broker does not answer."""
ENGAGE = ("switch", "engage", "--scope", "everything", "--reason", "test")


def test_while_the_broker_hangs_nothing_is_stored_and_a_stop_says_so(path: StopPath) -> None:
    """Every gate closes within 1 s; whoever wants to stop is told in 2 s; afterwards rows flow, and a stop holds."""
    start = time.monotonic()
    path.command(*ENGAGE, "--help")
    start = time.monotonic() - start
    for _ in ROUNDS:
        inserts = path.inserts()
        path.signal("broker", signal.SIGSTOP)
        stopped, asked = now_ms(), time.monotonic()
        done = path.command(*ENGAGE)
        took = time.monotonic() - asked
        time.sleep(2)
        longest = path.longest_insert_ms(inserts)
        time.sleep(longest / 1000)
        continued = now_ms()
        path.signal("broker", signal.SIGCONT)
        assert (done.returncode, done.stdout) == (1, "")
        assert path.addresses.kafka in done.stderr
        assert "Traceback" not in done.stderr
        # Twice, for a machine that is busier now than it was before.
        assert took < ANSWER_S + 2 * start
        path.stored.wait_flow(continued)
        assert path.stored.rows(stopped + CLOSED_MS + longest, continued) == 0
        assert path.stored.events(stopped + CLOSED_MS + PERMIT_MS, continued, deaf=False) == 0
    stop = path.engage()
    path.holds(stop)
    path.resumes(stop)


def test_a_broker_that_comes_back_empty_finds_everything_closed_until_a_policy_is_applied(path: StopPath) -> None:
    """Nobody goes on by what he remembers, be it the gates or an authority, old or new, that speaks for the old log."""
    # A switch in the lost log: one that is engaged afterwards has an offset that has been applied before.
    path.resumes(path.engage())
    for life in (2, 3):
        inserts = path.inserts()
        path.kill("broker")
        killed = now_ms()
        path.end_log()
        path.spawn("broker", *broker.command(path.home, path.ports["broker"]))
        wait(lambda: asyncio.run(broker.answers(path.ports["broker"])), "the broker answers", PATIENCE_S)
        topics.create(path.addresses.kafka, topics.load())
        wait(lambda: not path.alive("authority"), "the authority has found out", PATIENCE_S)
        assert "has lost log" in path.log_of("authority")
        path.spawn("authority", *path.python("infra.control.authority"))
        # Time for every gate to hear it and, if it could, to open.
        time.sleep(5)
        assert path.metric("window-1", "tidegate_gate_open") == 0
        assert path.metric("minimise-1", "tidegate_gate_open") == 0
        longest = path.longest_insert_ms(inserts)
        path.kill("authority")
        for role in WORKERS:
            path.kill(f"{role}-1")
        path.addresses = replace(path.addresses, log=f"path-{life}")
        applied = now_ms()
        path.spawn("authority", *path.python("infra.control.authority"))
        path.begin_log()
        for role in WORKERS:
            path.start_worker(role)
        path.stored.wait_flow(applied)
        assert path.stored.rows(killed + CLOSED_MS + longest, applied) == 0
        assert path.stored.events(killed + CLOSED_MS + PERMIT_MS, applied, deaf=False) == 0
        path.resumes(path.engage())
