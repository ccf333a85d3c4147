"""The parts of a path under load, which die, hang and come back as a test wants it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.faults.stop import clock
from tests.faults.stop.heartbeats import Heartbeats
from tests.faults.stop.held import stuck_file
from tests.faults.stop.store_line import StoreLine
from tests.faults.stop.stored import PATIENCE_S, now_ms
from tests.path_stack import ROOT, PathStack, free_port, get, wait

RATE = 20_000
WORKERS = ("minimise", "window")
_SETTINGS = {
    # With windows of a second: four INSERTs of rows a second, beside those of receipts and the ledger.
    "flush_seconds": "1",
    # The shortest silence after which a partition's last windows are closed.
    "tick_after_ms": "2000",
}


class Parts(PathStack):
    """Broker, registry, store, authorities, workers and producers, each a process."""

    heartbeats: Heartbeats
    line: StoreLine

    def alive(self, name: str) -> bool:
        return self.process(name).poll() is None

    def signal(self, name: str, number: int) -> None:
        if self.alive(name):
            os.kill(self.process(name).pid, number)

    def restart(self, name: str) -> None:
        """Start a part that has ended, and wait until it is there."""
        if name == "store":
            self.start_service("store")
            self.wait_store()
        elif name == "load":
            self.start_load()
        elif name.startswith("authority"):
            self.start_authority(name)
        else:
            self.start_worker(name[:-2], int(name[-1]))

    def start_authority(self, name: str = "authority") -> str:
        """Start one, wait until it beats, and return what it calls itself."""
        before = self.heartbeats.authorities()
        self.spawn(name, *self.python("infra.control.authority"))
        wait(lambda: bool(self.heartbeats.authorities() - before), f"{name} beats", PATIENCE_S)
        return (self.heartbeats.authorities() - before).pop()

    def start_worker(self, role: str, number: int = 1, *, ready: bool = True, **settings: str) -> str:
        """Start a worker whose control reader can be held, whose clock can be set, and whose way to the store is seen."""
        name = f"{role}-{number}"
        port = self.health[name] = free_port()
        given = {"store": self.line.address} | _SETTINGS | settings
        env = {f"TIDEGATE_{key.upper()}": value for key, value in given.items()}
        command = self.python("tests.faults.stop.held", role, "--metrics-port", str(port))
        self.spawn(name, *command, HELD=str(self._held(name)), **env, **clock.settings(self.home, name))
        if ready:
            wait(lambda: get(f"http://127.0.0.1:{port}/healthz"), f"{name} is ready", PATIENCE_S)
        return name

    def start_load(self, name: str = "load", module: str = "tests.load", rate: int = RATE, **env: str) -> None:
        """Start a producer, and wait until it captures."""
        before = self.log_of(name).count("ready") if (self.home / f"{name}.log").exists() else 0
        self.spawn(name, *self.python(module, "--rate", str(rate)), **env)
        wait(lambda: self.log_of(name).count("ready") > before, f"{name} is ready\n{self.tail(name)}", PATIENCE_S)

    def end_load(self, name: str = "load") -> dict:
        """End a producer and return its own counts."""
        self.terminate(name, 40)
        return json.loads(self.tail(name, 1))

    def hold_reader(self, worker: str) -> int:
        """Let a worker's control reader hang; return a moment at which it did, UTC epoch ms."""
        held = self._held(worker)
        stuck_file(held).unlink(missing_ok=True)
        held.touch()
        wait(stuck_file(held).exists, f"the reader of {worker} is stuck", PATIENCE_S, 0.005)
        return now_ms()

    def let_reader_go(self, worker: str) -> None:
        self._held(worker).unlink(missing_ok=True)

    def longest_insert_ms(self, before: dict[float, float]) -> int:
        """Bound how long any INSERT took since `inserts()` was `before`, ms."""
        since = {edge: count - before.get(edge, 0) for edge, count in self.inserts().items()}
        return int(1000 * min(edge for edge, count in since.items() if count == since[float("inf")]))

    def inserts(self) -> dict[float, float]:
        """The windower's INSERTs so far, by how many seconds they took at most."""
        lines = get(f"http://127.0.0.1:{self.health['window-1']}/metrics").decode().splitlines()
        told = (line for line in lines if line.startswith("tidegate_windower_insert_seconds_bucket"))
        return {float(line.split('le="')[1].split('"')[0]): float(line.rsplit(" ", 1)[1]) for line in told}

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command as its user does."""
        command = self.python("tidegate", *words)
        return subprocess.run(command, env=self.env(), cwd=ROOT, capture_output=True, text=True, check=False)

    def _held(self, worker: str) -> Path:
        return self.home / f"{worker}.held"
