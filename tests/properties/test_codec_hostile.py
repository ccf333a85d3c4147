"""Bytes from anywhere: refused alone, with a constant reason, in time and memory bounded by their number."""

import io
import json
import time
import tracemalloc

import fastavro
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas import catalogue, varints
from schemas.codec import Codec
from schemas.refusals import Refusal

SCHEMA = catalogue.load("interaction_batch")
CODEC = Codec(SCHEMA)
HEADER = {
    "session": "s1", "subject": "b" * 32, "producer": "test/1", "epoch": 0, "first_number": 0, "captured": 3,
    "dropped": {"buffer_full": 1}, "final": False, "base_time": 1_790_000_000_000, "screen_width": 1920,
    "screen_height": 1080, "applications": ["", "org.example.editor"], "labels": [""],
}  # fmt: skip
COLUMNS = {
    "offset_ms": np.array([0, 8, 300]),
    "kind": np.array([5, 5, 6]),
    "x": np.array([100, 2000, 3]),
    "button": np.array([0, 0, 1]),
}
GOOD = CODEC.encode(HEADER, COLUMNS)

# The same columns by hand, to be damaged: a schema of two columns and one header field.
TWO = catalogue.Schema.parse("two", json.dumps({"type": "record", "name": "Two", "fields": [
    {"name": "note", "type": "string"},
    {"name": "a", "type": {"type": "array", "items": "int"}, "column": "event"},
    {"name": "b", "type": {"type": "array", "items": "long"}, "column": "event"},
    {"name": "k", "type": {"type": "array", "items": {"type": "enum", "name": "K", "symbols": ["p", "q", "r"]}}, "column": "event"},
]}))  # fmt: skip
NOTE = b"\x02n"


def long(*values):
    return b"".join(varints.one(value) for value in values)


def block(*values, count=None, size=None):
    data = long(*values)
    return long(-(len(values) if count is None else count), len(data) if size is None else size) + data + b"\0"


def plain(*values, count=None):
    return long(len(values) if count is None else count) + long(*values) + b"\0"


EMPTY = b"\0"
HUGE = 2**40

HOSTILE = [
    ("nothing", b"", Refusal.TRUNCATED),
    ("no columns", NOTE, Refusal.TRUNCATED),
    ("text cut short", b"\x08n", Refusal.TRUNCATED),
    ("text longer than all", long(HUGE) + b"n" + EMPTY * 3, Refusal.TRUNCATED),
    ("text of negative length", long(-1) + b"n" + EMPTY * 3, Refusal.BAD_SIZE),
    ("text that is not UTF-8", b"\x02\xff" + EMPTY * 3, Refusal.BAD_TEXT),
    ("length of eleven bytes", b"\x80" * 10 + b"\x01" + EMPTY * 3, Refusal.BAD_VARINT),
    ("length of 70 bits", b"\xff" * 9 + b"\x7f" + EMPTY * 3, Refusal.BAD_VARINT),
    ("a byte too many", NOTE + EMPTY * 4, Refusal.TRAILING_BYTES),
    ("column cut short", NOTE + block(1, 2)[:-2], Refusal.TRUNCATED),
    ("column without its end", NOTE + block(1, 2)[:-1], Refusal.TRUNCATED),
    ("count of 2^40, sized", NOTE + block(1, 2, count=HUGE) + EMPTY * 2, Refusal.BAD_COUNT),
    ("count of 2^40, plain", NOTE + plain(1, 2, count=HUGE) + EMPTY * 2, Refusal.BAD_COUNT),
    ("count of -2^63", NOTE + long(-(2**63), 1) + b"\0" + EMPTY * 2, Refusal.BAD_COUNT),
    ("size beyond the end", NOTE + block(1, 2, size=HUGE) + EMPTY * 2, Refusal.TRUNCATED),
    ("negative size", NOTE + block(1, 2, size=-5) + EMPTY * 2, Refusal.BAD_SIZE),
    ("no bytes for two rows", NOTE + long(-2, 0) + EMPTY * 3, Refusal.BAD_SIZE),
    ("size that ends within a number", NOTE + block(1, 600, size=2) + EMPTY * 2, Refusal.BAD_SIZE),
    ("more rows than the count", NOTE + block(1, 2, 3, count=2) + EMPTY * 2, Refusal.BAD_VARINT),
    ("fewer rows than the count", NOTE + block(600, count=2) + EMPTY * 2, Refusal.BAD_VARINT),
    ("plain rows that run out", NOTE + plain(1, 2, count=5) + EMPTY * 2, Refusal.TRUNCATED),
    ("number of eleven bytes", NOTE + EMPTY + long(-1, 11) + b"\x80" * 10 + b"\x01\0" + EMPTY, Refusal.BAD_VARINT),
    ("number of 65 bits", NOTE + EMPTY + long(-1, 10) + b"\x80" * 9 + b"\x02\0" + EMPTY, Refusal.BAD_VARINT),
    ("int of 33 bits", NOTE + block(2**31) + EMPTY * 2, Refusal.BAD_VALUE),
    ("int of 33 bits, below", NOTE + block(-(2**31) - 1) + EMPTY * 2, Refusal.BAD_VALUE),
    ("symbol that does not exist", NOTE + EMPTY * 2 + block(3), Refusal.BAD_VALUE),
    ("symbol below zero", NOTE + EMPTY * 2 + block(-1), Refusal.BAD_VALUE),
    ("columns of unequal length", NOTE + block(1, 2) + block(1, 2, 3) + EMPTY, Refusal.UNEQUAL_COLUMNS),
    ("columns of unequal length, plain", NOTE + plain(1, 2) + plain(1) + EMPTY, Refusal.UNEQUAL_COLUMNS),
    ("more rows than allowed", NOTE + block(*[1] * 101) + EMPTY * 2, Refusal.TOO_MANY_ROWS),
    ("two blocks, the first lying", NOTE + long(-2, 3) + long(1, 2) + long(-2, 2, 1, 2) + b"\0" + EMPTY * 2, Refusal.BAD_SIZE),
]  # fmt: skip


@pytest.mark.parametrize(("body", "reason"), [(b, r) for _, b, r in HOSTILE], ids=[name for name, _, _ in HOSTILE])
def test_each_kind_of_damage_has_its_reason_and_harms_no_neighbour(body, reason):
    """Between two good messages, the bad one alone is refused, for what is wrong with it."""
    codec = Codec(TWO, max_rows=100)
    good = NOTE + block(7, 600) + EMPTY + block(1, 2)
    decoded = codec.decode([good, body, good, body, good])
    assert decoded.refused == [(1, reason), (3, reason)]
    assert decoded.index == [0, 2, 4]
    assert decoded.counts["event"].tolist() == [2, 2, 2]
    assert decoded.columns["a"].tolist() == [7, 600] * 3
    assert decoded.columns["b"].tolist() == [0] * 6
    assert decoded.columns["k"].tolist() == [1, 2] * 3


def test_the_good_message_of_these_tests_is_good():
    """The damage above is the only thing wrong: undamaged, the same bytes are read by fastavro too."""
    body = NOTE + block(7, 600) + EMPTY + block(1, 2)
    assert fastavro.schemaless_reader(io.BytesIO(body), TWO.parsed) == {
        "note": "n",
        "a": [7, 600],
        "b": [],
        "k": ["q", "r"],
    }


def test_all_refused_leaves_empty_columns():
    """A pass without one good message is an answer, not an error; so is a pass without any message."""
    for bodies in ([], [b"", b"\xff"]):
        decoded = CODEC.decode(bodies)
        assert len(decoded.refused) == len(bodies)
        assert decoded.headers == []
        assert all(len(column) == 0 for column in decoded.columns.values())
        assert set(decoded.columns) == set(catalogue.EVENT_COLUMNS)
        assert decoded.counts["event"].tolist() == []


def test_every_refusal_of_one_pass_is_found():
    """Faults that only the joined columns show, each in another column of another message, are all found."""
    codec = Codec(TWO)
    good = NOTE + block(7, 600) + EMPTY + block(1, 2)
    bad = [
        NOTE + block(2**31) + EMPTY * 2,
        NOTE + block(1, 2, 3, count=2) + EMPTY * 2,
        NOTE + EMPTY + long(-1, 11) + b"\x80" * 10 + b"\x01\0" + EMPTY,
        NOTE + EMPTY * 2 + block(9),
    ]
    decoded = codec.decode([bad[0], good, bad[1], bad[2], good, bad[3]])
    assert [position for position, _ in decoded.refused] == [0, 2, 3, 5]
    assert decoded.columns["a"].tolist() == [7, 600] * 2


@pytest.mark.parametrize("cut", range(len(GOOD)))
def test_no_prefix_of_a_message_is_a_message(cut):
    """Wherever the bytes are cut, the message is refused."""
    decoded = CODEC.decode([GOOD[:cut], GOOD])
    assert [position for position, _ in decoded.refused] == [0]
    assert decoded.columns["x"].tolist() == [100, 2000, 3]


@given(st.binary(max_size=300))
@example(b"\x00" * 300)
@settings(max_examples=300)
def test_random_bytes_never_raise(body):
    """Whatever comes, the answer is a record or a reason, and the good neighbour is read."""
    decoded = CODEC.decode([body, GOOD])
    assert decoded.index[-1] == 1
    assert decoded.columns["x"][-3:].tolist() == [100, 2000, 3]


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=300)
def test_damaged_messages_are_read_like_fastavro_or_refused(changes):
    """What the damage leaves readable has the meaning that plain Avro gives it; the rest is refused."""
    damaged = bytearray(GOOD)
    for position, byte in changes:
        damaged[position] = byte
    decoded = CODEC.decode([bytes(damaged)])
    if decoded.refused:
        return
    stream = io.BytesIO(bytes(damaged))
    record = fastavro.schemaless_reader(stream, SCHEMA.parsed)
    assert stream.read() == b""
    assert decoded.headers[0] == {name: record[name] for name in SCHEMA.header}
    for column in SCHEMA.columns:
        values = [column.symbols.index(v) if column.symbols else v for v in record[column.name]]
        assert decoded.columns[column.name].tolist() == (values or [0] * int(decoded.counts["event"][0]))


LARGE = 300_000


@pytest.mark.parametrize(
    "body",
    [
        NOTE + long(-1, 1, 1) * (LARGE // 3) + EMPTY,
        NOTE + long(1, 1) * (LARGE // 2) + EMPTY,
        NOTE + b"\xff" * LARGE,
        NOTE + block(*[1] * LARGE) + EMPTY * 2,
        b"\xff" * LARGE,
        long(LARGE) + b"\xff" * LARGE,
        NOTE + EMPTY + long(-1, LARGE) + b"\x80" * (LARGE - 1) + b"\x01\0" + EMPTY,
    ],
    ids=[
        "tiny blocks",
        "tiny plain blocks",
        "endless count",
        "a million rows",
        "endless length",
        "text",
        "endless number",
    ],
)
def test_time_and_memory_are_bounded_by_the_size(body):
    """300 kB of the worst kind cost less than two seconds and a hundred times their size."""
    codec = Codec(TWO)
    began = time.process_time()
    codec.decode([body])
    spent = time.process_time() - began
    tracemalloc.start()  # only now, for it makes everything slower
    codec.decode([body])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent < 2.0
    assert peak < 100 * len(body)


@pytest.mark.parametrize(
    "columns",
    [
        {"nonsense": np.array([1])},
        {"x": np.array([1, 2]), "y": np.array([1])},
        {"x": np.array([2**31])},
        {"x": np.array([1.5])},
        {"x": np.array([1], np.uint64)},
        {"kind": np.array([len(catalogue.KIND_NAMES)])},
        {"kind": np.array([-1])},
    ],
)
def test_what_must_not_be_read_is_not_written(columns):
    """The writer refuses what a reader would: unknown, unequal, fractional and out of range."""
    with pytest.raises(ValueError, match=r"column|schema"):
        CODEC.encode(HEADER, columns)


def test_a_group_of_zeros_keeps_its_rows():
    """Where every column would be left out, one is written, for the number of rows must not vanish."""
    decoded = CODEC.decode([CODEC.encode(HEADER, {"x": np.zeros(5, int), "y": np.zeros(5, int)})])
    assert decoded.counts["event"].tolist() == [5]
    with pytest.raises(ValueError, match="more than 4 rows"):
        Codec(SCHEMA, max_rows=4).encode(HEADER, {"x": np.ones(5, int)})
