"""A real store with the real tables, and rows planted by hand."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.addresses import Addresses
from infra.statements import split_statements
from infra.store import Store
from schemas.catalogue import KINDS

ROOT = Path(__file__).parents[3]
EVENT_COLUMNS = (
    "number", "offset_ms", "kind", "application", "x", "y", "button", "pressed",
    "wheel_x", "wheel_y", "key_class", "role",
)  # fmt: skip
STARTED = time.time_ns() // 1_000_000 - 3_600_000
"""An hour ago: within every retention, a multiple of nothing in particular."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def store_address(tmp_path_factory) -> Iterator[str]:
    """The embedded store's HTTP address; one server for all tests here."""
    home, port = tmp_path_factory.mktemp("store"), _free_port()
    log = (home / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "infra.stack.store_server", "--home", str(home), "--port", str(port)],
        stdout=log, stderr=log,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while not _listens(port):
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the store did not start: {(home / 'log').read_text()[-2000:]}")
        time.sleep(0.05)
    yield address
    server.terminate()
    server.wait(20)
    log.close()


@dataclass
class Planted:
    """A database of a test's own, with the real tables."""

    addresses: Addresses
    store: Store

    def batch(self, session: str, raw_offset: int, count: int, captured: int, **more) -> None:
        """Plant a receipt."""
        row = {
            "log": "1", "partition": 0, "raw_offset": raw_offset, "block_offset": raw_offset, "session": session,
            "first_number": captured - count, "count": count, "captured": captured, "final": 0, "kept": count,
            "late": 0, "producer_dropped": {}, "dropped": {}, "append_time": STARTED + raw_offset, **more,
        }  # fmt: skip
        maps = pa.map_(pa.string(), pa.uint64())
        types = {"producer_dropped": maps, "dropped": maps, "partition": pa.int32(), "final": pa.uint8()}
        self._insert("batches", [row], types)

    def window(self, session: str, numbers, *, start: int = STARTED, times: int = 1, **more) -> None:
        """Plant a window whose events have these numbers; `times` rows of it."""
        self.windows([_window_row(session, numbers, start=start, **more)] * times)

    def windows(self, rows: list[dict]) -> None:
        """Plant windows, all in one INSERT."""
        types = {
            **{name: pa.list_(pa.int32()) for name in EVENT_COLUMNS},
            "number": pa.list_(pa.int64()),
            "refused": pa.map_(pa.string(), pa.uint64()),
            "purposes": pa.list_(pa.string()),
            "applications": pa.list_(pa.string()),
        }
        self._insert("windows", rows, types)

    def ledger(self, replay_from: int, *, log: str = "1", partition: int = 0) -> None:
        """Plant the ledger's row."""
        row = {
            "log": log, "partition": partition, "closed_through": 0, "replay_from": replay_from,
            "watermark": 0, "raw_through": 0,
        }  # fmt: skip
        self._insert("ledger", [row], {"partition": pa.int32()})

    def deadletter(self, raw_offset: int) -> None:
        """Plant a dead letter."""
        row = {
            "log": "1", "partition": 0, "raw_offset": raw_offset, "reason": "malformed", "schema_id": -1,
            "size": 3, "digest": "00", "append_time": STARTED,
        }  # fmt: skip
        self._insert("deadletters", [row], {"partition": pa.int32(), "schema_id": pa.int32()})

    def _insert(self, table: str, rows: list[dict], types) -> None:
        columns = {name: pa.array([row[name] for row in rows], types.get(name)) for name in rows[0]}
        # A token of its own: ClickHouse would take an equal block for a repeat of an earlier test's.
        self.store.insert_arrow(table, pa.table(columns), token=uuid.uuid4().hex)

    def env(self) -> dict[str, str]:
        """The environment in which the command line finds this database and no broker."""
        return {
            "PATH": "/usr/bin:/bin",
            "TIDEGATE_HOME": str(self.addresses.home),
            "TIDEGATE_STORE": self.addresses.store,
            "TIDEGATE_DATABASE": self.addresses.database,
            "TIDEGATE_KAFKA": "127.0.0.1:1",
            "TIDEGATE_LOG": self.addresses.log,
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        command = [sys.executable, "-m", "tidegate", *words]
        return subprocess.run(
            command, env=self.env(), capture_output=True, text=True, timeout=90, check=False, cwd=ROOT
        )


def _window_row(session: str, numbers, *, start: int = STARTED, **more) -> dict:
    """A row of `windows`: 10 s, moves on a line, one left click at the end, all in one application."""
    n = len(numbers)
    kinds = np.full(n, KINDS["pointer_move"])
    kinds[-1:] = KINDS["pointer_button"]
    events = {name: [0] * n for name in EVENT_COLUMNS}
    events |= {
        "number": list(numbers), "offset_ms": [10 * i for i in range(n)], "kind": kinds.tolist(),
        "application": [1] * n, "x": [8 * i for i in range(n)], "y": [16 * i for i in range(n)],
        "button": [0] * (n - 1) + [1] * (n > 0), "pressed": [0] * (n - 1) + [1] * (n > 0),
    }  # fmt: skip
    row = {
        "log": "1", "partition": 0, "slot": start, "window_kind": "tumbling", "window_start": start,
        "window_end": start + 10_000, "step_ms": 10_000, "session": session, "subject": "a" * 32, "policy": "demo",
        "policy_version": 1, "notice": "n1", "purposes": ["assistant-training"], "screen_width": 1920,
        "screen_height": 1080, "applications": ["", "browser", "text-editor"], **events, "stored": n, "refused": {},
        **more,
    }  # fmt: skip
    return {**row, "events": len(row["number"]), "stored": min(row["stored"], len(row["number"]))}


@pytest.fixture(scope="session")
def tables(store_address) -> Iterator[Store]:
    """A database with every table of infra/clickhouse, made once."""
    addresses = Addresses(home=Path("nowhere"), store=store_address, database="default")
    whole, store = Store(addresses), Store(replace(addresses, database="reading"))
    whole.command("CREATE DATABASE reading")
    whole.close()
    for path in sorted((ROOT / "infra" / "clickhouse").glob("*.sql")):
        for statement in split_statements(path.read_text()):
            store.command(statement)
    yield store
    store.close()


@pytest.fixture
def planted(tables, tmp_path) -> Planted:
    """The tables, empty."""
    for table in ("windows", "batches", "deadletters", "ledger", "manifests"):
        tables.command(f"TRUNCATE TABLE {table}")
    return Planted(Addresses(home=tmp_path / "home", store=tables.address, database=tables.database), tables)


@pytest.fixture
def window_row():
    """Makes a row of `windows`."""
    return _window_row
