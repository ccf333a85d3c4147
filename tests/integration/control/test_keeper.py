"""A gate's word on control.ack: given before it opens, held back while anything older is under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from confluent_kafka import Consumer, TopicPartition

from infra.control.keeper import LEASE_SECONDS, GateKeeper
from infra.control.reader import wall_ms
from infra.control.records import ACK_TOPIC, Ack, Consent, Switch, decode
from infra.control.writer import ControlWriter
from producers.producer import Producer
from producers.settings import ProducerSettings
from tests.support import wait_until

SWITCH = Switch("s", "everything", "", True, "test", "test", 0, 0)


@pytest.fixture
def words(plane) -> Iterator[Callable[[], list[Ack]]]:
    """Reads what has been said on control.ack so far, from the beginning."""
    consumer = Consumer({"bootstrap.servers": plane.address, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(ACK_TOPIC, 0, 0)])
    said: list[Ack] = []

    def read() -> list[Ack]:
        for message in consumer.consume(1000, 0.2):
            word = decode(ACK_TOPIC, message.value() or b"")
            assert isinstance(word, Ack)
            said.append(word)
        return said

    yield read
    consumer.close()


@pytest.fixture
def keeper(plane) -> Iterator[Callable[..., GateKeeper]]:
    """Makes gates that are open, and closes them at the end."""
    made: list[GateKeeper] = []

    def make(role="minimiser", mode="consent", **settings) -> GateKeeper:
        made.append(GateKeeper(plane.addresses(), role, mode, **settings))
        assert made[-1].wait_fresh(15).fresh, made[-1].view().why
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_gate_is_closed_until_the_broker_has_its_word(keeper, monkeypatch):
    """Fresh control state is not enough: a gate nobody can know of stays shut, and says why."""
    monkeypatch.setattr(GateKeeper, "_say", lambda *_: False)
    with pytest.raises(AssertionError, match=r"control\.ack"):
        keeper()


def test_a_word_waits_for_what_is_still_under_way(plane, keeper, words):
    """While a passage entered before a switch is open, the switch is not acknowledged; once it is left, it is."""
    gate = keeper()
    passage = gate.enter()
    with ControlWriter(plane.addresses()) as writer:
        (offset,) = writer.write(SWITCH)
    gate.wait_for(lambda view: "s" in view.state.switches, 5)

    def acknowledged() -> bool:
        return any(word.applied["control.switch"] >= offset for word in words())

    second = gate.enter()
    with ControlWriter(plane.addresses()) as writer:
        writer.write(Consent("f" * 32, "p", False, "1", wall_ms()))
    wait_until(
        lambda: any(word.applied["control.consent"] == -1 and word.switches for word in words()), 5, "it goes on"
    )
    assert not acknowledged()
    assert passage.view.state.switches == {}
    second.leave()
    assert not acknowledged()
    passage.leave()
    wait_until(acknowledged, 5, "the switch is acknowledged")


def test_a_gate_that_ends_says_that_it_has_left(keeper, words):
    """The last word has no lease, so nobody waits for it."""
    gate = keeper()
    gate.close()
    wait_until(lambda: words()[-1].lease_ms == 0, 5, "it has left")
    assert not words()[-1].open
    assert {word.gate for word in words()} == {gate.gate}


def test_a_gate_that_ends_with_something_under_way_does_not_say_that_it_has_left(keeper, words):
    """What it judged may still arrive: whoever waits goes by its lease."""
    gate = keeper()
    gate.enter()
    gate.close()
    keeper().close()
    wait_until(lambda: words()[-1].lease_ms == 0, 5, "the second has left")
    assert all(word.lease_ms for word in words() if word.gate == gate.gate)


def test_a_producer_says_nothing_of_consents_nor_of_its_machine(plane, keeper, words):
    """Another's withdrawal, or one's own, makes a producer say nothing: a word then would tell whose it was."""
    own = "a" * 32
    producer, worker = keeper("producer", subjects=frozenset({own})), keeper("windower", "consent")
    wait_until(lambda: {word.gate for word in words()} == {producer.gate, worker.gate}, 5, "both are announced")
    with ControlWriter(plane.addresses()) as writer:
        offset = writer.write(*(Consent(who, "p", False, "1", wall_ms()) for who in (own, "b" * 32)))[-1]
    producer.wait_for(lambda view: view.state.words_of(own), 5)
    wait_until(lambda: any(word.applied.get("control.consent") == offset for word in words()), 5, "the worker has it")
    said = [word for word in words() if word.gate == producer.gate]
    assert {word.host for word in said} == {""}
    assert {topic for word in said for topic in word.applied} == {"control.policy", "control.switch"}
    assert len({(word.applied["control.switch"], word.open) for word in said}) <= 2


def test_a_producer_does_not_wait_for_its_tick(plane, words):
    """A switch wakes a producer: with a minute between its looks at the gate, it is acknowledged all the same."""
    addresses = replace(plane.addresses(), registry="http://127.0.0.1:9")
    producer = Producer(addresses, ProducerSettings(gate_tick_s=60))
    try:
        with ControlWriter(plane.addresses()) as writer:
            (offset,) = writer.write(SWITCH)
        wait_until(lambda: any(word.applied["control.switch"] >= offset for word in words()), 15, "it is acknowledged")
    finally:
        producer.close()


def test_the_lease_is_renewed_and_runs_out(keeper, monkeypatch):
    """A gate whose word the broker no longer takes shuts itself when its lease is over."""
    monkeypatch.setitem(LEASE_SECONDS, "sampler", 1.5)
    gate = keeper("sampler")
    until = time.monotonic() + 4
    while time.monotonic() < until:
        assert gate.wait_for(lambda view: not view.fresh, 0.5).fresh, gate.view().why
    monkeypatch.setattr(GateKeeper, "_say", lambda *_: False)
    assert "control.ack" in gate.wait_for(lambda view: not view.fresh, 5).why
