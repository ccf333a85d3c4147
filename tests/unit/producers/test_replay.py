"""Recordings: what is a row, what is not, and what is said about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tidegate
from infra.errors import TidegateError
from producers.playback import Progress, Script, play
from producers.replay import files_of, read, to_csv
from producers.simulate import Person
from schemas.catalogue import BUTTONS, KINDS

ROOT = Path(__file__).parents[3]
HEADER = "record timestamp,client timestamp,button,state,x,y\n"
SUBJECT = "ab" * 16


def written(folder: Path, text: str) -> Path:
    path = folder / "user1" / "session_1.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_rows_become_events(tmp_path: Path) -> None:
    """Moves, drags, buttons and the wheel keep their meaning; times are ms since the start."""
    rows = (
        "0.0,0.0,NoButton,Move,1,2\n0.5,0.5,Left,Pressed,3,4\n0.6,0.6,NoButton,Drag,5,6\n"
        "0.7,0.7,Left,Released,5,6\n1.0,1.0,Scroll,Down,7,8\n1.2,1.2,Scroll,Up,7,8\n"
    )
    recording = read(written(tmp_path, HEADER + rows), "balabit")
    move, button, wheel = KINDS["pointer_move"], KINDS["pointer_button"], KINDS["wheel"]
    assert recording.offsets.tolist() == [0, 500, 600, 700, 1000, 1200]
    assert recording.columns["kind"].tolist() == [move, button, move, button, wheel, wheel]
    left = BUTTONS.index("left")
    assert recording.columns["button"].tolist() == [0, left, 0, left, 0, 0]
    assert recording.columns["pressed"].tolist() == [0, 1, 0, 0, 0, 0]
    assert recording.columns["wheel_y"].tolist() == [0, 0, 0, 0, -1, 1]
    assert recording.columns["x"].tolist() == [1, 3, 5, 5, 7, 7]
    assert recording.screen == (8, 9)


def test_a_turn_of_the_wheel_at_no_place_is_where_the_pointer_was(tmp_path: Path) -> None:
    """The public recordings say 0,0 of every turn; a corner that nobody went to must not be learnt from."""
    rows = "0.0,0,Scroll,Up,0,0\n0.1,0,NoButton,Move,5,6\n0.2,0,Scroll,Down,0,0\n0.3,0,NoButton,Move,0,0\n"
    recording = read(written(tmp_path, HEADER + rows + "0.4,0,Scroll,Down,0,0\n"), "balabit")
    assert recording.columns["x"].tolist() == [0, 5, 5, 0, 0]
    assert recording.columns["y"].tolist() == [0, 6, 6, 0, 0]


@pytest.mark.parametrize(
    "row",
    [
        "rubbish",
        "1.0,1.0,NoButton,Move,1",
        "1.0,1.0,NoButton,Move,1,2,3",
        "soon,1.0,NoButton,Move,1,2",
        "nan,1.0,NoButton,Move,1,2",
        "inf,1.0,NoButton,Move,1,2",
        "-1,1.0,NoButton,Move,1,2",
        "1.0,1.0,NoButton,Move,1.5,2",
        "1.0,1.0,NoButton,Move,99999999999999999999,2",
        "1.0,1.0,Elbow,Pressed,1,2",
        "1.0,1.0,Left,Move,1,2",
    ],
)
def test_what_is_no_row_is_named_by_its_line(tmp_path: Path, row: str) -> None:
    """A bad row is left out, its line number kept, and its neighbours stay."""
    good = "2.0,2.0,NoButton,Move,1,2\n"
    recording = read(written(tmp_path, f"{HEADER}{good}{row}\n{good}"), "balabit")
    assert (len(recording), recording.bad_rows) == (2, (3,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b,c\n1,2,3\n", "does not begin with the line"),
        (HEADER, "holds no event"),
        (HEADER + "rubbish\n", "holds no event, only 1 lines that are no rows"),
    ],
)
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """An empty or foreign file gives a clear error that names it."""
    path = written(tmp_path, text)
    with pytest.raises(TidegateError, match=message) as caught:
        read(path, "balabit")
    assert str(path) in str(caught.value)


def test_unreadable_files_and_formats_are_refused(tmp_path: Path) -> None:
    """A missing file, bytes that are no text, an unknown format (with the known ones)."""
    with pytest.raises(TidegateError, match="cannot be read"):
        read(tmp_path / "none.csv", "balabit")
    (tmp_path / "raw.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(TidegateError, match="not a CSV file"):
        read(tmp_path / "raw.csv", "balabit")
    with pytest.raises(TidegateError, match="Known: balabit"):
        read(tmp_path / "none.csv", "excel")
    folder = tmp_path / "user1"
    folder.mkdir()
    with pytest.raises(TidegateError, match=r"holds no \.csv file"):
        files_of([folder])


def test_time_that_runs_backwards_is_held(tmp_path: Path) -> None:
    """A stamp before its predecessor's is moved to it: order of rows is order of events."""
    rows = "1.0,0,NoButton,Move,1,2\n0.5,0,NoButton,Move,3,4\n2.0,0,NoButton,Move,5,6\n"
    assert read(written(tmp_path, HEADER + rows), "balabit").offsets.tolist() == [1000, 1000, 2000]


def test_a_limit_cuts_the_recording(tmp_path: Path) -> None:
    """Only so much of the recorded time is played."""
    rows = "".join(f"{second}.0,0,NoButton,Move,1,2\n" for second in range(10))
    assert len(read(written(tmp_path, HEADER + rows), "balabit", limit_s=4)) == 5


def test_the_real_recordings_have_no_bad_row(recordings: Path) -> None:
    """Every row of every real recording is understood."""
    files = files_of([recordings])
    rows = sum(len(path.read_text().splitlines()) - 1 for path in files)
    read_ = [read(path, "balabit") for path in files]
    assert sum(len(recording) for recording in read_) == rows > 40_000
    assert not any(recording.bad_rows for recording in read_)


@pytest.mark.parametrize(("name", "index", "seconds"), [("user1", 60, 30), ("user2", 105, 45), ("user3", 45, 60)])
def test_the_projects_own_recordings_come_from_the_simulator(name: str, index: int, seconds: int) -> None:
    """The committed files are what the pointer model writes for seed 2026, so they hold nobody's data."""
    text = (ROOT / "producers" / "recordings" / name / "session_0.csv").read_text()
    assert text == to_csv(Person(2026, index).chunks(1.0), seconds)


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 0.4), (4.0, 0.1), (None, 0.0)])
def test_event_times_are_those_of_the_replay(
    tmp_path: Path, make: Callable[..., Any], spooled: Callable[..., Any], speed: float | None, seconds: float
) -> None:
    """The replay begins now, its gaps are divided by the speed, and nothing is dated in the future."""
    rows = "".join(f"{tenth / 10},0,NoButton,Move,{tenth},2\n" for tenth in range(5))
    recording = read(written(tmp_path, HEADER + rows), "balabit")
    producer = make(when_full="wait")
    before = time.time_ns() // 1_000_000
    play(producer, [Script(SUBJECT, (9, 9), recording.chunks)], speed=speed, progress=Progress())
    after = time.time_ns() // 1_000_000
    assert producer.close(3).captured == 7
    got = spooled()
    bases = [h["base_time"] for h, n in zip(got.headers, got.counts["event"].tolist(), strict=True) for _ in range(n)]
    times = [base + offset for base, offset in zip(bases, got.columns["offset_ms"].tolist(), strict=True)]
    assert got.columns["x"].tolist()[1:-1] == [0, 1, 2, 3, 4]
    assert times == sorted(times)
    assert before <= times[0]
    assert times[-1] <= after
    if speed is not None:
        assert abs((times[-1] - times[0]) / 1000 - seconds) < 0.005


def run(*words: str, home: Path) -> Any:
    environment = {"TIDEGATE_HOME": str(home), "TIDEGATE_KAFKA": "", "TIDEGATE_REGISTRY": ""}
    return CliRunner().invoke(tidegate.app, ["produce", *words], env=environment)


def test_the_command_says_whose_recordings_they_are(tmp_path: Path) -> None:
    """The folder's name stands for the subject, whose key is made once: the same identifier every time."""
    path = written(tmp_path, HEADER + "0.0,0,NoButton,Move,1,2\n")
    one, two = (run("replay", str(path), str(path), "--subjects-only", home=tmp_path) for _ in range(2))
    assert one.exit_code == 0
    assert one.output == two.output
    assert len(one.output.split()) == 1
    assert (tmp_path / "subjects" / "user1.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("replay", "none.csv"), 1, "cannot be read"),
        (("replay", "{good}", "--format", "excel"), 2, "Known: balabit"),
        (("replay", "{good}", "--speed", "fast"), 2, "neither a number"),
        (("replay", "{good}", "--speed", "0"), 2, "neither a number"),
        (("replay", "{good}", "none.csv", "--strict"), 1, "cannot be read"),
        (("replay", "{good}"), 1, "no address for kafka"),
        (("simulate",), 1, "no address for kafka"),
    ],
)
def test_bad_input_gives_a_clear_error(tmp_path: Path, words: tuple[str, ...], code: int, message: str) -> None:
    """What is wrong, where, and what to do; with its exit code and no traceback."""
    good = written(tmp_path, HEADER + "0.0,0,NoButton,Move,1,2\n")
    result = run(*(word.format(good=good) for word in words), home=tmp_path)
    assert isinstance(result.exception, TidegateError)
    assert result.exception.code == code
    assert message in str(result.exception)


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    """The others' subjects are printed, and the bad file is named on stderr."""
    good = written(tmp_path, HEADER + "0.0,0,NoButton,Move,1,2\n")
    result = run("replay", str(good), "none.csv", "--subjects-only", home=tmp_path)
    assert result.exit_code == 0
    assert len(result.stdout.split()) == 1
    assert "none.csv cannot be read" in result.stderr
