"""Reading control.ack on a real broker: far enough back for every gate that can be open, and no further than needed."""

from __future__ import annotations

from dataclasses import replace

from confluent_kafka import Producer

from infra.control.acks import LONGEST_LEASE_MS, AckWatch, read_gates
from infra.control.reader import wall_ms
from infra.control.records import ACK_TOPIC, SWITCH_TOPIC, Ack, Switch, encode
from infra.control.writer import ControlWriter
from tests.control_plane import Plane

HOUR = 3_600_000


def word(gate: str, at: int, lease_ms: int = 10_000) -> Ack:
    return Ack(
        gate, gate.partition("-")[0], "vm:1", "1", at, at, lease_ms, {SWITCH_TOPIC: -1}, True, "", ("keys",), (), 0, 1
    )  # fmt: skip


def fill(plane: Plane, *words: Ack) -> None:
    """Write words with their own dates, as a broker that dates records would have."""
    producer = Producer({"bootstrap.servers": plane.address, "log_level": 0})
    for each in words:
        producer.produce(ACK_TOPIC, key=each.gate, value=encode(each), timestamp=each.at)
        producer.poll(0)
    assert producer.flush(30) == 0


def test_only_the_last_minutes_of_a_long_history_are_read(plane):
    """Of hours of words, those that can still count are read, however many come before; asked for, all of them."""
    now = wall_ms()
    old = [word(f"minimiser-{n % 4}", now - 10 * HOUR + n * 5_000) for n in range(6_000)]
    last = word("producer-quiet", now - LONGEST_LEASE_MS + 5_000, LONGEST_LEASE_MS)
    fill(plane, *old, last, *(word("sampler-now", now - 1_000 + n) for n in range(600)))
    with AckWatch(plane.addresses()) as watch:
        assert watch.wait_read(20)
        found = {gate.name: gate for gate in watch.gates()}
        assert {"producer-quiet", "sampler-now"} <= set(found)
        assert sum(len(gate.words) for gate in found.values()) < 4_000
        assert {name for name, gate in found.items() if gate.is_known(wall_ms(), "1")} == {
            "producer-quiet",
            "sampler-now",
        }
    everything = read_gates(plane.addresses(), now - 11 * HOUR, 20)
    assert sum(len(gate.words) for gate in everything) == 6_601


def test_an_empty_topic_is_read_at_once(plane):
    """With no gate ever announced there is an answer, and it is that there are none."""
    assert read_gates(plane.addresses(), 0, 20) == []


def test_a_watch_made_before_the_record_misses_no_acknowledgement(plane, gate):
    """An acknowledgement that comes before anybody waits for it counts, with the time that it took."""
    keeper = gate("minimiser")
    with AckWatch(plane.addresses()) as watch, ControlWriter(plane.addresses(), timeout=10) as writer:
        (written,) = writer.put(Switch("s", "everything", "", True, "test", "test", wall_ms(), 0))
        keeper.wait_for(lambda view: "s" in view.state.switches, 20)
        found = watch.wait_applied(SWITCH_TOPIC, written.offset, timeout=20, written=written)
        assert found.complete
        (answer,) = found.all
        assert (answer.gate.name, answer.how) == (keeper.gate, "applied")
        again = watch.wait_applied(SWITCH_TOPIC, written.offset, timeout=20, written=written)
        assert again.slowest_ms == found.slowest_ms


def test_what_cannot_be_read_is_no_word(plane):
    """Garbage on control.ack names no gate, and hides none."""
    producer = Producer({"bootstrap.servers": plane.address, "log_level": 0})
    producer.produce(ACK_TOPIC, key="x", value=b"garbage")
    producer.produce(ACK_TOPIC, key="x", value=None)
    assert producer.flush(30) == 0
    fill(plane, replace(word("sampler-1", wall_ms()), lease_ms=60_000))
    assert [gate.name for gate in read_gates(plane.addresses(), wall_ms(), 20)] == ["sampler-1"]
