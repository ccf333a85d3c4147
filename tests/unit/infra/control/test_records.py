"""Control records on the wire: there and back, and nothing raised by what is hostile."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infra.control.records import (
    Heartbeat,
    Standing,
    Unreadable,
    decode,
    encode,
    key_of,
    policy_fault,
    topic_of,
)


def every_kind(make):
    return [
        make.policy(approvers=("k",)),
        make.consent(),
        make.switch("source", "keys"),
        Standing("p", ("a",), ("1",), 3),
        Heartbeat("a", "1", 4, 5, {"control.switch": -1}),
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
    assert keys == ["policy", f"{make.subject}/{make.training}", "s", "p", "a"]
    assert key_of(Standing("", (), (), 1)) == "progress"


def test_a_record_that_makes_no_sense_is_unreadable(make):
    """It decodes, but says nothing that can be followed."""
    for record in [
        make.policy(window_size_ms=0),
        make.consent(subject="a/b"),
        make.switch("source", ""),
        make.switch(epoch=-1),
        Standing("p", ("a",), (), 3),
        Heartbeat("a", "", 1, 1, {}),
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
    ]:
        assert word in policy_fault(make.policy(**changes))


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
