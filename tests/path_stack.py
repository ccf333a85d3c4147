"""The path from raw topic to store as separate processes, for tests that kill them and benches that measure them.

Without the supervisor: a test decides what dies and when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from infra import topics
from infra.addresses import Addresses
from infra.control.records import Consent, Policy
from infra.control.writer import ControlWriter
from infra.stack import broker
from infra.store import Store
from schemas.catalogue import KINDS, load
from schemas.codec import Codec
from schemas.wire import frame
from tests.approvers import approve, demo_policy

ROOT = Path(__file__).parents[1]
PARTITIONS = 4
PURPOSE = "assistant-training"
START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PathStack:
    """Broker, registry, store and authority, and as many workers as a test starts.

    `sessions`: each part in a session of its own, as the supervisor starts them. Linux
    shares its processors by session, so that a busy machine slows the path as it would there.
    """

    def __init__(self, home: Path, *, sessions: bool = False) -> None:
        self.home = home
        self._sessions = sessions
        home.mkdir(parents=True, exist_ok=True)
        self.ports = {name: free_port() for name in ("broker", "registry", "store")}
        self.addresses = Addresses(
            home=home,
            kafka=f"127.0.0.1:{self.ports['broker']}",
            registry=f"http://127.0.0.1:{self.ports['registry']}",
            store=f"http://127.0.0.1:{self.ports['store']}",
            log="path-1",
        )
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        self.health: dict[str, int] = {}
        key = home / "keys" / "pseudonym.key"
        key.parent.mkdir(exist_ok=True)
        key.write_bytes(secrets.token_bytes(32))
        key.chmod(0o600)

    def up(self) -> None:
        """Start everything but the workers, create topics and tables."""
        self.spawn("broker", *self.broker_command())
        self.start_service("registry")
        self.start_service("store")
        wait(lambda: asyncio.run(broker.answers(self.ports["broker"])), "the broker answers")
        wait(lambda: get(f"{self.addresses.registry}/subjects"), "the registry answers")
        self.wait_store()
        catalogue = topics.load()
        topics.create(self.addresses.kafka, catalogue)
        self.schema_ids = topics.register_schemas(self.addresses.registry, catalogue)
        self.migrate()
        self.spawn("authority", *self.python("infra.control.authority"))
        self.store = Store(self.addresses)

    def broker_command(self) -> tuple[str, ...]:
        """Return the command of the broker: the embedded one."""
        return broker.command(self.home, self.ports["broker"])

    def migrate(self) -> None:
        command = self.python("tidegate", "store", "migrate")
        subprocess.run(command, env=self.env(), check=True, capture_output=True)

    def start_service(self, name: str) -> None:
        """Start the registry or the store, at the port it had."""
        module = {"registry": "infra.stack.registry", "store": "infra.stack.store_server"}[name]
        self.spawn(name, *self.python(module, "--home", str(self.home), "--port", str(self.ports[name])))

    def start_worker(
        self, role: str, number: int = 1, *, ready: bool = True, module: str = "tidegate", **settings: str
    ) -> str:
        """Start a minimiser or windower of a module, wait until it is healthy, and return its name."""
        name = f"{role}-{number}"
        port = self.health[name] = free_port()
        command = self.python(module, "stream", role, "--metrics-port", str(port))
        self.spawn(name, *command, **{f"TIDEGATE_{key.upper()}": value for key, value in settings.items()})
        if ready:
            self.wait_ready(name)
        return name

    def wait_ready(self, name: str) -> None:
        wait(lambda: get(f"http://127.0.0.1:{self.health[name]}/healthz"), f"{name} is ready\n{self.tail(name)}")

    def metric(self, worker: str, name: str) -> float:
        """Return the sum of a metric over its labels."""
        lines = get(f"http://127.0.0.1:{self.health[worker]}/metrics").decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def process(self, name: str) -> subprocess.Popen[bytes]:
        return self._parts[name]

    def kill(self, name: str) -> None:
        """kill -9."""
        self._parts[name].kill()
        self._parts[name].wait()

    def terminate(self, name: str, timeout: float = 10.0) -> int:
        """SIGTERM; return the exit code."""
        self._parts[name].terminate()
        return self._parts[name].wait(timeout)

    def wait_store(self) -> None:
        wait(lambda: get(f"{self.addresses.store}/ping"), "the store answers")

    def ensure_worker(self, role: str) -> None:
        """Start the first worker of a role unless it runs."""
        running_one = self._parts.get(f"{role}-1")
        if running_one is None or running_one.poll() is not None:
            self.start_worker(role)

    def down(self) -> None:
        for part in reversed(self._parts.values()):
            part.kill()
        for part in self._parts.values():
            part.wait()

    def tail(self, name: str, lines: int = 20) -> str:
        with contextlib.suppress(OSError):
            return "\n".join((self.home / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
        return ""

    def log_of(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")

    def allow(self, *subjects: str, **changes: Any) -> Policy:
        """Put the demo policy in force, with changes, and let these subjects consent to one purpose."""
        policy = demo_policy(self.home / "policy", self.addresses.log, **changes)
        words = (
            Consent(subject, PURPOSE, True, policy.notice, policy.applied_at, policy.notice_digest)
            for subject in subjects
        )
        with ControlWriter(self.addresses) as writer:
            writer.write(policy, *(approve(word, self.addresses.log) for word in words))
        return policy

    def env(self, **more: str) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE_")}
        stack = self.addresses
        return {
            **clean,
            "TIDEGATE_HOME": str(self.home),
            "TIDEGATE_KAFKA": stack.kafka,
            "TIDEGATE_REGISTRY": stack.registry,
            "TIDEGATE_STORE": stack.store,
            "TIDEGATE_LOG": stack.log,
            **more,
        }

    def spawn(self, name: str, *command: str, **env: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self._parts[name] = subprocess.Popen(
                command, env=self.env(**env), stdout=log, stderr=log, cwd=ROOT, start_new_session=self._sessions
            )

    @staticmethod
    def python(module: str, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", module, *words)


class Writer:
    """Writes numbered batches of pointer moves to interactions.raw, as a producer would."""

    def __init__(self, stack: PathStack, events: int = 64) -> None:
        self._frame = stack.schema_ids["interactions.raw-value"]
        self._codec = Codec(load("interaction_batch"))
        self._events = events
        self._producer = Producer(
            {"bootstrap.servers": stack.addresses.kafka, "linger.ms": 5, "compression.type": "lz4", "log_level": 0}
        )
        self._numbers: dict[str, int] = {}
        step = np.arange(events)
        self._columns = {
            "offset_ms": step * 10,
            "kind": np.full(events, KINDS["pointer_move"]),
            "x": 300 + step * 3,
            "y": 200 + (step % 17) * 5,
        }

    def batch(
        self,
        session: str,
        subject: str,
        partition: int,
        at_ms: int,
        columns: Mapping[str, Any] | None = None,
    ) -> None:
        """Send the next batch of a session: events from `at_ms` on, 10 ms apart; the message is stamped `at_ms` too."""
        first = self._numbers.get(session, 0)
        self._numbers[session] = first + self._events
        header: Mapping[str, Any] = {
            "session": session,
            "subject": subject,
            "producer": "test",
            "epoch": 0,
            "first_number": first,
            "captured": first + self._events,
            "dropped": {},
            "final": False,
            "base_time": at_ms,
            "screen_width": 1920,
            "screen_height": 1080,
            "applications": ["", "editor"],
            "labels": [""],
        }
        self.raw(partition, frame(self._frame, self._codec.encode(header, columns or self._columns)), at_ms)

    def raw(self, partition: int, value: bytes, at_ms: int) -> None:
        while True:
            try:
                self._producer.produce("interactions.raw", value, partition=partition, timestamp=at_ms)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def flush(self) -> Mapping[str, int]:
        """Wait until the broker has everything; return how many events each session has."""
        assert self._producer.flush(30) == 0
        return dict(self._numbers)


@contextlib.contextmanager
def running(home: Path, *, sessions: bool = False) -> Iterator[PathStack]:
    """Give a stack that is up, and take it down."""
    stack = PathStack(home, sessions=sessions)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=2) as answer:
        return answer.read()


def wait(condition: Any, what: str, timeout: float = START_SECONDS, every: float = 0.05) -> None:
    """Poll until `condition()` holds; an OSError means not yet."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError):
            if condition() is not False:
                return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {what}")
        time.sleep(every)
