"""Samples taken from the real store, over windows planted by hand and views made by hand."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from infra.control.records import Policy, PurposeRule, Switch
from infra.control.state import ControlState, View, Word
from infra.errors import TidegateError
from schemas.catalogue import KINDS, POLICY_FIELDS, SOURCES
from streams.reading import manifest, sample_files, sampling
from streams.reading.permit import Gate
from streams.reading.sampling import Request, take

TRAINING, RESEARCH = "assistant-training", "usability-research"
NOW = 1_795_000_000_000
START = NOW - 3_600_000
APPLICATIONS = ["", "browser", "text-editor", "mail"]


def policy(**more) -> Policy:
    fields = tuple(name for name in POLICY_FIELDS if name != "label")
    rules = (
        PurposeRule(TRAINING, "", SOURCES, fields, 30),
        PurposeRule(RESEARCH, "", ("pointer", "session"), ("x", "y"), 7),
    )
    window = {"window_kind": "tumbling", "window_size_ms": 10_000, "window_step_ms": 10_000, "window_gap_ms": 0}
    return Policy(
        name="demo", version=3, valid_from=0, valid_until=NOW * 2, notice="n1", purposes=rules, grid_px=8,
        resolution_ms=10, future_tolerance_ms=1000, lateness_ms=5000, approvers=(), applied_at=0, applied_by="test",
        **{**window, **more},
    )  # fmt: skip


def view(subjects, *, purposes=(TRAINING,), notice="n1", switches=(), **more) -> View:
    words = {purpose: Word(True, notice, 0) for purpose in purposes}
    state = ControlState(
        log="1", mode="standing", policy=policy(), consents=dict.fromkeys(subjects, words),
        switches={s.id: s for s in switches},
    )  # fmt: skip
    return replace(View(state, True), **more)


def switch(scope, value="", name="sw1") -> Switch:
    return Switch(name, scope, value, True, "test", "me", 0, 0)


def subject(number) -> str:
    return f"{number:032x}"


def fixed(view_now) -> Gate:
    return Gate(lambda: view_now, lambda: NOW)


def plant(planted, window_row, people=4, per_person=5, order=None, **more) -> list[str]:
    """`per_person` windows each, one application a person."""
    rows = [
        window_row(
            f"session-{who}", range(5 + who), start=START + 10_000 * n, subject=subject(who),
            application=[1 + who % 3] * (5 + who), applications=APPLICATIONS, purposes=[TRAINING, RESEARCH], **more,
        )
        for who in range(people)
        for n in range(per_person)
    ]  # fmt: skip
    if order is not None:
        random.Random(order).shuffle(rows)
    planted.windows(rows)
    return [subject(who) for who in range(people)]


@pytest.fixture
def taking(planted, tmp_path):
    """Takes samples; every call into a folder of its own name."""

    def run(gate, name="sample", purpose=TRAINING, windows=8, seed=1, **more):
        request = Request(purpose=purpose, windows=windows, seed=seed, out=tmp_path / name, **more)
        document = take(request, gate, planted.store, "1", lambda what, done, total: None)
        tables = [pq.read_table(tmp_path / name / file["name"]) for file in document["files"]]
        return document, [row for table in tables for row in table.to_pylist()]

    return run


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "home")


def test_a_sample_is_the_same_whatever_order_rows_came_in(planted, window_row, taking, tmp_path):
    """The same seed and rows give the same bytes, inserted in another order too; another seed gives other windows."""
    people = plant(planted, window_row, order=1)
    one, _ = taking(fixed(view(people)), "one")
    planted.store.command("TRUNCATE TABLE windows")
    plant(planted, window_row, order=2)
    two, rows = taking(fixed(view(people)), "two")
    assert one["files"] == two["files"]
    assert (tmp_path / "one" / "windows-00000.parquet").read_bytes() == (
        tmp_path / "two" / "windows-00000.parquet"
    ).read_bytes()
    _, other = taking(fixed(view(people)), "other", seed=2)
    assert [(r["session"], r["window_start"]) for r in rows] != [(r["session"], r["window_start"]) for r in other]
    assert left(tmp_path) == ["one", "other", "two"]


def test_only_those_who_consent_now_are_in_it(planted, window_row, taking):
    """Consent is asked for now: not what a row says, nor under an older notice, nor for another purpose."""
    people = plant(planted, window_row)
    _, rows = taking(fixed(view(people[:2])), windows=100)
    assert {row["subject"] for row in rows} == set(people[:2])
    assert len(rows) == 10
    for gate in (fixed(view([])), fixed(view(people, notice="n0")), fixed(view(people, purposes=(RESEARCH,)))):
        with pytest.raises(TidegateError, match="no window that may be read"):
            taking(gate, "none")


def test_windows_recorded_for_another_purpose_stay_out(planted, window_row, taking):
    """A row must name the purpose itself, however willing its subject is by now."""
    plant(planted, window_row)
    planted.windows([window_row("x", range(3), start=START, subject=subject(9), purposes=[RESEARCH])])
    _, rows = taking(fixed(view([subject(9)], purposes=(TRAINING, RESEARCH))), purpose=RESEARCH)
    assert len(rows) == 1
    with pytest.raises(TidegateError, match="no window"):
        taking(fixed(view([subject(9)])), "none")


def test_a_purpose_gets_its_own_kinds_and_fields_only(planted, window_row, taking):
    """Fields that the policy does not list for the purpose are not in the file at all; other kinds are gone."""
    planted.windows(
        [
            window_row(
                "s", range(4), start=START, purposes=[TRAINING, RESEARCH], key_class=[0, 1, 0, 0],
                kind=[KINDS[k] for k in ("pointer_move", "key", "focus", "pointer_button")],
            )
        ]
    )  # fmt: skip
    document, rows = taking(fixed(view(["a" * 32], purposes=(TRAINING, RESEARCH))), purpose=RESEARCH)
    assert document["fields"] == ["number", "offset_ms", "kind", "x", "y"]
    assert set(rows[0]) - {"session", "subject", "window_kind", "window_start", "window_end", "step_ms", "policy",
                           "policy_version", "notice", "screen_width", "screen_height", "events"} == {
        "number", "offset_ms", "kind", "x", "y"}  # fmt: skip
    assert rows[0]["kind"] == ["pointer_move", "pointer_button"]
    assert (rows[0]["number"], rows[0]["x"], rows[0]["events"]) == ([0, 3], [0, 24], 2)
    _, full = taking(fixed(view(["a" * 32])), "full")
    assert full[0]["kind"] == ["pointer_move", "key", "focus", "pointer_button"]
    assert full[0]["key_class"] == ["none", "letter", "none", "none"]
    assert full[0]["application"] == ["browser"] * 4


@pytest.mark.parametrize("scope", [("everything", ""), ("purpose", TRAINING)])
def test_a_switch_over_the_whole_sample_refuses_it(planted, window_row, taking, tmp_path, scope):
    """A switch that covers the purpose gives a refusal that names it, and nothing on the disk."""
    people = plant(planted, window_row)
    with pytest.raises(TidegateError, match="sw1"):
        taking(fixed(view(people, switches=[switch(*scope)])))
    assert left(tmp_path) == []


def test_a_switch_over_a_source_or_an_application_removes_its_events(planted, window_row, taking):
    """Kinds of a stopped source, events of a stopped application and those of none known are gone."""
    kinds = [KINDS[k] for k in ("session_start", "pointer_move", "key", "pointer_move", "pointer_move")]
    planted.windows(
        [window_row("s", range(5), start=START, kind=kinds, application=[0, 1, 1, 2, 0], applications=APPLICATIONS)]
    )
    _, rows = taking(fixed(view(["a" * 32], switches=[switch("source", "keys")])), "source")
    assert rows[0]["number"] == [0, 1, 3, 4]
    document, rows = taking(fixed(view(["a" * 32], switches=[switch("application", "browser")])), "application")
    assert (rows[0]["number"], document["switches"]) == ([0, 3], ["sw1"])
    both = [switch("application", n, n) for n in APPLICATIONS[1:]] + [switch("source", "session", "s")]
    with pytest.raises(TidegateError, match="no window"):
        taking(fixed(view(["a" * 32], switches=both)), "all")


def test_windows_past_the_retention_of_the_purpose_stay_out(planted, window_row, taking):
    """Seven days for one purpose, thirty for the other."""
    both = {"purposes": [TRAINING, RESEARCH]}
    planted.windows([window_row("old", range(3), start=NOW - 10 * 86_400_000, **both)])
    planted.windows([window_row("new", range(3), start=START, **both)])
    gate = fixed(view(["a" * 32], purposes=(TRAINING, RESEARCH)))
    assert [row["session"] for row in taking(gate, "t")[1]] == ["old", "new"]
    assert [row["session"] for row in taking(gate, "r", purpose=RESEARCH)[1]] == ["new"]
    assert [row["session"] for row in taking(gate, "u", until=START)[1]] == ["old"]
    assert [row["session"] for row in taking(gate, "s", since=START)[1]] == ["new"]


def test_cap_and_strata(planted, window_row, taking):
    """Under the cap nobody has more; strata share equally as far as they can; the manifest counts both."""
    people = plant(planted, window_row, people=6, per_person=5)
    document, rows = taking(fixed(view(people)), windows=9, per_subject_cap=2, stratify="app")
    by_person = {p: sum(row["subject"] == p for row in rows) for p in people}
    assert max(by_person.values()) <= 2
    assert [(s["stratum"], s["eligible"], s["chosen"]) for s in document["strata"]] == [
        ("browser", 4, 3), ("mail", 4, 3), ("text-editor", 4, 3),
    ]  # fmt: skip
    assert {row["application"][0] for row in rows} == {"browser", "mail", "text-editor"}
    for how in ("hour", "kind"):
        document, rows = taking(fixed(view(people)), how, windows=7, stratify=how)
        assert sum(s["chosen"] for s in document["strata"]) == len(rows) == 7
    assert [s["stratum"] for s in document["strata"]] == ["pointer_button"]


def test_asking_for_more_than_there_is(planted, window_row, taking):
    """All there is, and the manifest says how many were asked for."""
    people = plant(planted, window_row)
    document, rows = taking(fixed(view(people)), windows=1000)
    assert (len(rows), document["counts"]["asked"], document["counts"]["windows"]) == (20, 1000, 20)


def test_strata_by_a_field_that_the_purpose_may_not_use(planted, window_row, taking):
    """Choosing by application would read it: refused where the policy does not list it."""
    people = plant(planted, window_row)
    with pytest.raises(TidegateError, match="may not use the field"):
        taking(fixed(view(people, purposes=(RESEARCH,))), purpose=RESEARCH, stratify="app")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: view(p[1:]), "consents have changed"),
        (lambda p: view(p, switches=[switch("source", "keys")]), "a switch has changed"),
        (lambda p: view(p, switches=[switch("everything")]), "sw1"),
        (lambda p: view(p, fresh=False, why="no heartbeat"), "no heartbeat"),
    ],
)
def test_what_changes_meanwhile_refuses_the_take(planted, window_row, taking, tmp_path, change, message):
    """A withdrawal, a switch or a stale view, seen at any later look, leaves no file."""
    people = plant(planted, window_row)
    looks = 0

    def changing(at):
        def now():
            nonlocal looks
            looks += 1
            return view(people) if looks < at else change(people)

        return now

    taking(Gate(changing(100), lambda: NOW), "whole", windows=100)
    needed, before = looks, planted.store.query_rows("SELECT id FROM manifests").rows
    # By the first two looks it is chosen who may be in the sample at all.
    for at in range(3, needed + 1):
        looks = 0
        with pytest.raises(TidegateError, match=message):
            taking(Gate(changing(at), lambda: NOW), "refused", windows=100)
        assert left(tmp_path) == ["whole"]
        # The last look comes after the row: the record of a read stays, though nothing came of it.
        if at < needed:
            assert planted.store.query_rows("SELECT id FROM manifests").rows == before


def test_rows_deleted_meanwhile_refuse_the_take(planted, window_row, taking, tmp_path):
    """An erasure between choosing and reading leaves no sample of what was erased."""
    people = plant(planted, window_row)
    looks = 0

    def erasing():
        nonlocal looks
        looks += 1
        if looks == 2:  # the keys have been read, the windows not yet
            planted.store.command("DELETE FROM windows WHERE session = 'session-1'")
        return view(people)

    with pytest.raises(TidegateError, match="deleted"):
        taking(Gate(erasing, lambda: NOW), windows=100)
    assert left(tmp_path) == []


def test_a_doubled_row_is_taken_once(planted, window_row, taking):
    """A window that stands in the table twice is one window."""
    row = window_row("s", range(4), start=START)
    planted.windows([row, row])
    _, rows = taking(fixed(view(["a" * 32])))
    assert len(rows) == 1


def test_batches_and_files_hold_every_window_once(planted, window_row, taking, monkeypatch):
    """Pages, batches and files cut as small as can be give the same windows as one piece."""
    people = plant(planted, window_row)
    _, whole = taking(fixed(view(people)), "whole", windows=15)
    monkeypatch.setattr(sampling, "PAGE_WINDOWS", 3)
    monkeypatch.setattr(sample_files, "BATCH_WINDOWS", 4)
    monkeypatch.setattr(sample_files, "BATCH_EVENTS", 13)
    monkeypatch.setattr(sample_files, "FILE_BATCHES", 2)
    document, pieces = taking(fixed(view(people)), "pieces", windows=15)
    assert pieces == whole
    assert len(document["files"]) > 2
    assert sum(file["windows"] for file in document["files"]) == 15


def test_the_manifest_says_what_was_read_and_stands_in_the_table(planted, window_row, taking, tmp_path):
    """Purpose, policy, query, counts and digests; the table holds the same, and whose windows they are."""
    people = plant(planted, window_row)
    document, _ = taking(fixed(view(people)), windows=100)
    assert json.loads((tmp_path / "sample" / manifest.FILE).read_text()) == document
    assert document["purpose"] == TRAINING
    assert document["policy"] == {"name": "demo", "version": 3}
    assert document["counts"] == {"asked": 100, "candidates": 20, "windows": 20, "events": 130, "subjects": 4}
    assert len(document["schemas"]["minimised_block"]) == 16
    assert not any(person in json.dumps(document) for person in people)
    stored = planted.store.query_rows("SELECT * FROM manifests").dicts()[0]
    assert (stored["id"], stored["windows"], stored["pseudonyms"]) == (document["manifest"], 20, people)
    assert json.loads(stored["manifest"]) == document
    slots = {"first_slot": 0, "last_slot": NOW}
    again = planted.store.query_rows(document["query"]["choose"], {**document["query"]["parameters"], **slots})
    assert len(again.rows) == 20
    assert manifest.problems(tmp_path / "sample") == []


def test_verify_names_the_file_that_differs(planted, window_row, taking, tmp_path):
    """A changed byte, a missing file, an added one and a changed manifest are each named, with exit code 1."""
    people = plant(planted, window_row)
    taking(fixed(view(people)))
    folder = tmp_path / "sample"
    assert planted.run("sample", "verify", str(folder)).returncode == 0
    file = folder / "windows-00000.parquet"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    (folder / "more.parquet").write_bytes(b"")
    done = planted.run("sample", "verify", str(folder))
    assert done.returncode == 1
    assert "windows-00000.parquet: its sha256 differs" in done.stderr
    assert "more.parquet: not in the manifest" in done.stderr
    file.unlink()
    assert "windows-00000.parquet: not there" in planted.run("sample", "verify", str(folder)).stderr
    text = (folder / manifest.FILE).read_text()
    (folder / manifest.FILE).write_text(text.replace('"seed": 1', '"seed": 2'))
    assert "its digest does not fit" in planted.run("sample", "verify", str(folder)).stderr
    assert "is no sample" in planted.run("sample", "verify", str(tmp_path / "home")).stderr


def test_a_folder_with_something_in_it_is_left_alone(planted, window_row, taking, tmp_path):
    """A sample is never added to what is there; an empty folder is taken."""
    people = plant(planted, window_row)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(TidegateError, match="exists already"):
        taking(fixed(view(people)), "full")
    assert (tmp_path / "full" / "note").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert len(taking(fixed(view(people)), "empty")[1]) == 8


def test_without_a_broker_nothing_is_taken(planted, tmp_path):
    """No control state, no sample: the command says why, and leaves nothing."""
    done = planted.run(
        "sample", "take", "--purpose", TRAINING, "--windows", "5", "--seed", "1", "--out", str(tmp_path / "no")
    )
    assert done.returncode == 1
    assert "no sample is taken" in done.stderr
    assert "Traceback" not in done.stderr
    assert left(tmp_path) == []


@pytest.mark.parametrize("words", [("--windows", "0"), ("--since", "yesterday"), ("--stratify", "mood")])
def test_wrong_options_are_refused_before_anything_is_read(planted, tmp_path, words):
    """Wrong usage: exit 2."""
    base = {"--purpose": TRAINING, "--windows": "5", "--seed": "1", "--out": str(tmp_path / "no"), words[0]: words[1]}
    done = planted.run("sample", "take", *(word for pair in base.items() for word in pair))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
