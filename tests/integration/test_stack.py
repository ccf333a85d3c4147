"""The embedded stack as its user runs it: up, status, down, and what goes wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infra.stack.home import Home
from tests.support import Stack, wait_until


def alive(pid):
    """A zombie that nobody has collected yet does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(stack):
    status = json.loads(stack.run("status", "--json").stdout)
    return [part["pid"] for part in status["parts"] if part["pid"]] + [status["supervisor"]["pid"]]


def state(stack):
    """What the supervisor last wrote: cheaper to wait on than a command."""
    return Home(stack.home).read_state()


def listens(address):
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """A stack without workers that the tests of this module only look at."""
    stack = Stack(tmp_path_factory.mktemp("quiet"))
    stack.ok("up", "--detach", "--no-workers", timeout=180)
    yield stack
    stack.run("down")


def test_status_says_what_runs_and_where(quiet):
    """Every part is ready and well, with pid, port and log file; the addresses are those that commands use."""
    done = quiet.run("status", "--json")
    status = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    parts = {part["name"]: part for part in status["parts"]}
    assert set(parts) == {"broker", "store", "registry", "migrations", "topics", "authority"}
    for name in ("broker", "store", "registry", "authority"):
        assert (parts[name]["state"], parts[name]["health"]) == ("ready", "")
        assert alive(parts[name]["pid"])
        assert Path(parts[name]["log"]).exists()
    assert status["kafka"] == quiet.addresses.kafka
    assert listens(status["kafka"])
    assert listens(status["store"])
    assert any("no policy is in force" in note for note in status["notes"])
    assert "authority" in quiet.ok("status")


def test_up_twice_says_who_runs(quiet):
    """A second `up` exits 1, names the pid, and leaves the first alone."""
    before = pids(quiet)
    done = quiet.run("up", "--detach", "--no-workers")
    assert done.returncode == 1
    assert str(before[-1]) in done.stderr
    assert "Traceback" not in done.stderr
    assert pids(quiet) == before


def test_topics_and_schemas_are_in_place(quiet):
    """After `up` the broker has every topic as the catalogue says, and applying again changes nothing."""
    plan = quiet.json("topics", "plan")
    assert (plan["create"], plan["differs"]) == ([], [])
    again = quiet.json("topics", "apply")
    assert again["created"] == []
    assert again["schemas"]["interactions.raw-value"] > 0


def up(stack, **settings):
    return subprocess.run(
        [sys.executable, "-m", "tidegate", "up", "--detach", "--no-workers"],
        env=stack.env(**settings), capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip


def test_a_second_stack_can_use_what_a_setting_names(quiet, tmp_path):
    """A second home lives beside the first, with addresses of its own but for the broker it was pointed at."""
    own = Stack(tmp_path / "home")
    try:
        done = up(own, TIDEGATE_KAFKA=quiet.addresses.kafka)
        assert done.returncode == 0, done.stderr
        assert f"broker is not started: TIDEGATE_KAFKA points at {quiet.addresses.kafka}" in done.stdout
        assert "broker" not in own.parts()
        assert (own.addresses.log, own.addresses.kafka) == ("1", quiet.addresses.kafka)
        assert own.addresses.store != quiet.addresses.store
        assert quiet.run("status").returncode == 0
    finally:
        own.run("down")


def test_a_life_with_accidents(own_stack):
    """A killed broker is a new log and a closed gate; a killed supervisor takes all with it; `down` leaves nothing."""
    stack = own_stack("--no-workers")
    address = stack.addresses.kafka
    _kill_the_broker(stack)
    _kill_the_supervisor(stack)
    assert stack.addresses.kafka == address, "the ports stay the same"
    running = pids(stack)
    assert "the stack in" in stack.ok("down")
    assert not [pid for pid in running if alive(pid)]
    assert not listens(address)
    assert stack.addresses.kafka == ""
    assert "no stack is running" in stack.ok("down")


def _kill_the_broker(stack):
    stack.allow()
    log, before = stack.addresses.log, stack.parts()
    assert not any("no policy" in note for note in json.loads(stack.run("status", "--json").stdout)["notes"])
    os.kill(before["broker"]["pid"], signal.SIGKILL)
    wait_until(lambda: state(stack)["log"] != log and state(stack)["state"] == "ready", 60, "the stack is back")
    after = stack.parts()
    assert after["broker"]["restarts"] == 1
    assert after["authority"]["pid"] != before["authority"]["pid"]
    assert after["store"]["pid"] == before["store"]["pid"]
    notes = json.loads(stack.run("status", "--json").stdout)["notes"]
    assert any("no policy is in force" in note for note in notes)


def _kill_the_supervisor(stack):
    running = pids(stack)
    os.kill(running[-1], signal.SIGKILL)
    wait_until(lambda: not [pid for pid in running if alive(pid)], 10, "every part is gone")
    assert stack.run("status").returncode == 1
    said = stack.ok("up", "--detach", "--no-workers", timeout=180)
    assert f"pid {running[-1]}" in said
    assert "ended without `tidegate down`" in said


def test_in_the_foreground_interrupting_takes_it_all_down(tmp_path):
    """Ctrl-C in the foreground stops every part in order and exits 0."""
    stack = Stack(tmp_path / "home")
    process = stack.start("up", "--no-workers")
    wait_until(lambda: state(stack).get("state") == "ready", 90, "the stack is ready")
    running = pids(stack)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "everything is stopped" in out
    assert not [pid for pid in running if alive(pid)]


@pytest.mark.parametrize(
    ("setting", "part"), [("TIDEGATE_KAFKA", "127.0.0.1:1"), ("TIDEGATE_REGISTRY", "http://127.0.0.1:1")]
)
def test_what_is_not_there_is_named(tmp_path, setting, part):
    """An address where nobody answers fails `up` with that address, without a traceback, and leaves nothing running."""
    stack = Stack(tmp_path / "home")
    done = up(stack, **{setting: part})
    assert done.returncode == 1
    assert part.removeprefix("http://") in done.stderr
    assert "Traceback" not in done.stderr
    assert stack.run("status").returncode == 1


def test_wrong_workers_are_wrong_usage(tmp_path):
    """A typo in --workers exits 2 with an example, before anything starts."""
    done = Stack(tmp_path / "home").run("up", "--detach", "--workers", "minimize=1")
    assert done.returncode == 2
    assert "minimise=2,window=1" in done.stderr
    assert not (tmp_path / "home").exists()
