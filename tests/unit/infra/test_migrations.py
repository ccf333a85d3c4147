"""Migration files: their order, their checksums, their statements; and the names that the SQL gives to codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.control import reasons
from infra.errors import TidegateError
from infra.migrations import FOLDER, Applied, load, pending
from infra.statements import split_statements

AVRO = Path(__file__).parents[3] / "schemas" / "avro"


def write(folder: Path, **files: str) -> Path:
    for name, sql in files.items():
        (folder / f"{name}.sql").write_text(sql)
    return folder


def as_applied(folder: Path) -> list[Applied]:
    return [Applied(m.number, m.name, m.checksum) for m in load(folder)]


def test_files_run_in_order_and_once(tmp_path):
    """What is recorded does not run again; the rest runs in the order of its numbers."""
    write(tmp_path, **{"0002_b": "SELECT 2", "0001_a": "SELECT 1", "0003_c": "SELECT 3"})
    files = load(tmp_path)
    assert [m.name for m in pending(files, [])] == ["0001_a.sql", "0002_b.sql", "0003_c.sql"]
    assert [m.name for m in pending(files, as_applied(tmp_path)[:1])] == ["0002_b.sql", "0003_c.sql"]
    assert pending(files, as_applied(tmp_path)) == []


def test_a_changed_file_is_refused_by_name_and_both_checksums(tmp_path):
    """One byte is enough."""
    write(tmp_path, **{"0001_a": "SELECT 1"})
    before = as_applied(tmp_path)
    write(tmp_path, **{"0001_a": "SELECT 1 "})
    now = load(tmp_path)
    with pytest.raises(TidegateError) as refused:
        pending(now, before)
    for part in ("0001_a.sql", before[0].checksum, now[0].checksum):
        assert part in str(refused.value)


def test_a_newer_store_is_refused(tmp_path):
    """This program does not know what later migrations did."""
    write(tmp_path, **{"0001_a": "SELECT 1"})
    with pytest.raises(TidegateError, match=r"newer than this program: it has migration 0002_b\.sql"):
        pending(load(tmp_path), [*as_applied(tmp_path), Applied(2, "0002_b.sql", "x")])


def test_a_record_that_is_missing_is_refused(tmp_path):
    """A later file applied without an earlier one means that somebody meddled."""
    write(tmp_path, **{"0001_a": "SELECT 1", "0002_b": "SELECT 2"})
    with pytest.raises(TidegateError, match=r"0001_a\.sql was never applied"):
        pending(load(tmp_path), as_applied(tmp_path)[1:])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0002_b"], "0001 is expected"),
        (["0001_a", "0003_c"], "0002 is expected"),
        (["0001_a", "0001_b"], "0002 is expected"),
        (["1_a"], "is not named like"),
        (["0001_A"], "is not named like"),
    ],
)
def test_wrong_numbers_and_names_are_refused(tmp_path, names, message):
    """A gap, a number twice, or another name."""
    write(tmp_path, **dict.fromkeys(names, "SELECT 1"))
    with pytest.raises(TidegateError, match=message):
        load(tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    """Comments alone are no migration."""
    with pytest.raises(TidegateError, match="no statement"):
        load(write(tmp_path, **{"0001_a": "-- later; perhaps\n"}))


def test_the_projects_own_files_load():
    """Numbered without a gap, every statement one that may run twice."""
    for migration in load():
        for statement in migration.statements:
            code = re.sub(r"--[^\n]*\n", "", statement).strip()
            once = r"CREATE (OR REPLACE VIEW|(TABLE|VIEW|MATERIALIZED VIEW) IF NOT EXISTS) "
            assert re.match(once, code), migration.name


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';'; SELECT 2", ["SELECT ';'", "SELECT 2"]),
        ("SELECT 'it''s; \\'; x'; SELECT 2", ["SELECT 'it''s; \\'; x'", "SELECT 2"]),
        ('SELECT `a;b`, "c;d"; SELECT 2', ['SELECT `a;b`, "c;d"', "SELECT 2"]),
        ("SELECT 1 -- one; two\n; SELECT /* ; */ 2", ["SELECT 1 -- one; two", "SELECT /* ; */ 2"]),
        ("-- don't; stop\nSELECT 1", ["-- don't; stop\nSELECT 1"]),
        (";;\n;-- nothing\n", []),
        ("SELECT $x$;$x$; SELECT 2", ["SELECT $x$;$x$", "SELECT 2"]),
    ],
)
def test_statements_end_at_semicolons_outside_comments_and_quotes(sql, statements):
    """And nowhere else."""
    assert split_statements(sql) == statements


@given(st.lists(st.text(alphabet="ab;'\\-\n", max_size=8), min_size=1, max_size=5))
def test_quoted_text_never_splits(texts):
    """However it looks, a literal stays whole."""
    literals = ["SELECT '" + text.replace("\\", "\\\\").replace("'", "''") + "'" for text in texts]
    assert split_statements(";".join(literals)) == literals


def symbols(name: str) -> list[str]:
    schema = json.loads((AVRO / "interaction_batch.avsc").read_text())
    (found,) = [
        field["type"]["items"]["symbols"]
        for field in schema["fields"]
        if isinstance(field["type"], dict) and isinstance(field["type"].get("items"), dict)
        and field["type"]["items"].get("name") == name
    ]  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("file", "enum", "index"),
    [
        ("0003_interactions.sql", "Kind", "event_kind"),
        ("0003_interactions.sql", "Button", "event_button"),
        ("0003_interactions.sql", "KeyClass", "event_key_class"),
        ("0003_interactions.sql", "Role", "event_role"),
        ("0004_rollups.sql", "Kind", r"state\.kind"),
    ],
)
def test_the_sql_names_codes_as_the_schema_does(file, enum, index):
    """The array of names before each index is the enum's symbols, in their order."""
    sql = (FOLDER / file).read_text()
    named = re.search(r"\[([^\[\]]*)\]\[" + index + r" \+ 1\]", sql)
    assert named is not None
    assert re.findall(r"'(\w+)'", named[1]) == symbols(enum)


def test_drops_show_at_once_what_speaks_of_machines_and_rules_alone():
    """The view's list is every reason but those that may tell of a person; what a person said is folded into one word."""
    sql = (FOLDER / "0006_drops.sql").read_text()
    shown = re.search(r"HAVING reason IN \(([^)]*)\)", sql)
    folded = re.search(r"counts\.1 IN \(([^)]*)\), 'not_consented'", sql)
    assert shown is not None
    assert folded is not None
    assert set(re.findall(r"'(\w+)'", shown[1])) == set(reasons.REASONS) - {reasons.PASS} - reasons.OF_A_PERSON
    assert set(re.findall(r"'(\w+)'", folded[1])) < reasons.OF_A_PERSON
