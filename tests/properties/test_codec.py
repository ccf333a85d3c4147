"""The codec writes and reads plain Avro: fastavro and the Apache `avro` package agree with it, both ways."""

import io
import json
from typing import Any

import avro.io
import avro.schema
import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import catalogue
from schemas.codec import Codec

COLUMNAR = ("interaction_batch", "minimised_block")
LONGS = st.one_of(st.integers(-70, 70), st.integers(-(2**63), 2**63 - 1))
INTS = st.one_of(st.integers(0, 9000), st.integers(-(2**31), 2**31 - 1))


def header_values(type_: Any) -> st.SearchStrategy[Any]:
    """Any value of a header field's type."""
    if isinstance(type_, str):
        texts = st.text(max_size=80)
        return {"string": texts, "long": LONGS, "int": INTS, "boolean": st.booleans()}[type_]
    if type_["type"] == "array":
        return st.lists(header_values(type_["items"]), max_size=4)
    if type_["type"] == "map":
        return st.dictionaries(st.text(max_size=5), header_values(type_["values"]), max_size=3)
    return st.sampled_from(type_["symbols"])


@st.composite
def messages(draw: st.DrawFn, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A header and columns of one message: groups of any length, columns present, all zero or missing."""
    schema = catalogue.load(name)
    fields = {field["name"]: field["type"] for field in schema.parsed["fields"]}
    header = {field: draw(header_values(fields[field])) for field in schema.header}
    rows = {group: draw(st.integers(0, 9)) for group in schema.groups}
    columns = {}
    for column in schema.columns:
        one = {"int": INTS, "long": LONGS, "enum": st.integers(0, max(0, len(column.symbols) - 1))}[column.type]
        fill = draw(st.sampled_from(("full", "full", "zero", "missing")))
        n = rows[column.group]
        if fill != "missing":
            columns[column.name] = np.array(
                draw(st.lists(one, min_size=n, max_size=n)) if fill == "full" else [0] * n, np.int64
            )
    return header, columns


def expected(schema: catalogue.Schema, columns: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """What a reader must get: a missing column is zeros, as many as its group has rows."""
    rows = {g: max([len(columns[c]) for c in names if c in columns], default=0) for g, names in schema.groups.items()}
    return {c.name: columns.get(c.name, np.zeros(rows[c.group], int)).tolist() for c in schema.columns}


def as_codes(schema: catalogue.Schema, record: dict[str, Any]) -> dict[str, list[int]]:
    """Turn another reader's symbols into their positions."""
    return {c.name: [c.symbols.index(v) if c.symbols else v for v in record[c.name]] for c in schema.columns}


def apache(schema: catalogue.Schema) -> avro.schema.Schema:
    return avro.schema.parse(schema.raw)


def zero_filled(got: list[int], want: list[int]) -> bool:
    """An empty column stands for zeros."""
    return got == want or (got == [] and not any(want))


@pytest.mark.parametrize("name", COLUMNAR)
@given(data=st.data())
@settings(max_examples=60)
def test_our_bytes_read_by_others(name, data):
    """fastavro and Apache avro read from our bytes what went in."""
    schema = catalogue.load(name)
    header, columns = data.draw(messages(name))
    body = Codec(schema).encode(header, columns)
    by_fastavro = fastavro.schemaless_reader(io.BytesIO(body), schema.parsed)
    decoder = io.BytesIO(body)
    by_apache = avro.io.DatumReader(apache(schema)).read(avro.io.BinaryDecoder(decoder))
    assert decoder.read() == b""
    assert by_fastavro == by_apache
    assert {field: by_apache[field] for field in schema.header} == header
    for column, want in expected(schema, columns).items():
        assert zero_filled(as_codes(schema, by_apache)[column], want), column


@pytest.mark.parametrize("name", COLUMNAR)
@given(data=st.data())
@settings(max_examples=60)
def test_others_bytes_read_by_us(name, data):
    """What fastavro and Apache avro write, without sizes, and what we write, is decoded in one pass to the same."""
    schema = catalogue.load(name)
    drawn = data.draw(st.lists(messages(name), min_size=1, max_size=4))
    bodies, wants = [], []
    for header, columns in drawn:
        want = expected(schema, columns)
        symbols = {c.name: [c.symbols[v] if c.symbols else v for v in want[c.name]] for c in schema.columns}
        one, other = io.BytesIO(), io.BytesIO()
        fastavro.schemaless_writer(one, schema.parsed, {**header, **symbols})
        avro.io.DatumWriter(apache(schema)).write({**header, **symbols}, avro.io.BinaryEncoder(other))
        bodies += [one.getvalue(), other.getvalue(), Codec(schema).encode(header, columns)]
        wants += [(header, want)] * 3
    decoded = Codec(schema).decode(bodies)
    assert decoded.refused == []
    assert decoded.index == list(range(len(bodies)))
    assert decoded.headers == [header for header, _ in wants]
    for column in schema.columns:
        assert decoded.columns[column.name].tolist() == [v for _, want in wants for v in want[column.name]]
    for group, names in schema.groups.items():
        assert decoded.counts[group].tolist() == [len(want[names[0]]) for _, want in wants]


@given(data=st.data())
@settings(max_examples=40)
def test_several_blocks_are_one_array(data):
    """A writer may cut an array into blocks, with sizes or without; the rows are the same."""
    schema = catalogue.Schema.parse("two", json.dumps({"type": "record", "name": "Two", "fields": [
        {"name": "a", "type": {"type": "array", "items": "long"}, "column": "event"},
        {"name": "b", "type": {"type": "array", "items": "long"}, "column": "event"},
    ]}))  # fmt: skip
    values = data.draw(st.lists(LONGS, min_size=1, max_size=30))
    body = b"".join(_in_blocks(values, data) for _ in range(2))
    decoded = Codec(schema).decode([body, Codec(schema).encode({}, {"a": np.array(values), "b": np.array(values)})])
    assert decoded.refused == []
    assert decoded.columns["a"].tolist() == decoded.columns["b"].tolist() == values + values


def _in_blocks(values: list[int], data: st.DataObject) -> bytes:
    out = io.BytesIO()
    encoder = avro.io.BinaryEncoder(out)
    while values:
        size = data.draw(st.integers(1, len(values)))
        block = io.BytesIO()
        for value in values[:size]:
            avro.io.BinaryEncoder(block).write_long(value)
        if data.draw(st.booleans()):
            encoder.write_long(-size)
            encoder.write_long(len(block.getvalue()))
        else:
            encoder.write_long(size)
        out.write(block.getvalue())
        values = values[size:]
    return out.getvalue() + b"\0"
