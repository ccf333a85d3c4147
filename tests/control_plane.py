"""A broker with the control topics and authorities, all of which a test may kill, and the control commands on it."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner

from infra import topics
from infra.addresses import Addresses
from infra.errors import TidegateError
from infra.stack import broker
from tidegate import GROUPS

ROOT = Path(__file__).parents[1]


class Plane:
    """A broker with the project's topics, and authorities; all of it may be killed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._children: list[subprocess.Popen[bytes]] = []
        self.start_broker()

    def start_broker(self) -> None:
        self.broker = self._start(*broker.command(self.home, self.port))
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, "the broker does not answer"
            time.sleep(0.05)
        topics.create(self.address, topics.load())

    def _answers(self) -> bool:
        try:
            return asyncio.run(broker.answers(self.port))
        except OSError:
            return False

    def start_authority(self, log: str = "1") -> subprocess.Popen[bytes]:
        return self._start(sys.executable, "-m", "infra.control.authority", "--home", str(self.home), log=log)

    def _start(self, *command: str, log: str = "1") -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            command, env=self.env(log), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._children.append(child)
        return child

    def env(self, log: str = "1") -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        return {
            **clean,
            "TIDEGATE_HOME": str(self.home),
            "TIDEGATE_KAFKA": self.address,
            "TIDEGATE_LOG": log,
            "TIDEGATE_KEYS": str(self.home / "keys"),
        }

    def addresses(self, log: str = "1") -> Addresses:
        return Addresses(home=self.home, kafka=self.address, log=log)

    def run(self, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a control command in this process: the same code as `tidegate`, without a start of Python each."""
        module, attribute, _ = GROUPS[words[0]]
        app = getattr(importlib.import_module(module), attribute)
        done = CliRunner().invoke(app, list(words[1:]), input=given, env=self.env())
        error, code = "", done.exit_code
        if isinstance(done.exception, TidegateError):
            error, code = f"error: {done.exception}", done.exception.code
        elif done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(words, code, done.stdout, error + done.stderr)

    def process(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command as its user does."""
        return subprocess.run(
            [sys.executable, "-m", "tidegate", *words],
            env=self.env(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def json(self, *words: str, given: str | None = None, code: int = 0) -> dict:
        """Run a control command and return its JSON document; it must end with this exit code."""
        done = self.run(*words, "--json", given=given)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def end(self, child: subprocess.Popen[bytes]) -> None:
        child.kill()
        child.wait()

    def close(self) -> None:
        for child in self._children:
            child.send_signal(signal.SIGCONT)
            self.end(child)
