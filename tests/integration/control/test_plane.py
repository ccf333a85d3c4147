"""The control plane on a real broker: readers, writer, authority and commands, each as it runs in earnest."""

from __future__ import annotations

import json
import signal
import time

import pytest
from confluent_kafka import Producer

from infra.control import signing
from infra.control.identity import subject_of
from infra.control.reader import wall_ms
from infra.control.records import Consent, Standing, Switch, encode
from infra.control.state import standing_of
from infra.control.writer import ControlWriter
from infra.errors import TidegateError
from tests.approvers import demo_policy, write_keys

KEY, PURPOSE = b"k" * 32, "assistant-training"
SUBJECT = subject_of(KEY)


def test_a_switch_is_seen_by_every_gate_and_stays_with_the_authority_dead(plane, reader):
    """A written switch stands in every view within a second; the authority's death closes within 1.5 s."""
    gates = [reader(), reader()]
    assert all(gate.wait_fresh(10).fresh for gate in gates), [gate.view().why for gate in gates]
    with ControlWriter(plane.addresses()) as writer:
        writer.write(Switch("s", "source", "keys", True, "test", "test", wall_ms(), 0))
    for gate in gates:
        assert "s" in gate.wait_for(lambda view: "s" in view.state.switches, 1).state.switches
        assert gate.wait_fresh(2).fresh
    plane.end(plane.authority)
    died = time.monotonic()
    for gate in gates:
        assert not gate.wait_for(lambda view: not view.fresh, 3).fresh
    assert time.monotonic() - died < 1.5
    plane.start_authority()
    assert gates[0].wait_fresh(10).fresh


def test_a_gate_that_starts_late_ignores_the_heartbeats_of_the_dead(plane, reader):
    """With the authority dead, what it left in the topic opens no gate that starts afterwards."""
    assert reader().wait_fresh(10).fresh
    plane.end(plane.authority)
    late = reader()
    view = late.wait_for(lambda view: view.fresh, 2)
    assert not view.fresh
    assert late.read_to_end


def test_two_authorities_one_stopped_and_continued(plane, reader):
    """The gate stays open by the other, sees what was written meanwhile, and the laggard's return undoes nothing."""
    other = plane.start_authority()
    gate = reader()
    assert gate.wait_fresh(10).fresh
    other.send_signal(signal.SIGSTOP)
    with ControlWriter(plane.addresses()) as writer:
        writer.write(Switch("s", "everything", "", True, "test", "test", wall_ms(), 0))
    gate.wait_for(lambda view: "s" in view.state.switches, 2)
    assert gate.wait_fresh(3).fresh
    other.send_signal(signal.SIGCONT)
    plane.end(plane.authority)
    assert gate.wait_fresh(5).fresh, "the one that was stopped carries on"
    assert gate.view().state.switches["s"].engaged


def test_a_new_life_of_the_broker_closes_workers_and_is_adopted_by_producers(plane, reader):
    """Under another log nothing of the old one holds: a producer begins anew, a worker stays closed."""
    producer, worker = reader(adopt_log=True), reader()
    with ControlWriter(plane.addresses()) as writer:
        writer.write(*(Consent(f"{n:032x}", PURPOSE, False, "1", wall_ms()) for n in range(20)))
    for gate in (producer, worker):
        assert gate.wait_for(lambda view: view.fresh and len(view.state.consents) == 20, 10).fresh
    plane.end(plane.authority)
    plane.end(plane.broker)
    assert not producer.wait_for(lambda view: not view.fresh, 3).fresh
    plane.start_broker()
    with ControlWriter(plane.addresses()) as writer:
        writer.write(*(Consent(f"{n:032x}", PURPOSE, False, "1", wall_ms()) for n in range(3)))
    plane.start_authority("2")
    view = producer.wait_fresh(15)
    assert view.fresh, view.why
    assert (view.state.log, len(view.state.consents)) == ("2", 3)
    seen = worker.wait_for(lambda view: "log 2" in view.why, 5)
    assert not seen.fresh
    assert "log 2" in seen.why


def test_a_gate_of_pseudonyms_waits_for_the_translation_and_follows_it(plane, reader):
    """Closed while control.standing lags behind control.consent; a withdrawal reaches it through the translation."""
    gate, minimiser = reader("standing"), reader()
    with ControlWriter(plane.addresses()) as writer:
        writer.write(signing.sign(Consent(SUBJECT, PURPOSE, True, "1", wall_ms()), "1", KEY))
        stuck = gate.wait_for(lambda view: "translates control.consent" in view.why, 10)
        assert "up to offset -1 of 0" in stuck.why

        def publish(state, entries) -> None:
            if state.consents:
                standing = standing_of(state, SUBJECT, "p", wall_ms())
                writer.write(standing, Standing("", (), (), standing.consent_offset, standing.switch_offset))

        minimiser.on_change(publish)
        assert gate.wait_for(lambda view: view.fresh, 5).state.words_of("p")[PURPOSE].granted
        writer.write(Consent(SUBJECT, PURPOSE, False, "1", wall_ms()))
        withdrawn = gate.wait_for(lambda view: view.fresh and not view.state.words_of("p"), 5)
        assert withdrawn.fresh
        assert not withdrawn.state.words_of("p")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reader_that_a_defect_ends_closes_its_gate_and_says_so(plane, reader):
    """Nothing brings the thread back, so the gate is closed for good and the reason names what to do."""
    gate = reader()
    assert gate.wait_fresh(10).fresh

    def fail(_state, entries) -> None:
        assert not entries, "a defect"

    gate.on_change(fail)
    with ControlWriter(plane.addresses()) as writer:
        writer.write(Switch("s", "everything", "", True, "x", "x", wall_ms(), 0))
    view = gate.wait_for(lambda view: "start this process anew" in view.why, 5)
    assert not view.fresh
    assert "start this process anew" in view.why


def test_an_unreadable_switch_closes_and_can_be_released_by_its_key(plane, reader):
    """Bytes that are no record, written with a stock client under a switch's key, stop everything until released."""
    gate = reader()
    assert gate.wait_fresh(10).fresh
    stock = Producer({"bootstrap.servers": plane.address})
    stock.produce("control.switch", key=b"mystery", value=b"\x00garbage")
    stock.produce("control.switch", key=b"newer", value=encode(Consent("a", "b", True, "1", 1)))
    stock.flush(5)
    view = gate.wait_for(lambda view: len(view.state.switches) == 2, 3)
    assert {s.scope for s in view.state.switches.values()} == {"everything"}
    listed = plane.json("switch", "list")
    assert {row["id"] for row in listed["switches"]} == {"mystery", "newer"}
    keys = [word for key in write_keys(plane.home / "keys") for word in ("--key", key)]
    with ControlWriter(plane.addresses()) as writer:
        writer.write(demo_policy(plane.home / "policy", "1"))
    for name in ("mystery", "newer"):
        done = plane.run("switch", "release", name, "--reason", "looked at", *keys)
        assert done.returncode == 0, done.stderr
    assert plane.json("switch", "list")["switches"] == []


def test_stopping_needs_the_broker_alone(plane):
    """With no authority, registry or store, a switch is engaged and listed, and the closed gates are said."""
    plane.end(plane.authority)
    done = plane.process("switch", "engage", "--scope", "everything", "--reason", "x", "--json")
    assert done.returncode == 0, done.stderr
    engaged = json.loads(done.stdout)
    listed = plane.json("switch", "list")
    assert [row["id"] for row in listed["switches"]] == [engaged["id"]]
    assert listed["fresh"] is False


def test_a_broker_that_is_away_is_named_in_time(plane, reader):
    """Two seconds, an error with the address, no traceback; a reader of it stays closed and raises nothing."""
    gate = reader()
    assert gate.wait_fresh(10).fresh
    plane.end(plane.broker)
    started = time.monotonic()
    with ControlWriter(plane.addresses()) as writer, pytest.raises(TidegateError) as refused:
        writer.write(Switch("s", "everything", "", True, "x", "x", wall_ms(), 0))
    assert time.monotonic() - started < 4
    assert plane.address in str(refused.value)
    assert not gate.wait_for(lambda view: not view.fresh, 3).fresh
    done = plane.process("switch", "list")
    assert (done.returncode, plane.address in done.stderr, "Traceback" in done.stderr) == (1, True, False)
