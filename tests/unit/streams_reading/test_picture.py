"""Drawing a window."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import TidegateError
from streams.reading import picture


def sample(path, rows):
    """A file as a sample holds it: (session, kinds) a row, moves along a diagonal."""
    names = pa.dictionary(pa.int8(), pa.string())
    kinds = [list(kind) for _, kind in rows]
    columns = {
        "session": pa.array([session for session, _ in rows]),
        "window_start": pa.array([1_795_000_000_000] * len(rows), pa.timestamp("ms", "UTC")),
        "window_end": pa.array([1_795_000_010_000] * len(rows), pa.timestamp("ms", "UTC")),
        "screen_width": pa.array([1920] * len(rows), pa.int32()),
        "screen_height": pa.array([1080] * len(rows), pa.int32()),
        "events": pa.array([len(kind) for kind in kinds], pa.int32()),
        "offset_ms": pa.array([[100 * i for i in range(len(kind))] for kind in kinds]),
        "kind": pa.array(kinds, pa.list_(pa.string())).cast(pa.list_(names)),
        "application": pa.array([["", *["mail"] * (len(kind) - 1)] for kind in kinds]),
        "x": pa.array([[10 * i for i in range(len(kind))] for kind in kinds]),
        "y": pa.array([[10 * i for i in range(len(kind))] for kind in kinds]),
        "button": pa.array([["left" if k == "pointer_button" else "none" for k in kind] for kind in kinds]),
        "pressed": pa.array([[int(k == "pointer_button") for k in kind] for kind in kinds]),
        "wheel_y": pa.array([[int(k == "wheel") for k in kind] for kind in kinds]),
    }
    table = pa.table(columns).replace_schema_metadata({"tidegate.purpose": "assistant-training"})
    pq.write_table(table, path, row_group_size=2)
    return path


POINTER = ("focus", "pointer_move", "pointer_move", "pointer_button", "wheel", "key")


@pytest.fixture
def file(tmp_path):
    """Four windows in two row groups; the third is the most eventful."""
    rows = [("aa1", POINTER), ("aa2", ("key",)), ("bb1", (*POINTER, "key")), ("bb2", ("focus", "key"))]
    return sample(tmp_path / "windows-00000.parquet", rows)


def test_the_most_eventful_window_is_drawn_unless_told_otherwise(file):
    """By itself the one of most events; by row, that row in any row group; by session, the best of those."""
    assert picture.load(file).session == "bb1"
    assert [picture.load(file, row).session for row in range(4)] == ["aa1", "aa2", "bb1", "bb2"]
    assert picture.load(file, session="aa").session == "aa1"
    window = picture.load(file, 3)
    assert (window.purpose, window.length_ms, window.screen) == ("assistant-training", 10_000, (1920, 1080))
    assert window.events["kind"].tolist() == ["focus", "key"]


@pytest.mark.parametrize("row", [0, 1, 3])
def test_any_window_becomes_a_picture(file, tmp_path, row):
    """With a path or with a timeline alone: an SVG that is the same twice, and a PNG of some size."""
    window = picture.load(file, row)
    for name in ("one.svg", "two.svg", "one.png"):
        picture.draw(window, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_window_without_positions_gets_no_screen(file, tmp_path):
    """What a purpose may not use is not in the file, and the picture makes do with the timeline."""
    table = pq.read_table(file).drop_columns(["x", "y", "application", "screen_width", "screen_height"])
    pq.write_table(table, tmp_path / "less.parquet")
    picture.draw(picture.load(tmp_path / "less.parquet"), tmp_path / "less.svg")
    assert (tmp_path / "less.svg").stat().st_size < file.stat().st_size * 20


def test_one_position_alone_is_drawn(tmp_path):
    """A single pointer event has no stroke, and an unknown screen no size."""
    path = sample(tmp_path / "w.parquet", [("a", ("pointer_move",))])
    window = picture.load(path)
    picture.draw(type(window)(window.purpose, "a", 0, 10_000, (0, 0), window.events), tmp_path / "w.svg")
    assert (tmp_path / "w.svg").exists()


def test_matplotlib_keeps_no_global_state(file, tmp_path):
    """pyplot is never imported, so a notebook's own figures are left alone."""
    code = (
        "import sys; from pathlib import Path; from streams.reading import picture; "
        f"picture.draw(picture.load(Path({str(file)!r})), Path({str(tmp_path / 'w.svg')!r})); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("row", "session", "out", "message"),
    [
        (4, "", "w.svg", "no row 4: it has 4"),
        (-1, "", "w.svg", "no row -1"),
        (None, "zz", "w.svg", "no window of a session"),
        (None, "", "w.gif", "must end in .svg or .png"),
        (None, "", "nowhere/w.svg", "cannot be written"),
    ],
)
def test_wrong_wishes_are_named(file, tmp_path, row, session, out, message):
    """A row or session that is not there, another format, a folder that is not there."""
    with pytest.raises(TidegateError, match=message):
        picture.draw(picture.load(file, row, session), tmp_path / out)


def test_what_is_no_sample_is_refused(tmp_path):
    """A missing file, a folder, bytes that are no Parquet, and Parquet that is no sample."""
    (tmp_path / "bytes").write_bytes(b"not parquet at all")
    pq.write_table(pa.table({"a": np.arange(3)}), tmp_path / "other.parquet")
    empty = pq.read_table(sample(tmp_path / "e.parquet", [("a", ("key",))])).slice(0, 0)
    pq.write_table(empty, tmp_path / "empty.parquet")
    for name, message in (
        ("missing", "is not there"), ("bytes", "cannot be read as Parquet"), ("", "cannot be read as Parquet"),
        ("other.parquet", "is Parquet but no sample"), ("empty.parquet", "no window"),
    ):  # fmt: skip
        with pytest.raises(TidegateError, match=message):
            picture.load(tmp_path / name)
    with pytest.raises(TidegateError, match="has no row 0"):
        picture.load(tmp_path / "empty.parquet", 0)


def test_the_command_draws_and_refuses_in_words(file, tmp_path):
    """`sample show` writes the picture; bad input is one line and exit 1."""
    run = [sys.executable, "-m", "tidegate", "sample", "show"]
    out = tmp_path / "w.png"
    done = subprocess.run([*run, str(file), "--out", str(out)], capture_output=True, text=True, check=False)
    assert (done.returncode, out.exists()) == (0, True), done.stderr
    done = subprocess.run([*run, str(tmp_path / "no")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_numbers_of_a_manifest_are_sealed(tmp_path):
    """The digest covers every field and nothing but the content: key order and layout do not matter."""
    from streams.reading import manifest

    sealed = manifest.sealed({"b": 1, "a": "ü"})
    assert manifest.sealed({"a": "ü", "b": 1})["digest"] == sealed["digest"]
    assert manifest.sealed({"a": "ü", "b": 2})["digest"] != sealed["digest"]
    assert json.loads(manifest.text_of(sealed)) == sealed
