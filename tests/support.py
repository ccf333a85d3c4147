"""What tests share that is no fixture: waiting, and a running stack's command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from infra.addresses import Addresses
from tests.approvers import policy_file, write_keys

PURPOSE = "assistant-training"


def wait_until(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Poll until `condition()` holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:.0f} s: {what}")
        time.sleep(0.05)


def skip_outside_ci(reason: str) -> NoReturn:
    """Skip for want of something that the machine lacks; in CI that is a failure, since `.ci/run` sees to all of it."""
    if os.environ.get("TIDEGATE_REQUIRE_PACKAGES"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Stack:
    """A running embedded stack and its command line."""

    home: Path

    def env(self, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
        return {**clean, "TIDEGATE_HOME": str(self.home), **more}

    def run(self, *words: str, given: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tidegate", *words],
            env=self.env(), input=given, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def ok(self, *words: str, given: str | None = None, timeout: float = 120) -> str:
        done = self.run(*words, given=given, timeout=timeout)
        assert done.returncode == 0, f"tidegate {' '.join(words)}: exit {done.returncode}\n{done.stderr}{done.stdout}"
        return done.stdout

    def json(self, *words: str, given: str | None = None, timeout: float = 120):
        return json.loads(self.ok(*words, "--json", given=given, timeout=timeout))

    def people(self, count: int, seed: int) -> list[str]:
        """The identifiers of simulated people."""
        return self.ok("produce", "simulate", "--people", str(count), "--seed", str(seed), "--subjects-only").split()

    @property
    def approvers(self) -> tuple[str, ...]:
        """Both approvers' keys, as a command takes them."""
        return tuple(word for key in write_keys(self.home / "policy") for word in ("--key", key))

    def allow(self) -> None:
        """Put the demo policy in force, signed by both."""
        self.ok("policy", "apply", str(policy_file(self.home / "policy")), *self.approvers)

    def grant(self, subjects: list[str], purpose: str = PURPOSE) -> None:
        """Let people consent, by two approvers' word."""
        words = ("consent", "grant", "--purpose", purpose, "--file", "-")
        self.ok(*words, *self.approvers, given="\n".join(subjects))

    def release(self, switch: str) -> dict:
        """Release a switch, by two."""
        return self.json("switch", "release", switch, "--reason", "test", *self.approvers)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tidegate", *words],
            env=self.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def addresses(self) -> Addresses:
        return Addresses.load(self.home, environ={})

    def parts(self) -> dict[str, dict]:
        """By part: pid, state, port and so on, as `tidegate status --json` gives them."""
        return {part["name"]: part for part in json.loads(self.run("status", "--json").stdout)["parts"]}

    def books(self) -> tuple[int, dict]:
        done = self.run("books", "--json")
        return done.returncode, json.loads(done.stdout)

    def settled(self, timeout: float = 60, *, expect: int = 0) -> dict:
        """Wait until `expect` captured events are known and nothing is in flight; the books must then balance."""
        wait = ("--wait", str(int(timeout)), "--expect", str(expect))
        done = self.run("books", "--json", *wait, timeout=timeout + 60)
        assert done.returncode == 0, f"books: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)


def start_stack(home: Path, *words: str) -> Stack:
    """Bring a whole stack up in a home of its own."""
    stack = Stack(home)
    stack.ok("up", "--detach", *words, timeout=180)
    return stack
