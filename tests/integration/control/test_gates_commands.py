"""`tidegate gates` on a real broker: every gate, what it has applied, open or closed and why."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from infra.control.reader import wall_ms
from infra.control.records import Switch
from tests.control_plane import ROOT, Plane
from tests.support import wait_until
from tests.switching import write


def stop(name: str = "s") -> Switch:
    return Switch(name, "everything", "", True, "test", "test", wall_ms(), 0)


def gates(plane: Plane, *words: str, code: int = 0) -> dict[str, dict]:
    return {row["gate"]: row for row in plane.json("gates", "list", *words, code=code)["gates"]}


def test_each_gate_is_listed_with_what_it_has_applied_and_whether_it_is_open(plane, policy, gate):
    """Role, machine, offsets, since when; open by policy, closed by a switch, which is named. Producers say less."""
    began = wall_ms()
    producer, minimiser = gate("producer"), gate("minimiser")
    assert all(each.wait_fresh(20).fresh for each in (producer, minimiser))
    wait_until(lambda: all(row["open"] for row in gates(plane).values()), 20, "both said that they are open")
    found = gates(plane)
    assert set(found) == {producer.gate, minimiser.gate}
    assert all(began - 1000 <= row["started_at"] <= wall_ms() for row in found.values())
    assert (found[producer.gate]["host"], "control.consent" in found[producer.gate]["applied"]) == ("", False)
    assert found[minimiser.gate]["host"]
    assert "keys" in found[minimiser.gate]["sources"]
    assert found[minimiser.gate]["applied"]["control.policy"] == 0
    write(plane, stop())
    wait_until(lambda: not any(row["open"] for row in gates(plane).values()), 20, "both said that they are closed")
    assert {row["why"] for row in gates(plane).values()} == {"stopped by s"}
    done = plane.run("gates", "list")
    assert (done.returncode, done.stdout.count("closed: stopped by s")) == (0, 2)


def test_a_gate_that_lags_is_said_and_exits_3(plane, gate):
    """With a passage held, what was written since has not been applied: the gate is behind by so many records."""
    keeper = gate("minimiser")
    with keeper.enter():
        write(plane, stop("a"), stop("b"))
        found = gates(plane, code=3)
        assert found[keeper.gate]["behind"] == {"control.switch": 2}
        done = plane.run("gates", "list")
        assert (done.returncode, "1 gate behind the control topics" in done.stdout) == (3, True)
    wait_until(lambda: plane.run("gates", "list").returncode == 0, 20, "it caught up")


def test_gates_that_ended_or_fell_silent_are_shown_with_all(plane, gate, ghost):
    """Neither can be open, so neither is among the gates; with --all, each with what became of it."""
    keeper = gate("sampler")
    ghost("windower-dead", lease_ms=1)
    keeper.close()
    wait_until(lambda: not gates(plane), 10, "neither can be open")
    assert "No gate has announced itself" in plane.run("gates", "list").stdout
    found = gates(plane, "--all")
    assert (found[keeper.gate]["left"], found["windower-dead"]["left"]) == (True, False)
    said = {line.split()[1]: line for line in plane.run("gates", "list", "--all").stdout.splitlines()[1:3]}
    assert said[keeper.gate].endswith("ended")
    assert "closed: its lease ran out at" in said["windower-dead"]


def test_without_an_authority_every_gate_is_closed_and_says_why(plane, policy, gate):
    """The gates' own word, and that of the one who looks, agree: no heartbeat, so closed."""
    keeper = gate("minimiser")
    wait_until(lambda: keeper.view().fresh, 20, "the gate opened")
    plane.end(plane.authority)
    wait_until(lambda: "heartbeat" in gates(plane)[keeper.gate]["why"], 20, "the gate said that it closed")
    done = plane.run("gates", "list")
    assert "Gates are closed" in done.stdout


def test_watch_gives_a_line_for_each_change_until_ctrl_c(plane, gate):
    """A gate that joins, one that leaves; Ctrl-C ends it without a traceback."""
    watching = subprocess.Popen(
        [sys.executable, "-m", "tidegate", "gates", "watch", "--json"],
        env=plane.env(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        keeper = gate("minimiser")
        line = json.loads(watching.stdout.readline())
        assert (line["name"], line["change"] in ("is", "new")) == (keeper.gate, True)
        keeper.close()
        while line["change"] != "gone":
            line = json.loads(watching.stdout.readline())
        assert line["name"] == keeper.gate
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=20)
        assert (watching.returncode, "Traceback" in errors) == (0, False), errors
    finally:
        watching.kill()
        watching.wait()
