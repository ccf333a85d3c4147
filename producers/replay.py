"""Replays recorded mouse sessions as if they happened now.

The one format so far is that of the Balabit Mouse Dynamics Challenge: a CSV
with record timestamp (s since the session began, at the monitor), client
timestamp, button, state, x, y. A file is a session; its folder names the
subject.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra.errors import TidegateError
from producers.batcher import Ints
from producers.playback import Chunk, place_turns
from schemas.catalogue import BUTTONS, KINDS

FORMATS = ("balabit",)
_COLUMNS = ("record timestamp", "client timestamp", "button", "state", "x", "y")
_MOVE, _BUTTON, _WHEEL = KINDS["pointer_move"], KINDS["pointer_button"], KINDS["wheel"]

# (button, state) -> kind, button code, pressed, wheel notches. A drag is a move while a button is down.
_MEANING: Mapping[tuple[str, str], tuple[int, int, int, int]] = {
    ("NoButton", "Move"): (_MOVE, 0, 0, 0),
    ("NoButton", "Drag"): (_MOVE, 0, 0, 0),
    ("Scroll", "Up"): (_WHEEL, 0, 0, 1),
    ("Scroll", "Down"): (_WHEEL, 0, 0, -1),
    **{
        (name.capitalize(), state): (_BUTTON, code, int(state == "Pressed"), 0)
        for code, name in enumerate(BUTTONS)
        if name in ("left", "right", "middle")
        for state in ("Pressed", "Released")
    },
}
_FURTHEST = 1 << 24
_LONGEST_S = 7 * 24 * 3600.0
"""No session lasts longer than a week; a time stamp beyond it is damage."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One recorded session: times in ms since its start, never going back, and event columns of the same length."""

    path: Path
    offsets: Ints
    columns: Mapping[str, Ints]
    bad_rows: tuple[int, ...] = ()
    """Line numbers of what was no row."""

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def screen(self) -> tuple[int, int]:
        """The smallest screen that holds all positions, the format not telling its size."""
        return int(self.columns["x"].max()) + 1, int(self.columns["y"].max()) + 1

    def chunks(self) -> Iterator[Chunk]:
        """Return its events, between a session's start and its end."""
        yield Chunk.mark(0, "session_start")
        yield Chunk(self.offsets, self.columns)
        yield Chunk.mark(int(self.offsets[-1]), "session_end")


def read(path: Path, form: str, *, limit_s: float = math.inf) -> Recording:
    """Read one recording, up to `limit_s` seconds of its own time.

    A row that is not a row is left out, and its line number kept. Raises
    TidegateError for an unknown format, a file that is missing or unreadable,
    one that is not of the format, and one without any row.
    """
    if form not in FORMATS:
        raise TidegateError(f"unknown format {form!r}. Known: {', '.join(FORMATS)}.", code=2)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return _recording(path, csv.reader(file), limit_s)
    except OSError as error:
        raise TidegateError(f"{path} cannot be read ({error.strerror}). Check the path.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TidegateError(f"{path} is not a CSV file of the format {form}.") from error


def _recording(path: Path, lines: Iterator[list[str]], limit_s: float) -> Recording:
    header = next(lines, None)
    if header is None:
        raise TidegateError(f"{path} is empty. A recording begins with the line: {','.join(_COLUMNS)}")
    if tuple(name.strip() for name in header) != _COLUMNS:
        raise TidegateError(f"{path} does not begin with the line: {','.join(_COLUMNS)}")
    rows: list[tuple[int, ...]] = []
    bad: list[int] = []
    latest = 0
    for number, fields in enumerate(lines, start=2):
        row = _row(fields)
        if row is None:
            bad.append(number)
        elif row[0] > limit_s * 1000:
            break
        else:
            latest = max(latest, row[0])
            rows.append((latest, *row[1:]))
    if not rows:
        raise TidegateError(f"{path} holds no event{f', only {len(bad)} lines that are no rows' if bad else ''}.")
    table = np.array(rows, np.int64).T
    names = ("kind", "button", "pressed", "wheel_y", "x", "y")
    columns = dict(zip(names, table[1:], strict=True))
    # The public recordings say 0,0 of every turn of the wheel: they do not know where it was.
    unknown = (columns["kind"] == _WHEEL) & (columns["x"] == 0) & (columns["y"] == 0)
    place_turns(columns, unknown, 0, 0)
    return Recording(path, table[0], columns, tuple(bad))


def _row(fields: Sequence[str]) -> tuple[int, ...] | None:
    """Return ms, kind, button, pressed, notches, x and y; None for what is no row."""
    if len(fields) != len(_COLUMNS):
        return None
    meaning = _MEANING.get((fields[2], fields[3]))
    try:
        seconds, x, y = float(fields[0]), int(fields[4]), int(fields[5])
    except ValueError:
        return None
    if meaning is None or not 0 <= seconds <= _LONGEST_S or max(abs(x), abs(y)) >= _FURTHEST:
        return None
    return (round(seconds * 1000), *meaning, x, y)


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files meant: folders stand for the CSV files under them, sorted."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
        if not inside:
            raise TidegateError(f"{path} holds no .csv file. Name recordings, or a folder that holds some.")
        found += inside
    return found


def to_csv(chunks: Iterable[Chunk], seconds: float) -> str:
    """Write a session's pointer and wheel events, up to `seconds`, in the format balabit.

    What the format cannot say (keys, applications, elements) is left out.
    """
    lines = [",".join(_COLUMNS)]
    # Reversed, so that a move without a button is written as Move and not as Drag.
    words = {meaning: names for names, meaning in reversed(list(_MEANING.items()))}
    for chunk in chunks:
        inside = chunk.offsets <= seconds * 1000
        zeros = np.zeros(len(chunk.offsets), np.int64)
        names = ("kind", "button", "pressed", "wheel_y", "x", "y")
        table = np.stack([chunk.offsets, *(chunk.columns.get(name, zeros) for name in names)])[:, inside]
        for offset, kind, button, pressed, wheel, x, y in table.T.tolist():
            said = words.get((kind, button, pressed, wheel))
            if said is not None:
                lines.append(f"{offset / 1000},{offset / 1000},{said[0]},{said[1]},{x},{y}")
    return "\n".join(lines) + "\n"
