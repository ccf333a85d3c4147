"""The embedded store's life: crash, stop, a second one, a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from infra.store import StoreError
from tests.contract.store.conftest import store_at

ROWS = pa.table({"a": pa.array(range(1000), pa.int64())})
CREATE = "CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100"


def test_kill_9_loses_no_acknowledged_insert(own_store):
    """Killed right after the answer, four times: every row is there, and a token is still known."""
    for times in range(1, 3):
        server = own_store().ready()
        store = store_at(server.address, "default")
        if times == 1:
            store.command(CREATE)
        store.insert_arrow("t", ROWS, f"token {times}")
        server.kill()
        again = own_store().ready()
        store = store_at(again.address, "default")
        store.insert_arrow("t", ROWS, f"token {times}")
        assert store.query_rows("SELECT count() FROM t").rows == [(1000 * times,)]
        again.kill()


def test_sigterm_ends_it_even_while_a_query_runs(own_store, need_programs):
    """It closes the engine and exits with 0."""
    need_programs("curl")
    server = own_store().ready()
    sql = "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) % 7 = 1"
    long = subprocess.Popen(["curl", "-sS", "--data-binary", sql, server.address], stdout=subprocess.PIPE)
    watch = store_at(server.address, "default")
    while watch.query_rows("SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%'").rows == [(1,)]:
        pass
    assert server.stop() == 0
    long.wait(10)


def test_a_second_store_on_the_same_folder_is_told(own_store, tmp_path):
    """It names the folder and says that another process has it; the first one goes on."""
    first = own_store().ready()
    second = own_store()
    assert second.process.wait(60) == 1
    assert f"another process has the store in {tmp_path / 'home' / 'store'} open" in second.log.read_text()
    assert store_at(first.address, "default").ping()


def test_a_taken_port_is_told(own_store, tmp_path):
    """It names the port."""
    port = own_store().ready().address.rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-m", "infra.stack.store_server", "--home", str(tmp_path / "other"), "--port", port],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: the store cannot listen on 127.0.0.1:{port}")


def test_a_full_disk_is_told(own_store, tmp_path):
    """The client hears that the disk is full; nothing of the INSERT is stored; reading goes on."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        server = own_store(small / "home").ready()
        store = store_at(server.address, "default")
        store.command("CREATE TABLE t (s String) ENGINE = MergeTree ORDER BY tuple()")
        noise = pa.table({"s": [os.urandom(1 << 20).hex() for _ in range(40)]})
        once = store_at(server.address, "default")
        once._deadline_s = 0
        with pytest.raises(StoreError) as refused:
            once.insert_arrow("t", noise, None)
        assert "space" in refused.value.detail.lower()
        assert store.query_rows("SELECT count() FROM t").rows == [(0,)]
        server.kill()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
