"""The main job on the real stack: events in, gated, minimised, windowed, sampled out."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import PURPOSE


def _simulate(stack, people: int, seed: int, minutes: str = "0.5", speed: str = "max") -> dict:
    return stack.json(
        "produce", "simulate", "--people", str(people), "--minutes", minutes, "--seed", str(seed), "--speed", speed
    )


def test_consented_events_become_rows_and_the_books_balance(stack):
    """What willing people do is stored, all of it is accounted for, and the totals agree with the producers' own."""
    subjects = stack.people(8, seed=11)
    stack.grant(subjects)
    _, before = stack.books()
    told = _simulate(stack, 8, seed=11)
    after = stack.settled(expect=before["captured"] + told["captured"])
    assert told["captured"] > 1000
    assert after["captured"] - before["captured"] == told["captured"]
    assert after["stored"] > before["stored"]


def test_who_consents_to_nothing_leaves_no_row(stack):
    """Default deny: without a consent every event is refused and counted, and no row appears."""
    stack.people(3, seed=12)
    before = stack.settled()
    told = _simulate(stack, 3, seed=12)
    after = stack.settled(expect=before["captured"] + told["captured"])
    assert told["captured"] > 0
    assert after["stored"] == before["stored"]
    assert after["captured"] - before["captured"] == told["captured"]


def test_no_label_and_no_position_off_the_grid_is_stored(stack):
    """The minimiser withholds labels and puts positions on the policy's grid, in the store's own files too."""
    subjects = stack.people(6, seed=13)
    stack.grant(subjects)
    _, before = stack.books()
    told = _simulate(stack, 6, seed=13)
    stack.settled(expect=before["captured"] + told["captured"])
    off = stack.json(
        "store", "query", "SELECT countIf(x % 8 != 0 OR y % 8 != 0) AS off, count() AS n FROM interactions"
    )
    assert int(off[0]["n"]) > 0
    assert int(off[0]["off"]) == 0
    columns = stack.json("store", "query", "SELECT name FROM system.columns WHERE database = currentDatabase()")
    assert not [row["name"] for row in columns if "label" in row["name"]]


def test_a_sample_is_the_same_for_the_same_seed_and_says_what_it_is(stack, tmp_path):
    """Two takes with one seed give the same files; the manifest names purpose, counts and digests."""
    subjects = stack.people(8, seed=14)
    stack.grant(subjects)
    _, before = stack.books()
    told = _simulate(stack, 8, seed=14)
    stack.settled(expect=before["captured"] + told["captured"])
    manifests = []
    for name in ("one", "two"):
        stack.ok(
            "sample", "take", "--purpose", PURPOSE, "--windows", "10", "--seed", "3", "--out", str(tmp_path / name)
        )
        manifests.append(json.loads((tmp_path / name / "manifest.json").read_text()))
    one, two = manifests
    assert one["purpose"] == PURPOSE
    assert [f["sha256"] for f in one["files"]] == [f["sha256"] for f in two["files"]]
    stack.ok("sample", "verify", str(tmp_path / "one"))
    picture = tmp_path / "window.png"
    stack.ok("sample", "show", str(next((tmp_path / "one").glob("*.parquet"))), "--out", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_switch_stops_and_a_refused_sample_leaves_no_file(stack, tmp_path):
    """While a switch covers everything nothing new is stored and no sample can be taken; releasing lets both go on."""
    subjects = stack.people(4, seed=15)
    stack.grant(subjects)
    stack.ok("switch", "engage", "--scope", "everything", "--reason", "test", "--id", "e2e")
    try:
        before = stack.settled()
        told = _simulate(stack, 4, seed=15)
        refused = stack.run(
            "sample", "take", "--purpose", PURPOSE, "--windows", "5", "--seed", "1", "--out", str(tmp_path / "no")
        )
        after = stack.settled(expect=before["captured"] + told["captured"])
    finally:
        stack.release("e2e")
    assert told["captured"] > 0
    assert after["stored"] == before["stored"]
    assert refused.returncode == 1
    assert "switch" in refused.stderr
    assert not (tmp_path / "no").exists()


def test_a_purpose_nobody_consented_to_gives_no_file(stack, tmp_path):
    """A sample for a purpose without consents is refused in words and leaves nothing behind."""
    done = stack.run(
        "sample",
        "take",
        "--purpose",
        "usability-research",
        "--windows",
        "5",
        "--seed",
        "1",
        "--out",
        str(tmp_path / "no"),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "no").exists()


def test_real_recordings_go_through(stack, recordings):
    """A real recording, replayed, is stored but for what is counted, and its books balance."""
    files = [str(path) for path in sorted(recordings.glob("user12/*.csv"))]
    subjects = stack.ok("produce", "replay", *files, "--subjects-only").split()
    stack.grant(subjects)
    _, before = stack.books()
    told = stack.json("produce", "replay", *files, "--speed", "max")
    after = stack.settled(expect=before["captured"] + told["captured"])
    # Two events a session are its start and its end.
    assert told["captured"] >= sum(len(Path(path).read_text().splitlines()) - 1 for path in files)
    assert after["captured"] - before["captured"] == told["captured"]
