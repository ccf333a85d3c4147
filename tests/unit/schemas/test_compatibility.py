"""What BACKWARD_TRANSITIVE lets through, and that a refusal names the field."""

import copy
import json

import pytest

from schemas.catalogue import SchemaError, load, names
from schemas.compatibility import check_backward_transitive, incompatibilities, parse

BASE = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "small", "type": "int"},
        {"name": "large", "type": "long"},
        {"name": "kind", "type": {"type": "array", "items": {"type": "enum", "name": "K", "symbols": ["a", "b"]}}},
        {"name": "rules", "type": {"type": "array", "items": {"type": "record", "name": "Rule", "fields": [
            {"name": "days", "type": "int"}]}}},
    ],
}  # fmt: skip


def changed(change):
    schema = copy.deepcopy(BASE)
    change(schema)
    return schema


def objections(new, old=BASE):
    return [(i.path, i.reason) for i in incompatibilities(parse(json.dumps(new)), parse(json.dumps(old)))]


def enum_of(schema):
    return schema["fields"][2]["type"]["items"]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["fields"].append({"name": "new", "type": "int", "default": 0}),
        lambda s: s["fields"].pop(0),
        lambda s: s["fields"][0].update(type="long"),
        lambda s: s["fields"][0].update(name="little", aliases=["small"]),
        lambda s: s["fields"][0].update(unit="px", sensitivity="behavioural"),
        lambda s: s.update(doc="said better"),
        lambda s: enum_of(s)["symbols"].append("c"),
        lambda s: enum_of(s)["symbols"].reverse(),
        lambda s: enum_of(s).update(symbols=["a"], default="a"),
        lambda s: s["fields"].reverse(),
    ],
)
def test_what_reads_earlier_messages_is_let_through(change):
    """Fields with defaults, removals, widenings, aliases, attributes and new symbols break no reader."""
    assert objections(changed(change)) == []


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        (lambda s: s["fields"].append({"name": "new", "type": "int"}), "new", "no default"),
        (lambda s: s["fields"][1].update(type="int"), "large", "is now int"),
        (lambda s: s["fields"][0].update(name="little"), "little", "no default"),
        (lambda s: enum_of(s).update(symbols=["a"]), "kind", "loses enum symbols"),
        (lambda s: enum_of(s).update(name="Other"), "kind", "another name"),
        (lambda s: s["fields"][2].update(type={"type": "array", "items": "string"}), "kind", "is now array of string"),
        (lambda s: s["fields"][3]["type"]["items"]["fields"][0].update(type="string"), "rules.days", "is now string"),
        (lambda s: s["fields"][3]["type"]["items"]["fields"].append({"name": "why", "type": "string"}), "rules.why", "no default"),
        (lambda s: s["fields"].append({"name": "new", "type": {"type": "enum", "name": "N", "symbols": ["a"], "default": "a"}}), "new", "no default"),
        (lambda s: s.update(name="S"), "", "another name"),
    ],
)  # fmt: skip
def test_what_cannot_read_earlier_messages_is_refused_by_path(change, path, reason):
    """The refusal says which field it is, however deep, and why."""
    found = objections(changed(change))
    assert [p for p, _ in found] == [path]
    assert reason in found[0][1]


def test_a_field_that_was_a_union_is_named():
    """Apache's checker loses the place where the earlier type was a union; the field is found all the same."""
    old = changed(lambda s: s["fields"][1].update(type=["null", "long"]))
    assert [path for path, _ in objections(BASE, old)] == ["large"]


def test_every_objection_is_named():
    """Two faults are two objections: nobody fixes one and comes back for the next."""

    def change(schema):
        schema["fields"][1]["type"] = "int"
        schema["fields"].append({"name": "new", "type": "int"})

    assert [path for path, _ in objections(changed(change))] == ["large", "new"]


def test_a_change_is_held_against_every_earlier_version():
    """A field removed and brought back with another type reads the last version, but not the first."""
    first = json.dumps(BASE)
    second = json.dumps(changed(lambda s: s["fields"].pop(1)))
    third = json.dumps(changed(lambda s: s["fields"][1].update(type="string", default="")))
    assert check_backward_transitive(third, [("version 2", second)]) == []
    (objection,) = check_backward_transitive(third, [("version 1", first), ("version 2", second)])
    assert "`large`" in objection
    assert "version 1" in objection


@pytest.mark.parametrize("name", names())
def test_our_own_schemas_read_themselves(name):
    """The comparison is no stricter than it says."""
    assert check_backward_transitive(load(name).raw, [("itself", load(name).raw)]) == []


@pytest.mark.parametrize(
    "raw", ["{", "7", "[]7", '{"type": "record"}', '{"type": "enum", "name": "E", "symbols": 3}', '"nonsense"']
)
def test_what_is_no_schema_is_refused(raw):
    """Whatever was sent, one kind of error comes out."""
    with pytest.raises(SchemaError, match="not an Avro schema"):
        parse(raw)
