"""A message written with another version of the schema is read as this version sees it."""

import json

import numpy as np
import pytest

from schemas.catalogue import Schema, SchemaError
from schemas.codec import Codec
from schemas.refusals import Refusal


def column(name, items="int", group="event", **more):
    return {"name": name, "type": {"type": "array", "items": items}, "column": group, "default": [], **more}


def enum(*symbols, **more):
    return {"type": "enum", "name": "K", "symbols": list(symbols), **more}


def schema(*fields):
    return Schema.parse("v", json.dumps({"type": "record", "name": "V", "fields": list(fields)}))


NOTE = {"name": "note", "type": "string"}


def test_columns_come_and_go():
    """A column the writer lacks is zeros, one the reader lacks is dropped, one renamed is found by its alias."""
    writer = schema(NOTE, column("old"), column("same"), column("was"))
    reader = schema(
        NOTE, column("same", "long"), column("new"), column("now", aliases=["was"]), column("far", group="other")
    )
    values = {"old": np.array([1, 2]), "same": np.array([3, 4]), "was": np.array([5, 6])}
    decoded = Codec(writer, reader).decode([Codec(writer).encode({"note": "n"}, values)] * 2)
    assert {name: found.tolist() for name, found in decoded.columns.items()} == {
        "same": [3, 4] * 2, "new": [0] * 4, "now": [5, 6] * 2, "far": [],
    }  # fmt: skip
    assert {name: found.tolist() for name, found in decoded.counts.items()} == {"event": [2, 2], "other": [0, 0]}


def test_a_dropped_column_is_still_checked():
    """A fault in a column nobody wants still makes the message no message."""
    writer = schema(NOTE, column("old", "int"))
    longer = schema(NOTE, column("old", "long"))
    body = Codec(longer).encode({"note": "n"}, {"old": np.array([2**40])})
    assert Codec(writer, schema(NOTE)).decode([body]).refused == [(0, Refusal.BAD_VALUE)]


def test_enum_codes_follow_their_symbols():
    """A code is a position in the writer's list; what the reader sees is its own position of the same symbol."""
    writer = schema(column("k", enum("none", "left", "wheel")), column("x"))
    reader = schema(column("k", enum("wheel", "none", "left", "right")), column("x"))
    codec = Codec(writer, reader)
    filled = Codec(writer).encode({}, {"k": np.array([0, 1, 2]), "x": np.array([1, 1, 1])})
    empty = Codec(writer).encode({}, {"x": np.array([1, 1])})
    assert codec.decode([filled, empty]).columns["k"].tolist() == [1, 2, 0, 1, 1]


def test_a_symbol_the_reader_does_not_know():
    """It becomes the reader's default symbol, and where there is none only messages that hold it are refused."""
    writer = schema(column("k", enum("a", "b", "c")))
    body = Codec(writer).encode({}, {"k": np.array([0, 2])})
    fine = Codec(writer).encode({}, {"k": np.array([1, 0])})
    with_default = schema(column("k", enum("b", "a", default="b")))
    assert Codec(writer, with_default).decode([body, fine]).columns["k"].tolist() == [1, 0, 0, 1]
    decoded = Codec(writer, schema(column("k", enum("b", "a")))).decode([body, fine])
    assert decoded.refused == [(0, Refusal.UNRESOLVABLE)]
    assert decoded.columns["k"].tolist() == [0, 1]


def test_the_header_is_resolved_as_avro_says():
    """Header fields come with their defaults, are dropped, renamed and widened by the rules of Avro."""
    writer = schema(NOTE, {"name": "gone", "type": "long"}, {"name": "n", "type": "int"}, column("x"))
    reader = schema(
        {"name": "m", "type": "long", "aliases": ["n"]},
        {"name": "extra", "type": "string", "default": "d"},
        NOTE,
        column("x"),
    )
    body = Codec(writer).encode({"note": "hello", "gone": 7, "n": 3}, {"x": np.array([9])})
    decoded = Codec(writer, reader).decode([body])
    assert decoded.headers == [{"m": 3, "extra": "d", "note": "hello"}]
    assert decoded.columns["x"].tolist() == [9]


def test_a_header_that_cannot_be_resolved_is_refused():
    """A reader's field without a default, which the writer never had, refuses the message and raises nothing."""
    writer, reader = schema(NOTE, column("x")), schema(NOTE, {"name": "must", "type": "string"}, column("x"))
    body = Codec(writer).encode({"note": "n"}, {"x": np.array([1])})
    assert Codec(writer, reader).decode([body]).refused == [(0, Refusal.UNRESOLVABLE)]


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (schema(column("x")), schema({"name": "x", "type": {"type": "array", "items": "int"}})),
        (schema(column("x")), schema(column("x", group="other"))),
        (schema(column("x", "long")), schema(column("x", "int"))),
        (schema(column("x", enum("a"))), schema(column("x", "int"))),
    ],
)
def test_versions_that_cannot_be_read_as_each_other(writer, reader):
    """A column that changed its nature is found when the codec is made, not message by message."""
    with pytest.raises(SchemaError, match="`x`"):
        Codec(writer, reader)


def test_an_index_that_is_no_symbol_is_refused_where_enums_differ():
    """An index beyond the writer's symbols is refused before it is looked up among the reader's."""
    writer, reader = schema(NOTE, column("k", enum("a", "b"))), schema(NOTE, column("k", enum("b", "a")))
    good = Codec(writer).encode({"note": "n"}, {"k": np.array([1])})
    at = len(good) - 2  # the varint before the array's end
    for index in (9, -7):
        bad = good[:at] + bytes([(index << 1) ^ (index >> 63)]) + good[at + 1 :]
        decoded = Codec(writer, reader).decode([good, bad])
        assert decoded.refused == [(1, Refusal.BAD_VALUE)]
        assert decoded.columns["k"].tolist() == [0]
