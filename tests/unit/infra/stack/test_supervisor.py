"""The supervisor brings up, keeps up, takes down; the parts here are small real processes."""

import errno
import os
import signal
import socket
from pathlib import Path

import pytest

from infra.errors import TidegateError
from infra.stack.supervisor import Backoff


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


def order(told, word):
    return [part for part, what in told if what.startswith(word)]


def test_parts_start_in_order_and_stop_in_reverse(stand_ins):
    """Dependents start after broker and store and stop before them; the state file holds the addresses while it runs."""
    supervisor = stand_ins.supervisor(stand_ins.layout())
    seen = {}

    async def look():
        seen.update(stand_ins.home.read_state())

    stand_ins.run(supervisor, look)
    assert (seen["state"], seen["kafka"], seen["store"]) == ("ready", "k:1", "http://s")
    assert {p["name"]: p["state"] for p in seen["parts"]} == {
        "broker": "ready", "store": "ready", "migrations": "done", "topics": "done", "authority": "ready", "minimise-1": "ready",
    }  # fmt: skip
    assert order(stand_ins.told, "ready")[-2:] == ["authority", "minimise-1"]
    assert order(stand_ins.told, "stopped") == ["minimise-1", "authority", "store", "broker"]
    assert all(gone(p["pid"]) for p in seen["parts"] if p["pid"])
    assert supervisor.snapshot()["state"] == "stopped"


def test_a_part_that_dies_comes_back_alone(stand_ins):
    """kill -9 of one part: it is back with another pid, counted, and no other part was touched."""
    supervisor = stand_ins.supervisor(stand_ins.layout())
    pids = {}

    async def kill_store():
        pids.update({p["name"]: p["pid"] for p in supervisor.snapshot()["parts"]})
        os.kill(pids["store"], signal.SIGKILL)
        await stand_ins.until(lambda: stand_ins.part(supervisor, "store")["state"] == "restarting", "noticed")
        await stand_ins.until(lambda: stand_ins.part(supervisor, "store")["state"] == "ready", "back")
        store = stand_ins.part(supervisor, "store")
        assert (store["restarts"], store["last_exit"]) == (1, "killed by SIGKILL")
        assert store["pid"] != pids["store"]
        for name in ("broker", "authority", "minimise-1"):
            assert stand_ins.part(supervisor, name)["pid"] == pids[name]

    log = []

    async def look():
        log.append(supervisor.snapshot()["log"])

    stand_ins.run(supervisor, look, kill_store, look)
    assert log[0] == log[1]


def test_a_new_broker_is_a_new_log(stand_ins):
    """When the broker dies, the log gets another name, topics are applied again, and all that held offsets starts anew."""
    supervisor = stand_ins.supervisor(stand_ins.layout())

    async def kill_broker():
        before = {p["name"]: p["pid"] for p in supervisor.snapshot()["parts"]}
        log = supervisor.snapshot()["log"]
        os.kill(before["broker"], signal.SIGKILL)
        await stand_ins.until(lambda: any("empty log" in note for note in supervisor.snapshot()["notes"]), "recovered")
        after = {p["name"]: p["pid"] for p in supervisor.snapshot()["parts"]}
        assert supervisor.snapshot()["log"] != log
        assert after["store"] == before["store"]
        for name in ("broker", "authority", "minimise-1"):
            assert after[name] not in (None, before[name])
        assert stand_ins.home.read_state()["log"] == supervisor.snapshot()["log"]
        assert stand_ins.home.log_path("topics").read_text() == "applied\napplied\n"

    stand_ins.run(supervisor, kill_broker)


def test_a_broker_that_is_not_ours_is_left_alone(stand_ins):
    """With an external broker there is no broker part, and the log keeps the name it was given."""
    supervisor = stand_ins.supervisor(stand_ins.layout(broker=None))

    async def look():
        assert supervisor.snapshot()["log"] == "1"

    stand_ins.run(supervisor, look)
    assert "broker" not in dict(stand_ins.told)


def test_a_part_that_fails_at_the_start_shows_its_last_words(stand_ins):
    """A part that ends before it is ready fails the start with the end of its log, and leaves nothing running."""
    broken = stand_ins.step("migrations", "import sys; print('no such table'); sys.exit(4)")
    supervisor = stand_ins.supervisor(stand_ins.layout(migrations=broken))
    with pytest.raises(TidegateError, match=r"(?s)migrations ended at once, exit 4.*no such table"):
        stand_ins.run(supervisor)
    assert supervisor.snapshot()["state"] == "failed"
    assert supervisor.snapshot()["failed_part"] == "migrations"
    assert all(p["pid"] is None for p in supervisor.snapshot()["parts"])


def test_a_part_that_never_gets_ready_is_ended(stand_ins):
    """A part that runs but does not answer within its deadline fails the start."""
    mute = stand_ins.serve("store", ready_seconds=0.5)
    supervisor = stand_ins.supervisor(stand_ins.layout(services=(stand_ins.step("store", "import time; time.sleep(60)", ready=mute.ready, ready_seconds=0.5),)))  # fmt: skip
    with pytest.raises(TidegateError, match=r"store was not ready within 0\.5 s"):
        stand_ins.run(supervisor)
    assert all(p["pid"] is None for p in supervisor.snapshot()["parts"])


def test_a_program_that_is_missing_is_named(stand_ins):
    """A command that cannot be run is told by its path."""
    absent = stand_ins.step("topics")
    object.__setattr__(absent, "command", ("/nowhere/tidegate",))
    with pytest.raises(TidegateError, match="cannot run /nowhere/tidegate"):
        stand_ins.run(stand_ins.supervisor(stand_ins.layout(topics=absent)))


def test_a_part_that_does_not_end_when_asked_is_killed(stand_ins):
    """A part that ignores SIGTERM is killed after its deadline, and that is said."""
    deaf = stand_ins.serve("minimise-1", "deaf", stop_seconds=0.3)
    supervisor = stand_ins.supervisor(stand_ins.layout(dependents=((deaf,),)))
    stand_ins.run(supervisor)
    assert any(part == "minimise-1" and "killed because" in what for part, what in stand_ins.told)


def test_a_taken_port_is_said(stand_ins):
    """A port that another program holds fails the part with the port's number, not with a trace."""
    store = stand_ins.serve("store")
    with socket.socket() as other:
        other.bind(("127.0.0.1", store.port))
        other.listen()
        with pytest.raises(TidegateError, match=f"port {store.port} is taken by another program"):
            stand_ins.run(stand_ins.supervisor(stand_ins.layout(services=(store,))))


def test_health_is_watched(stand_ins):
    """A part that is stopped (SIGSTOP) lives but does not answer: that is shown, and so is that it is well again."""
    supervisor = stand_ins.supervisor(stand_ins.layout())

    async def freeze():
        pid = stand_ins.part(supervisor, "store")["pid"]
        os.kill(pid, signal.SIGSTOP)
        await stand_ins.until(lambda: stand_ins.part(supervisor, "store")["health"] == "does not answer", "seen")
        os.kill(pid, signal.SIGCONT)
        await stand_ins.until(lambda: stand_ins.part(supervisor, "store")["health"] == "", "well")
        assert stand_ins.part(supervisor, "store")["pid"] == pid

    stand_ins.run(supervisor, freeze)


def test_a_full_disk_is_said_and_stops_nothing(stand_ins):
    """When the state cannot be written for want of space, that is told once, the parts run on, and it is made up for."""
    write, full = stand_ins.home.write_state, [True]

    def write_when_there_is_room(state):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(state)

    stand_ins.home.write_state = write_when_there_is_room
    supervisor = stand_ins.supervisor(stand_ins.layout())

    async def make_room():
        assert stand_ins.home.read_state() == {}
        full[0] = False
        await stand_ins.until(lambda: stand_ins.home.read_state().get("state") == "ready", "made up for")

    stand_ins.run(supervisor, make_room)
    assert stand_ins.told.count(("supervisor", "stack.json cannot be written: the disk is full")) == 1


def test_pauses_grow_and_a_steady_run_resets_them():
    """Pauses double up to half a minute; a part that ran for a minute starts again quickly."""
    now = [0.0]
    backoff = Backoff(lambda: now[0])
    assert [backoff.next() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.began()
    now[0] += 59
    assert backoff.next() == 30
    backoff.began()
    now[0] += 60
    assert backoff.next() == 0.5
