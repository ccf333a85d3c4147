"""Stopping with nothing but a stock Kafka client, and releasing what it engaged."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from infra.control.writer import ControlWriter
from tests.approvers import demo_policy, write_keys
from tests.control_plane import ROOT, Plane
from tests.support import wait_until


@pytest.fixture
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the librdkafka that confluent-kafka brings.

    Debian's kcat comes with 2.0.2, which misreads the embedded broker's list of what
    it speaks (tagged fields in ApiVersions); against Apache Kafka 4.1 it works as it is.
    """
    spec = find_spec("confluent_kafka")
    assert spec is not None
    assert spec.origin is not None
    (newer,) = (Path(spec.origin).parents[1] / "confluent_kafka.libs").glob("librdkafka-*.so.1")
    folder = tmp_path_factory.mktemp("lib")
    (folder / "librdkafka.so.1").symlink_to(newer)
    return folder


def kcat(plane: Plane, library: Path, value: str, *words: str) -> None:
    """The command of docs/runbooks/STOP.md."""
    done = subprocess.run(
        ["kcat", "-P", "-b", plane.address, "-t", "control.switch", *words],
        input=value, text=True, capture_output=True, timeout=30, check=False,
        env={**os.environ, "LD_LIBRARY_PATH": str(library)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_kcat_stops_everything_and_two_approvers_release_it(plane, gate, library, need_programs):
    """The runbook's JSON line, bytes that are nothing, and those without a name: each stops, each is released."""
    need_programs("kcat")
    keeper = gate("minimiser")
    with ControlWriter(plane.addresses(), timeout=10) as writer:
        writer.write(demo_policy(plane.home / "policy", "1"))
    keys = plane.home / "keys"
    keys.mkdir(mode=0o700)
    write_keys(keys)
    wait_until(lambda: keeper.view().state.policy is not None, 20, "the policy in force")

    kcat(plane, library, '{"scope":"everything","reason":"no CLI here","by":"me"}\n', "-k", "stop-1")
    kcat(plane, library, '{"scope":"source:keys"}\n', "-k", "stop-2")
    kcat(plane, library, "please stop\n", "-k", "stop-3")
    kcat(plane, library, "please stop\n")
    view = keeper.wait_for(lambda view: len(view.state.switches) == 4, 20)
    assert [(s.id, s.scope, s.value) for s in view.state.switches.values()] == [
        ("stop-1", "everything", ""),
        ("stop-2", "source", "keys"),
        ("stop-3", "everything", ""),
        ("unreadable-3", "everything", ""),
    ]
    (first, *_) = plane.json("switch", "list")["switches"]
    assert (first["reason"], first["by"]) == ("no CLI here", "me")
    # Whether it worked is asked by engaging the same again.
    again = plane.json("switch", "engage", "--scope", "everything", "--reason", "x", "--wait", "20")
    assert (again["already"], again["complete"], again["gates"]) == (True, True, 1)
    assert again["id"] in ("stop-1", "stop-3", "unreadable-3")
    for name in view.state.switches:
        done = plane.run("switch", "release", name, "--reason", "over", "--key", "anna", "--key", "ben", "--wait", "20")
        assert done.returncode == 0, done.stdout + done.stderr
    assert plane.json("switch", "list")["switches"] == []


def test_the_runbook_says_this_command():
    """What is tested is what on-call reads."""
    page = (ROOT / "docs" / "runbooks" / "STOP.md").read_text()
    assert (
        'echo \'{"scope":"everything","reason":"…","by":"me"}\' | kcat -P -b BROKER -t control.switch -k stop-1' in page
    )
