"""The constants follow from the files, and a file that breaks the rules is refused by name."""

import json

import avro.schema
import pytest

from schemas import catalogue


@pytest.mark.parametrize("name", catalogue.names())
def test_fingerprint_is_the_one_apache_avro_computes(name):
    """Any other Avro tool recognises our single-object records."""
    schema = catalogue.load(name)
    assert avro.schema.parse(schema.raw).fingerprint("CRC-64-AVRO") == schema.fingerprint


def test_every_kind_but_unknown_has_a_source():
    """A kind without a source could never be allowed, and `unknown` must never be."""
    assert catalogue.SOURCE_OF_KIND[catalogue.KINDS["unknown"]] == ""
    assert all(catalogue.SOURCE_OF_KIND[1:])
    assert set(catalogue.SOURCES) == {"session", "pointer", "wheel", "keys", "focus", "element"}


def test_constants_follow_the_files():
    """Codes are positions, and a block's events are a batch's, numbered, without labels."""
    assert catalogue.KIND_NAMES[catalogue.KINDS["key"]] == "key"
    assert set(catalogue.MINIMISED_EVENT_COLUMNS) == (set(catalogue.EVENT_COLUMNS) | {"number"}) - {"label"}
    assert "kind" not in catalogue.POLICY_FIELDS
    assert set(catalogue.SUBJECTS_OF_TOPICS.values()) == set(catalogue.names())
    assert catalogue.subject_of("interactions.raw") == "interactions.raw-value"


def test_columns_come_after_the_header():
    """The header is read field by field, the columns are skipped over; they cannot be mixed."""
    fields = [
        {"name": "a", "type": {"type": "array", "items": "int"}, "column": "event"},
        {"name": "late", "type": "int"},
    ]
    with pytest.raises(catalogue.SchemaError, match="`late` is no column but follows `a`"):
        catalogue.Schema.parse("bad", json.dumps({"type": "record", "name": "R", "fields": fields}))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("{", "not JSON"),
        ('"int"', "not an Avro record"),
        ('{"type": "record", "name": "R"}', "no list of named and typed fields"),
        ('{"type": "record", "name": "R", "fields": [{"name": "a", "type": "nonsense"}]}', "not Avro"),
        ('{"type": "record", "name": "R", "fields": [{"name": "a", "type": 7}]}', "not Avro"),
        (
            '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int", "column": "event"}]}',
            "`a` is no array",
        ),
    ],
)
def test_what_is_no_schema_is_refused(raw, says):
    """A registry may answer anything; the error says what is wrong and nothing else is raised."""
    with pytest.raises(catalogue.SchemaError, match=says):
        catalogue.Schema.parse("given", raw)


def test_unknown_name_lists_the_known():
    """Whoever mistypes a schema's name sees the right ones."""
    with pytest.raises(catalogue.SchemaError, match="interaction_batch"):
        catalogue.load("interaction_bach")
