"""Messages read in one pass are read as each would be alone, whatever stands between them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import varints
from schemas.catalogue import Schema, load
from schemas.codec import Codec
from schemas.refusals import Refusal

SCHEMA = load("interaction_batch")
HEADER = {
    "session": "s", "subject": "p", "producer": "test/1", "epoch": 3, "first_number": 7, "captured": 9,
    "dropped": {"buffer_full": 2}, "final": True, "base_time": 1_790_000_000_000, "screen_width": 1920,
    "screen_height": 1080, "applications": ["", "editor"], "labels": [""],
}  # fmt: skip
WRITER = Codec(SCHEMA)
MANY = [WRITER.encode(HEADER, {"kind": np.full(64, 5), "x": np.arange(64)})] * 20  # so many are walked together
REMEMBERING = Codec(SCHEMA)  # one for all examples: it has seen the sessions before


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A message of one of three sessions, whose names and applications change, sound or damaged in up to two bytes."""
    header = HEADER | {
        "session": draw(st.sampled_from(("s", "t", "u" * 70))),
        "dropped": draw(st.sampled_from(({}, {"buffer_full": 2}, {"buffer_full": 300}))),
        "applications": draw(st.sampled_from(([], ["", "editor"], ["", "editor", "browser"], ["", "x" * 400]))),
        "captured": draw(st.integers(0, 2**40)),
    }
    rows = draw(st.sampled_from((0, 1, 2, 3, 63, 64, 65, 200, 5_000)))
    top = draw(st.sampled_from((0, 1, 40, 4_000, 2**31 - 1)))
    body = bytearray(WRITER.encode(header, {
        "kind": np.full(rows, 5), "x": np.arange(rows) % (top + 1), "y": np.zeros(rows, int),
        "offset_ms": np.arange(rows) * top, "role": np.arange(rows) % 3,
    }))  # fmt: skip
    for position, byte in draw(st.lists(st.tuples(st.integers(0, 2**15), st.integers(0, 255)), max_size=2)):
        body[position % len(body)] = byte
    return bytes(body[: draw(st.sampled_from((None, None, None, -1, -3)))])


@given(st.lists(bodies(), min_size=1, max_size=12))
@settings(max_examples=60)
def test_a_pass_of_many_is_many_passes_of_one(messages):
    """The walk over all messages and what is remembered of headers change no value and no refusal."""
    messages = messages + MANY
    together = REMEMBERING.decode(messages)
    alone = [Codec(SCHEMA).decode([message]) for message in messages]
    good = [one for one in alone if not one.refused]
    assert together.refused == [(place, one.refused[0][1]) for place, one in enumerate(alone) if one.refused]
    assert together.headers == [one.headers[0] for one in good]
    assert together.counts["event"].tolist() == [int(one.counts["event"][0]) for one in good]
    for name, column in together.columns.items():
        assert column.tolist() == [value for one in good for value in one.columns[name].tolist()]


TWO = Schema.parse("two", json.dumps({"type": "record", "name": "Two", "fields": [
    {"name": name, "type": {"type": "array", "items": "int"}, "column": "event"} for name in "ab"
]}))  # fmt: skip
GOOD = b"\x03\x04\x02\x04\x00" * 2  # -2 rows in 2 bytes: 1 and 2; the end


@pytest.mark.parametrize(("bad", "reason"), [
    (GOOD + b"\0", Refusal.TRAILING_BYTES),
    (GOOD[:-1], Refusal.TRUNCATED),
    (GOOD[:5], Refusal.TRUNCATED),
    (GOOD[:5] + b"\x01\x02\x02\x00", Refusal.UNEQUAL_COLUMNS),
    (b"\x07\x08\x02\x02\x02\x02\x00" * 2, Refusal.TOO_MANY_ROWS),
    (b"\x03\x00\x00" + GOOD[5:], Refusal.BAD_SIZE),
    (b"\x03\x02\x02\x00" + GOOD[5:], Refusal.BAD_SIZE),
    (b"\x03\x04\x80\x02\x00" + GOOD[5:], Refusal.BAD_VARINT),
])  # fmt: skip
def test_each_damage_is_refused_among_many(bad, reason):
    """Among enough messages to be walked together, each rule that the walk checks refuses the one that breaks it."""
    decoded = Codec(TWO, max_rows=3).decode([*[GOOD] * 11, bad, *[GOOD] * 11])
    assert decoded.refused == [(11, reason)]
    assert decoded.columns["b"].tolist() == [1, 2] * 22


def test_what_another_writer_makes_is_read_beside_ours():
    """A message of plain blocks, and one of more bytes than the common walk knows, are read in their place."""
    ours = WRITER.encode(HEADER, {"kind": np.full(3, 5), "x": np.array([1, 2, 3])})
    begin = len(WRITER.encode(HEADER, {})) - len(SCHEMA.columns)
    numbers = b"".join(varints.one(value) for value in (7, 8, 600))
    plain = ours[:begin] + (varints.one(3) + numbers + b"\0") * 1 + b"\0" * (len(SCHEMA.columns) - 1)
    large = WRITER.encode(HEADER, {"kind": np.full(20_000, 5), "x": np.arange(20_000)})
    decoded = Codec(SCHEMA).decode([ours, plain, large, *[ours] * 20])
    assert decoded.refused == []
    assert decoded.counts["event"].tolist() == [3, 3, 20_000, *[3] * 20]
    assert decoded.columns["offset_ms"][:6].tolist() == [0, 0, 0, 7, 8, 600]
    assert decoded.columns["x"].tolist() == [1, 2, 3, 0, 0, 0, *range(20_000), *[1, 2, 3] * 20]


def test_what_people_read_is_not_remembered():
    """Labels are content: no part of them stays behind in the reader."""
    codec = Codec(SCHEMA)
    codec.decode([WRITER.encode(HEADER | {"labels": ["", "a secret label"]}, {})])
    cells = [cell.cell_contents for cell in codec._read_header.__closure__]
    assert "editor" in repr(cells)
    assert "secret" not in repr(cells)


def test_sessions_beyond_count_cost_bounded_memory():
    """However many sessions send, the reader remembers a fixed number of them."""
    codec = Codec(SCHEMA)
    known = next(cell.cell_contents for cell in codec._read_header.__closure__ if isinstance(cell.cell_contents, dict))
    most = 0
    for start in range(0, 10_000, 1_000):
        codec.decode([WRITER.encode(HEADER | {"session": str(number)}, {}) for number in range(start, start + 1_000)])
        most = max(most, len(known))
    assert most <= 4096
