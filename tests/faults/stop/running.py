"""A path under load: what is stopped and released on it, who has acknowledged that, and what must then be so."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass

from infra.control import signing
from infra.control.acks import AckWatch
from infra.control.reader import ControlReader
from infra.control.records import SWITCH_TOPIC, Switch
from infra.control.roll import Answers, Gate
from infra.control.writer import ControlWriter, Written
from tests import load
from tests.approvers import approve
from tests.faults.stop.device import DeafDevice
from tests.faults.stop.heartbeats import Heartbeats
from tests.faults.stop.parts import WORKERS, Parts
from tests.faults.stop.store_line import StoreLine
from tests.faults.stop.stored import PATIENCE_S, Stored, now_ms

CLOSED_MS = 1_100
"""Every gate is closed 1 s after the authority's last heartbeat. That is the promise, whatever the code says; gates
count from the quickest heartbeat that has reached them, which takes some time too."""
PERMIT_MS = 1_000
"""A producer whose own thread is starved captures by its last look at the gate for so long."""
DEAF = "d" * 32
"""The subject of the device that does not listen."""
# Late enough for a batch that waits its half second and for a machine that is busy: what is late is not stored.
_WINDOWS = {"window_size_ms": 1_000, "window_step_ms": 1_000, "lateness_ms": 1_500, "resolution_ms": 1}


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


class StopPath(Parts):
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

    # Control

    def engage(self, *, but: Collection[str] = ()) -> Stop:
        """Stop everything, and wait until every gate that lives has acknowledged, those of the roles `but` apart."""
        switch = Switch(f"s-{secrets.token_hex(3)}", "everything", "", True, "test", "test", now_ms(), 0)
        with AckWatch(self.addresses) as watch, ControlWriter(self.addresses, PATIENCE_S) as writer:
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
        with ControlWriter(self.addresses, PATIENCE_S) as writer:
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
