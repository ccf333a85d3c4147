"""A field that leaves out what it owes is named, and our own schemas and page owe nothing."""

import copy
import json
from datetime import date

import pytest
from typer.testing import CliRunner

from schemas import cli
from schemas.catalogue import SUBJECTS_OF_TOPICS, load, names
from schemas.check import problems
from schemas.dictionary import render

TODAY = date(2026, 11, 21)
FIELD = {
    "name": "x", "type": "int", "doc": "Where.", "unit": "px", "sensitivity": "behavioural",
    "purposes": ["operations"], "owner": "privacy", "review": "2027-06-01",
}  # fmt: skip


def schema(**changes):
    field = {**copy.deepcopy(FIELD), **changes}
    field = {name: value for name, value in field.items() if value is not ...}
    return {"type": "record", "name": "R", "doc": "A record.", "fields": [field]}


@pytest.mark.parametrize("name", names())
def test_our_schemas_keep_the_rules(name):
    """Every field of every schema is described, owned and up for review."""
    assert problems(load(name).definition, TODAY) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"doc": ...}, "R.x: has no doc"),
        ({"unit": " "}, "R.x: has no unit"),
        ({"owner": ..., "review": ...}, "R.x: has no owner, no review"),
        ({"sensitivity": "secret"}, "R.x: sensitivity `secret` is none of operational"),
        ({"purposes": ...}, "R.x: has no purposes"),
        ({"purposes": []}, "R.x: has no purposes"),
        ({"purposes": ["operations", "advertising"]}, "R.x: purpose `advertising` is none of operations"),
        ({"review": "June"}, "R.x: review `June` is no date"),
        ({"review": "2026-11-20"}, "R.x: its review was due on 2026-11-20"),
        ({"column": ""}, "R.x: `column` names no group"),
        ({"type": {"type": "array", "items": {"type": "enum", "name": "E", "symbols": ["a"]}}}, "R.x: enum E has no doc"),
        ({"type": ["null", {"type": "map", "values": {"type": "record", "name": "I", "doc": "d", "fields": [
            {**FIELD, "name": "y", "unit": ...}]}}]}, "R.x.y: has no unit"),
        ({"type": {"type": "record", "name": "I", "fields": []}}, "R.x: the record has no doc"),
    ],
)  # fmt: skip
def test_each_thing_left_out_is_named(changes, says):
    """The problem names the field by its path and says what is missing."""
    assert any(found.startswith(says) for found in problems(_without_gaps(schema(**changes)), TODAY))


def _without_gaps(value):
    """Drop the attributes that a case leaves out, however deep."""
    if isinstance(value, dict):
        return {name: _without_gaps(inner) for name, inner in value.items() if inner is not ...}
    return [_without_gaps(inner) for inner in value] if isinstance(value, list) else value


def test_the_day_of_the_review_is_not_too_late():
    """A review is overdue on the day after it."""
    assert problems(schema(review="2026-11-21"), TODAY) == []


def test_columns_stand_together_at_the_end():
    """A header field after a column is named, for the codec could not read it."""
    made = schema(column="event")
    made["fields"].append({**FIELD, "name": "late"})
    assert problems(made, TODAY) == ["R.late: is no column but follows `x`, which is; header fields come first"]


def test_every_field_stands_in_the_dictionary():
    """Nobody can be recorded in a field that the page does not show."""
    page = render([load(name) for name in names()])
    for name in names():
        for field in load(name).definition["fields"]:
            assert f"| `{field['name']}` | {field['doc']}" in page
    assert "`letter`" in page
    assert "### PurposeRule" in page


def test_check_holds_the_page_against_the_schemas(tmp_path):
    """The committed page is what the schemas make; any other is a failure that says how to mend it."""
    run = CliRunner().invoke
    assert run(cli.app, ["check", "--today", "2026-11-21"]).exit_code == 0
    page = tmp_path / "page.md"
    stale = run(cli.app, ["check", "--today", "2026-11-21", "--page", str(page)])
    assert stale.exit_code == 1
    assert "tidegate schemas dictionary --write" in stale.output
    assert run(cli.app, ["dictionary", "--page", str(page)]).exit_code == 1
    assert run(cli.app, ["dictionary", "--write", "--page", str(page)]).exit_code == 0
    assert run(cli.app, ["dictionary", "--page", str(page)]).exit_code == 0
    assert run(cli.app, ["check", "--today", "2026-11-21", "--page", str(page)]).exit_code == 0


def test_check_fails_when_a_review_is_overdue():
    """Years later nothing has changed but the date, and that is enough; --json says the same."""
    late = CliRunner().invoke(cli.app, ["check", "--today", "2040-01-01", "--json"])
    assert late.exit_code == 1
    found = json.loads(late.stdout)["problems"]
    assert any("InteractionBatch.session: its review was due" in problem for problem in found)


def test_list_names_every_topic():
    """A script finds which schema a topic follows."""
    rows = json.loads(CliRunner().invoke(cli.app, ["list", "--json"]).stdout)
    assert {row["topic"]: row["schema"] for row in rows} == dict(SUBJECTS_OF_TOPICS)
    assert "interactions.raw" in CliRunner().invoke(cli.app, ["list"]).stdout


def test_compat_compares_files_and_names(tmp_path):
    """The last schema is held against those before it; a refusal names the field and fails."""
    run = CliRunner().invoke
    old = tmp_path / "old.avsc"
    before = json.loads(load("policy").raw)
    before["fields"] = [field for field in before["fields"] if field["name"] != "grid_px"]
    old.write_text(json.dumps(before))
    refused = run(cli.app, ["compat", str(old), "policy"])
    assert refused.exit_code == 1
    assert "`grid_px` is new and has no default" in refused.output
    assert run(cli.app, ["compat", "policy", str(old)]).exit_code == 0
    assert run(cli.app, ["compat", "policy"]).exit_code == 2
    for given in ("nonsense", str(tmp_path)):
        missing = run(cli.app, ["compat", given, "policy"])
        assert missing.exit_code == 1
        assert "neither a readable file nor one of" in missing.output
    old.write_text("{")
    assert "not an Avro schema" in run(cli.app, ["compat", str(old), "policy"]).output
