"""What a ClickHouse server is to us: the embedded one, and a real one where TIDEGATE_TEST_STORE is set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from infra import migrations
from infra.addresses import Addresses
from infra.store import Store
from tests.support import wait_until

ROOT = Path(__file__).parents[3]


class StoreProcess:
    """An embedded store of the test's own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home.parent / f"{home.name}.log"
        self.address = ""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "infra.stack.store_server", "--home", str(home), "--port", "0"],
                cwd=ROOT,
                stderr=log,
            )

    def ready(self) -> StoreProcess:
        wait_until(self._listens, 60, f"the store listens (exit {self.process.poll()}): {self.log.read_text()}")
        return self

    def _listens(self) -> bool:
        for line in self.log.read_text().splitlines():
            if '"store listens"' in line:
                self.address = json.loads(line)["address"]
        return bool(self.address) or self.process.poll() is not None

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


def store_at(address: str, database: str = "tidegate") -> Store:
    return Store(Addresses(home=Path(), store=address, database=database), deadline_s=10)


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Callable[..., StoreProcess]]:
    """Starts embedded stores that a test may break."""
    started: list[StoreProcess] = []

    def start(home: Path = tmp_path / "home") -> StoreProcess:
        started.append(StoreProcess(home))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()


@pytest.fixture(scope="session")
def embedded_only() -> None:
    """Skips what a real server does otherwise."""
    if os.environ.get("TIDEGATE_TEST_STORE"):
        pytest.skip("this is about the embedded store")


@pytest.fixture(scope="session")
def store_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server that the contract is held against."""
    given = os.environ.get("TIDEGATE_TEST_STORE")
    if given:
        yield given
        return
    server = StoreProcess(tmp_path_factory.mktemp("store") / "home").ready()
    yield server.address
    assert server.stop() == 0


@pytest.fixture(scope="session")
def migrated(store_address: str) -> Store:
    """The store with our tables, in a database that a real server can lose."""
    store = store_at(store_address, f"tidegate_test_{os.getpid()}")
    migrations.migrate(store, migrations.load())
    return store


class Reply:
    """What curl got."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head, _, self.body = self.body.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines if ": " in line)}

    @property
    def text(self) -> str:
        return self.body.decode()


@pytest.fixture
def curl(store_address: str, need_programs: Callable[..., None]) -> Callable[..., Reply]:
    """`curl("SELECT 1", fields={…}, path="/", flags=[…])` through the real curl."""
    need_programs("curl")

    def run(
        body: str | bytes | None = None, *flags: str, fields: dict[str, str] | None = None, path: str = "/"
    ) -> Reply:
        url = f"{store_address.rstrip('/')}{path}" + (f"?{urlencode(fields)}" if fields else "")
        data = ["--data-binary", "@-"] if body is not None else []
        given = body.encode() if isinstance(body, str) else body
        done = subprocess.run(
            ["curl", "-sS", "-i", "--max-time", "60", *data, *flags, url], input=given, capture_output=True, check=True
        )
        return Reply(done.stdout)

    return run
