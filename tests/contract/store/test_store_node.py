"""The official Node client, unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.support import skip_outside_ci

VERSION = "1.23.1"
HERE = Path(__file__).parent


def test_the_node_client_works_unchanged(store_address, tmp_path, need_programs):
    """Commands, JSON inserts, parameters, streams, errors and ping, with and without compression."""
    need_programs("node", "npm")
    shutil.copy(HERE / "client.mjs", tmp_path)
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), f"@clickhouse/client@{VERSION}"]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    if installed.returncode:
        skip_outside_ci(f"npm cannot install @clickhouse/client {VERSION}: no package registry within reach")
    done = subprocess.run(
        ["node", "client.mjs", store_address], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = {
        "rows": [{"a": 998, "b": "é998"}, {"a": 999, "b": "é999"}],
        "streamed": 200000,
        "n": 1000,
        "refused": ["60", "UNKNOWN_TABLE"],
        "pong": True,
    }
    assert json.loads(done.stdout) == {"compression false": expected, "compression true": expected}
