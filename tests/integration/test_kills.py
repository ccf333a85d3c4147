"""kill -9 of every process in mid-stream, on the running stack; afterwards the books balance.

`tests/integration/streams` does the same to the workers at random moments and
between two writes; `tests/contract/store` to the store with an INSERT under way.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from subprocess import Popen

import pytest

from tests.support import Stack, start_stack, wait_until


@pytest.fixture(scope="module")
def killed_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for all kills: each test streams sessions of its own through it."""
    stack = start_stack(tmp_path_factory.mktemp("kills"))
    stack.allow()
    yield stack
    stack.run("down")


def _stream(stack: Stack, seed: int, minutes: str = "0.2") -> tuple[Popen[str], int]:
    """Ten people live for some seconds; return once some of it has reached the books."""
    stack.grant(stack.people(10, seed=seed))
    before = stack.books()[1]["captured"]
    process = stack.start(
        "produce", "simulate", "--people", "10", "--minutes", minutes, "--seed", str(seed), "--speed", "1", "--json"
    )
    wait_until(lambda: stack.books()[1]["captured"] > before + 100, 40, "events flow")
    return process, before


@pytest.mark.parametrize("victim", ["minimise-1", "window-1", "store", "registry", "authority"])
def test_books_balance_after_a_kill(killed_stack, victim):
    """kill -9 of a part in mid-stream loses nothing and stores nothing twice: the books know all and balance."""
    stack = killed_stack
    process, before = _stream(stack, seed=len(victim) + 20)
    pid = stack.parts()[victim]["pid"]
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    captured = before + json.loads(out)["captured"]
    wait_until(lambda: _is_back(stack, victim, pid), 60, f"{victim} is back")
    assert stack.settled(150, expect=captured)["captured"] == captured


def test_books_balance_after_a_producer_is_killed(killed_stack):
    """kill -9 of a producer loses what it held in memory and nothing that it had sent; its sessions stay open."""
    process, before = _stream(killed_stack, seed=40, minutes="10")
    process.kill()
    process.wait(timeout=30)
    books = killed_stack.settled(90)
    assert books["captured"] > before + 100
    assert books["open_sessions"] >= 1


def test_books_balance_after_the_broker_is_killed(own_stack):
    """The embedded broker keeps its log in memory: what dies with it is counted as lost, nothing goes unnoticed."""
    stack = own_stack()
    stack.allow()
    process, _ = _stream(stack, seed=22, minutes="0.4")
    pid = stack.parts()["broker"]["pid"]
    os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode in (0, 3), err
    wait_until(lambda: _is_back(stack, "broker", pid), 60, "the broker is back")
    stack.settled(90, expect=101)
    assert stack.json("policy", "show")["policy"] is None, "after losing its log the gate must be closed"


def _is_back(stack, victim: str, before: int) -> bool:
    part = stack.parts()[victim]
    return part["pid"] not in (None, before) and part["state"] == "ready"
