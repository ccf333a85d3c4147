"""A path under load whose parts die, hang and come back, and whose gates are asked what they go by."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from infra.control import signing
from infra.control.acks import AckWatch
from infra.control.freshness import MAX_AGE
from infra.control.reader import ControlReader
from infra.control.records import SWITCH_TOPIC, Switch
from infra.control.roll import Answers, Gate
from infra.control.writer import ControlWriter, Written
from tests import load
from tests.approvers import approve
from tests.faults.stop import clock
from tests.faults.stop.device import DeafDevice
from tests.faults.stop.heartbeats import Heartbeats
from tests.faults.stop.held import stuck_file
from tests.faults.stop.store_line import StoreLine
from tests.faults.stop.stored import PATIENCE_S, Stored, now_ms
from tests.path_stack import ROOT, PathStack, free_port, get, wait

RATE = 20_000
CLOSED_MS = int(MAX_AGE * 1000) + 100
"""How long after the authority's last heartbeat every gate is closed: gates count from the quickest that has reached
them, which takes some time too."""
PERMIT_MS = 1_000
"""A producer whose own thread is starved captures by its last look at the gate for so long."""
DEAF = "d" * 32
"""The subject of the device that does not listen."""
WORKERS = ("minimise", "window")
_SETTINGS = {
    # With windows of a second: four INSERTs of rows a second, beside those of receipts and the ledger.
    "flush_seconds": "1",
    # The shortest silence after which a partition's last windows are closed.
    "tick_after_ms": "2000",
}
_WINDOWS = {"window_size_ms": 1_000, "window_step_ms": 1_000, "lateness_ms": 200, "resolution_ms": 1}


@dataclass(frozen=True)
class Stop:
    """An engaged switch, and how the gates have answered it."""

    switch: Switch
    offset: int
    written: Written | None
    """None where a command wrote it."""
    answers: Answers
    silent: set[str]
    """The roles of gates that live and have not answered."""
    acked_ms: int
    """When the last acknowledgement had arrived here, UTC epoch ms."""


class StopPath(PathStack):
    """Its rows come several times a second, from a producer at 20,000 events a second and from a deaf device."""

    def up(self) -> None:
        super().up()
        self.line = StoreLine(self.addresses.store)
        self.begin_log()
        for role in WORKERS:
            self.start_worker(role, ready=False)
        self.start_load()
        for role in WORKERS:
            self.wait_ready(f"{role}-1")
        self.stored.wait_flow()

    def begin_log(self) -> None:
        """Allow everybody, and follow what happens, in the log that the addresses name."""
        self.heartbeats, self.stored = Heartbeats(self.addresses), Stored(self.addresses)
        self.allow(*load.subjects(), DEAF, **_WINDOWS)
        self.device = DeafDevice(self, DEAF)

    def end_log(self) -> None:
        """Stop following; the broker may be gone."""
        self.device.close()
        self.heartbeats.close()

    def down(self) -> None:
        for name in self._parts:
            self.signal(name, signal.SIGCONT)
        if hasattr(self, "device"):
            self.end_log()
            self.line.close()
        super().down()

    def mend(self) -> None:
        """Bring back what a test that failed has left: parts that are stopped or dead, switches that are engaged."""
        for name in self._parts:
            self.signal(name, signal.SIGCONT)
        dead = [
            name for name in ("store", "authority", *(f"{role}-1" for role in WORKERS), "load") if not self.alive(name)
        ]
        for name in dead:
            self.restart(name)
        for role in WORKERS:
            self.let_reader_go(f"{role}-1")
        engaged = self.engaged()
        for switch in engaged:
            self.release(switch)
        if dead or engaged:
            self.stored.wait_flow()

    # Parts

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

    def start_authority(self, name: str = "authority") -> None:
        """Start one, and wait until it beats."""
        before = self.heartbeats.authorities()
        self.spawn(name, *self.python("infra.control.authority"))
        wait(lambda: self.heartbeats.authorities() - before, f"{name} beats", PATIENCE_S)

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

    # Control

    def engage(self, *, but: Collection[str] = ()) -> Stop:
        """Stop everything, and wait until every gate that lives has acknowledged, those of the roles `but` apart."""
        switch = Switch(f"s-{secrets.token_hex(3)}", "everything", "", True, "test", "test", now_ms(), 0)
        with AckWatch(self.addresses) as watch, ControlWriter(self.addresses) as writer:
            assert watch.wait_read(PATIENCE_S), watch.trouble
            written = writer.put(switch)[0]
            return self._answered(watch, switch, written.offset, written, but)

    def ask(self, switch: Switch, offset: int, written: Written | None = None, *, but: Collection[str] = ()) -> Stop:
        """Wait until every gate that lives by now has acknowledged a switch that is engaged, as `engage` does."""
        with AckWatch(self.addresses, since_ms=switch.at) as watch:
            assert watch.wait_read(PATIENCE_S), watch.trouble
            return self._answered(watch, switch, offset, written, but)

    def _answered(
        self, watch: AckWatch, switch: Switch, offset: int, written: Written | None, but: Collection[str]
    ) -> Stop:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answers = watch.wait_applied(SWITCH_TOPIC, offset, timeout=0.1, written=written)
            silent = {each.gate.role for each in answers.missing if self.lives(each.gate)}
            if answers.read and answers.by("applied") and silent.issubset(but):
                words = (each.gate.applied(SWITCH_TOPIC, offset, self.addresses.log) for each in answers.all)
                ago = time.monotonic() - max(word.arrived for word in words if word is not None)
                return Stop(switch, offset, written, answers, silent, now_ms() - int(ago * 1000))
            assert time.monotonic() < deadline, f"not acknowledged by {silent}"

    def lives(self, gate: Gate) -> bool:
        """Whether the process behind a worker's gate does: one that was killed is waited for until its lease is over."""
        return gate.role == "producer" or any(
            gate.host.endswith(f":{part.pid}") for part in self._parts.values() if part.poll() is None
        )

    def engaged(self) -> list[Switch]:
        """The switches that are engaged."""
        with ControlReader(self.addresses, "authority") as reader:
            view = reader.wait_for(lambda _: reader.read_to_end, PATIENCE_S)
            assert reader.read_to_end, reader.trouble
            return [switch for switch in view.state.switches.values() if switch.engaged]

    def release(self, old: Switch) -> int:
        """Release a switch, by two; return a moment that is certainly before, UTC epoch ms."""
        before, epoch = now_ms(), self.device.epoch + 1
        digest = signing.digest(old, self.addresses.log)
        new = Switch(old.id, old.scope, old.value, False, "test", "test", before, epoch, releases=digest)
        with ControlWriter(self.addresses) as writer:
            writer.write(approve(new, self.addresses.log))
        self.device.epoch = epoch
        return before

    # What every fault must leave true

    def holds(self, stop: Stop) -> None:
        """Assert that nothing is stored after the last acknowledgement, of all that was captured before it."""
        rows = self.stored.rows()
        self.stored.wait_judged(stop.acked_ms)
        assert self.stored.rows(after_ms=stop.acked_ms) == 0
        assert self.stored.rows() == rows, "what was on its way at the last acknowledgement was stored after it"

    def resumes(self, stop: Stop) -> None:
        """Release it, and assert that rows flow again without anything captured before."""
        released = self.release(stop.switch)
        self.stored.wait_flow(released)
        assert self.stored.events(0, released, stored_after_ms=stop.acked_ms) == 0
