"""A path on Apache Kafka instead of the embedded broker, where there is Java. No Docker: its jars, run as they are.

The jars come from Maven Central once (43 MB) and stay in a cache outside the repository.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

from tests.path_stack import PathStack, free_port

VERSION = "4.1.0"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate" / f"kafka-{VERSION}"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidegate</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""


def missing() -> str:
    """Return what Kafka lacks to run here; empty where it can."""
    if shutil.which("java") is None:
        return "no java (on Debian: apt-get install openjdk-17-jre-headless)"
    if not _CACHE.is_dir() and shutil.which("mvn") is None:
        return "no jars and no mvn to fetch them with (on Debian: apt-get install maven)"
    return ""


class KafkaStack(PathStack):
    """As PathStack, with Apache Kafka: one combined broker and controller that keeps its log in the home."""

    def broker_command(self) -> tuple[str, ...]:
        """Format the log's folder and return the command of the broker."""
        classes = str(_jars() / "*")
        settings = self.home / "server.properties"
        settings.write_text(_settings(self.home / "kafka", self.ports["broker"], free_port()))
        # A leading dash would be taken for an option.
        cluster = "t" + urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        tool = ("java", "-cp", classes, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings))
        subprocess.run(tool, check=True, capture_output=True)
        memory = ("-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
        return "java", *memory, "-cp", classes, "kafka.Kafka", str(settings)


@contextlib.contextmanager
def running(home: Path, *, sessions: bool = False) -> Iterator[PathStack]:
    """Give a stack on Kafka that is up, and take it down."""
    stack = KafkaStack(home, sessions=sessions)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def _jars() -> Path:
    """Return the folder of the jars, fetched where it is not there yet. Raises CalledProcessError."""
    if not _CACHE.is_dir():
        _CACHE.parent.mkdir(parents=True, exist_ok=True)
        # Into a folder of its own first: one that was broken off must not be taken for complete.
        with tempfile.TemporaryDirectory(dir=_CACHE.parent) as folder:
            (Path(folder) / "pom.xml").write_text(_POM)
            goal = ("dependency:copy-dependencies", "-DoutputDirectory=jars")
            subprocess.run(("mvn", "-q", "-B", *goal), cwd=folder, check=True)
            (Path(folder) / "jars").rename(_CACHE)
    return _CACHE


def _settings(folder: Path, port: int, controller: int) -> str:
    lines = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": folder,
        "group.initial.rebalance.delay.ms": 0,
        "offsets.topic.num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())
