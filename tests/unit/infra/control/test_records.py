"""Control records on the wire: there and back, and nothing raised by what is hostile."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.control.records import (
    LATEST_MS,
    Ack,
    Approver,
    Consent,
    Heartbeat,
    Standing,
    Switch,
    Unreadable,
    decode,
    encode,
    key_of,
    notice_id,
    policy_fault,
    topic_of,
)
from tests.approvers import APPROVERS

ACK = Ack("producer-1", "producer", "", "1", 1, 2, 300_000, {"control.switch": 3}, True, "", ("keys",), ("s",), 4, 5)


def every_kind(make):
    return [
        make.policy(notice_text="Wir zählen Tasten.", teams=("support",)),
        make.consent(),
        make.pause(until=make.now + 1),
        make.switch("source", "keys"),
        make.release(make.switch("subject", make.subject)),
        Standing("p", ("a",), ("1",), 3, 4),
        Heartbeat("a", "1", 4, 5, {"control.switch": -1}),
        ACK,
    ]


def test_what_is_written_is_read(make):
    """Every kind of record survives its encoding, on its own topic."""
    for record in every_kind(make):
        assert decode(topic_of(record), encode(record)) == record


def test_a_record_of_another_topic_is_unreadable(make):
    """A consent on control.switch is no switch."""
    assert decode("control.switch", encode(make.consent())) == Unreadable("other_schema")


def test_keys_are_those_of_compaction(make):
    """The key tells apart exactly what must not replace each other."""
    keys = [key_of(record) for record in every_kind(make)]
    subject = make.subject
    assert keys == ["policy", f"{subject}/{make.training}", f"{subject}/", "s", "s", "p", "a", "producer-1"]
    assert key_of(Standing("", (), (), 1)) == "progress"


def test_a_record_that_makes_no_sense_is_unreadable(make):
    """It decodes, but says nothing that can be followed."""
    for record in [
        make.policy(window_size_ms=0),
        make.policy(approvers=APPROVERS[:1]),
        make.consent(subject="a/b"),
        make.consent(until=-1),
        make.consent(at=LATEST_MS),
        make.switch("source", ""),
        make.switch(at=-1),
        make.release(make.switch(), epoch=-1),
        replace(make.switch(), expires_at=LATEST_MS),
        Standing("p", ("a",), (), 3),
        Heartbeat("a", "", 1, 1, {}),
        replace(ACK, gate=""),
    ]:
        assert decode(topic_of(record), encode(record)) == Unreadable("senseless")


def test_what_makes_a_policy_senseless(make):
    """Each fault is named; an ordinary policy of each window kind has none."""
    assert policy_fault(make.policy()) == ""
    assert policy_fault(make.policy(window_kind="hopping", window_step_ms=5000)) == ""
    assert policy_fault(make.policy(window_kind="session", window_gap_ms=2000)) == ""
    for changes, word in [
        ({"valid_until": 0}, "until"),
        ({"window_step_ms": 5000}, "hopping"),
        ({"window_kind": "hopping", "window_step_ms": 20_000}, "longer"),
        ({"window_kind": "hopping", "window_step_ms": 156}, "1/64"),
        ({"window_size_ms": 2**31, "window_step_ms": 2**31}, "24 days"),
        ({"window_kind": "session"}, "gap"),
        ({"window_gap_ms": 5}, "gap"),
        ({"grid_px": 0}, "grid"),
        ({"resolution_ms": 0}, "resolution"),
        ({"purposes": ()}, "purpose"),
        ({"approvers": ()}, "two approvers"),
        ({"approvers": APPROVERS[:1]}, "two approvers"),
        ({"approvers": (APPROVERS[0], Approver("ben", APPROVERS[0].key))}, "two approvers"),
        ({"approvers": (*APPROVERS, Approver("carl", APPROVERS[0].key))}, "twice"),
        ({"approvers": (*APPROVERS, Approver("anna", "0" * 64))}, "twice"),
        ({"valid_until": LATEST_MS}, "9999"),
        ({"valid_from": -1}, "1970"),
        ({"approvers": (APPROVERS[0], replace(APPROVERS[1], until=LATEST_MS))}, "9999"),
    ]:
        assert word in policy_fault(make.policy(**changes))


def test_what_a_policy_says_is_told_apart_from_who_said_it(make):
    """Signed, dated and applied by others, it is the same policy; with another notice it is not."""
    policy = make.policy()
    assert replace(policy, applied_at=0, applied_by="x", signatures=()).content() == policy.content()
    assert make.policy(notice_text="x").content() != policy.content()


def test_a_notice_is_its_version_and_its_text(make):
    """Two texts under one version are two notices; without a text the version is all there is."""
    one, two = make.policy(notice_text="one"), make.policy(notice_text="two")
    assert one.notice_id != two.notice_id
    assert one.notice_id == notice_id("1", one.notice_digest)
    assert len(one.notice_digest) == 64
    assert (make.policy().notice_digest, make.policy().notice_id) == ("", "1")


@pytest.mark.parametrize(
    ("said", "scope", "value"),
    [
        ({"scope": "everything"}, "everything", ""),
        ({"scope": "everything", "reason": "leak", "by": "me"}, "everything", ""),
        ({"scope": "source:keys"}, "source", "keys"),
        ({"scope": "source", "value": "keys"}, "source", "keys"),
        ({"scope": "application:a:b"}, "application", "a:b"),
    ],
)
def test_plain_json_engages_a_switch(said, scope, value):
    """The message's key names it and its time dates it: a stock Kafka client is enough."""
    read = decode("control.switch", json.dumps(said).encode(), key="s", at=7)
    assert read == Switch("s", scope, value, True, said.get("reason", ""), said.get("by", ""), 7, 0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"scope": "everything"', "not_json"),
        ("{" * 100_000, "not_json"),
        ('{"scope": ' + "[" * 100_000, "not_json"),
        ("{}", "senseless"),
        ('{"scope": "everthing"}', "senseless"),
        ('{"scope": "source"}', "senseless"),
        ('{"scope": 1}', "senseless"),
        ('{"scope": "everything", "engaged": false}', "senseless"),
        ('{"scope": "everything", "reason": "\\ud800"}', "senseless"),
    ],
)
def test_plain_json_that_says_nothing_clear_is_unreadable(text, why):
    """Which engages too, over everything; above all it cannot release, nor break whoever reads it."""
    assert decode("control.switch", text.encode(), key="s", at=7) == Unreadable(why)


def test_plain_json_needs_a_key_and_the_topic_of_switches():
    """Without a key it has no name; on another topic it is no record."""
    assert decode("control.switch", b'{"scope": "everything"}') == Unreadable("senseless")
    assert isinstance(decode("control.consent", b'{"scope": "everything"}', key="s"), Unreadable)


@given(st.data())
def test_hostile_bytes_raise_nothing(data):
    """Random bytes, and real records with bytes changed, cut or added, are records or `Unreadable`, never an error."""
    record = Heartbeat("a", "1", 4, 5, {"control.switch": 3})
    value = bytearray(encode(record))
    for place in data.draw(st.lists(st.integers(0, len(value) - 1), max_size=4)):
        value[place] = data.draw(st.integers(0, 255))
    value = value[: data.draw(st.integers(0, len(value)))] + data.draw(st.binary(max_size=8))
    assert isinstance(decode("control.heartbeat", bytes(value)), Heartbeat | Unreadable)
    assert isinstance(decode("control.policy", data.draw(st.binary(max_size=64))), Unreadable)


@given(st.binary(max_size=40), st.sampled_from(["control.switch", "control.consent"]))
def test_whatever_follows_a_brace_raises_nothing(rest, topic):
    """Whoever writes to a control topic ends no reader with it."""
    assert isinstance(decode(topic, b"{" + rest, key="k"), Switch | Consent | Unreadable)
