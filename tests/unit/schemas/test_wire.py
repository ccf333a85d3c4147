"""Frames name their schema; what is no frame is refused with a reason and without an exception."""

import io

import avro.io
import avro.schema
import fastavro
import pytest

from schemas import catalogue
from schemas.refusals import Refusal
from schemas.wire import Frame, Single, decode_single, encode_single, frame, unframe

HEARTBEAT = {
    "authority": "a",
    "log": "1",
    "sequence": 7,
    "at": 1_790_000_000_000,
    "applied": {"control.policy": 3, "control.consent": -1},
}


def test_confluent_frame_is_a_zero_and_four_bytes():
    """The frame is the one every Confluent client writes."""
    assert frame(258, b"body") == b"\x00\x00\x00\x01\x02body"
    assert unframe(frame(258, b"body")) == Frame(258, b"body")
    assert unframe(frame(2**32 - 1, b"")) == Frame(2**32 - 1, b"")


@pytest.mark.parametrize("payload", [None, b"", b"\x00\x00\x00\x01", b"\x01\x00\x00\x00\x01x", b"\xc3\x01xxxxxxxx"])
def test_what_is_no_frame_is_refused(payload):
    """A tombstone, a stump and another magic byte are data, answered with a reason."""
    assert unframe(payload) is Refusal.NOT_FRAMED


def test_single_object_is_read_by_apache_avro():
    """The body behind the ten bytes is plain Avro, and the eight name the schema."""
    schema = catalogue.load("heartbeat")
    payload = encode_single(schema, HEARTBEAT)
    assert payload[:2] == b"\xc3\x01"
    assert payload[2:10] == avro.schema.parse(schema.raw).fingerprint("CRC-64-AVRO")
    read = avro.io.DatumReader(avro.schema.parse(schema.raw)).read(avro.io.BinaryDecoder(io.BytesIO(payload[10:])))
    assert read == HEARTBEAT


def test_single_object_round_trip_is_deterministic():
    """The same record gives the same bytes, whatever the order in which its map was filled."""
    schema = catalogue.load("heartbeat")
    turned = {**HEARTBEAT, "applied": dict(reversed(HEARTBEAT["applied"].items()))}
    assert encode_single(schema, HEARTBEAT) == encode_single(schema, turned)
    assert decode_single(encode_single(schema, HEARTBEAT)) == Single(schema, HEARTBEAT)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: None, Refusal.NOT_FRAMED),
        (lambda p: p[:9], Refusal.NOT_FRAMED),
        (lambda p: b"\xc3\x02" + p[2:], Refusal.NOT_FRAMED),
        (lambda p: p[:2] + bytes(8) + p[10:], Refusal.UNKNOWN_SCHEMA),
        (lambda p: p[:-1], Refusal.TRUNCATED),
        (lambda p: p + b"\0", Refusal.TRAILING_BYTES),
        (lambda p: p[:10] + b"\x02\xff" + p[12:], Refusal.BAD_TEXT),
        (lambda p: p[:10] + b"\x01" + p[11:], Refusal.BAD_SIZE),
    ],
)
def test_damaged_single_objects_are_refused(change, reason):
    """A control record that is damaged is refused for what is wrong with it."""
    assert decode_single(change(encode_single(catalogue.load("heartbeat"), HEARTBEAT))) is reason


def test_an_enum_index_below_zero_is_no_symbol():
    """fastavro reads index -1 as the last symbol; a switch of scope `subject` must not appear out of nothing."""
    schema = catalogue.load("switch")
    record = {
        "id": "s",
        "scope": "everything",
        "value": "",
        "engaged": True,
        "reason": "r",
        "by": "b",
        "at": 1,
        "epoch": 0,
    }
    payload = encode_single(schema, record)
    hostile = payload[:12] + b"\x01" + payload[13:]
    assert fastavro.schemaless_reader(io.BytesIO(hostile[10:]), schema.parsed)["scope"] == "subject"
    assert decode_single(hostile) is Refusal.BAD_VALUE


def test_a_record_that_does_not_fit_is_a_bug():
    """Writing a record with a field too many or too few fails in the writer's hands."""
    with pytest.raises(ValueError, match="authority"):
        encode_single(catalogue.load("heartbeat"), {k: v for k, v in HEARTBEAT.items() if k != "authority"})
    with pytest.raises(ValueError, match="surplus"):
        encode_single(catalogue.load("heartbeat"), {**HEARTBEAT, "surplus": 1})
