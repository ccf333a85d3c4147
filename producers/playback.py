"""Plays sessions that were recorded or made up as if they happened now, side by side in time order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producers.batcher import Capture, Ints, Session
from producers.producer import Producer
from schemas.catalogue import KINDS

_FEW = 10
_SLICE_FEW_S = 0.05
_SLICE_MANY_S = 0.5
"""How finely time is cut. Feeding a session costs about 0.1 ms, so 200 people at 0.05 s would take 40 % of a core."""
_STEP_MS = 10_000
"""At full speed: how much of the sessions' own time is fed before the next session has its turn."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some events: `offsets` in ms since the session's start, never going back; columns and tables as in Capture."""

    offsets: Ints
    columns: Mapping[str, Ints]
    applications: tuple[str, ...] = ("",)
    labels: tuple[str, ...] = ("",)

    @classmethod
    def mark(cls, offset: int, kind: str) -> Chunk:
        """Return one event that has nothing but its kind."""
        return cls(np.array([offset], np.int64), {"kind": np.array([KINDS[kind]], np.int64)})


_PLACED = np.array([KINDS[name] for name in ("pointer_move", "pointer_button", "element")])


def place_turns(columns: dict[str, Ints], turns: NDArray[np.bool_], x: int, y: int) -> None:
    """Put turns of the wheel where the pointer was last; it stood at (x, y) before. `columns` are in time order."""
    placed = np.isin(columns["kind"], _PLACED)
    last = np.maximum.accumulate(np.where(placed, np.arange(1, len(placed) + 1), 0))
    for name, begun in (("x", x), ("y", y)):
        columns[name] = np.where(turns, np.concatenate(([begun], columns[name]))[last], columns[name])


@dataclass(frozen=True, slots=True)
class Script:
    """A session to be played: whose it is, and its events, made anew for every run of it."""

    subject: str
    screen: tuple[int, int]
    chunks: Callable[[], Iterator[Chunk]]


class Progress:
    """How far a play has come; the caller reads it while it runs, and may stop it."""

    def __init__(self) -> None:
        self.played_ms = 0.0
        """Of the sessions' own time."""
        self.running = 0
        self.stopped = False


class _Playing:
    """One session on its way. `began_ms` is the play's own time at which the session starts."""

    def __init__(self, script: Script, session: Session, began_ms: float) -> None:
        self.script = script
        self.session = session
        self.began_ms = began_ms
        self.over = False
        self._chunks = script.chunks()
        self._chunk: Chunk | None = next(self._chunks, None)
        self._done = 0

    def play(self, producer: Producer, until_ms: float, wall: Callable[[Ints], Ints]) -> None:
        """Feed the events up to the play's time `until_ms`; `wall` turns the play's times into epoch ms."""
        while self._chunk is not None:
            chunk = self._chunk
            stop = int(np.searchsorted(chunk.offsets, until_ms - self.began_ms, side="right"))
            if stop > self._done:
                rows = slice(self._done, stop)
                columns = {name: column[rows] for name, column in chunk.columns.items()}
                columns["time"] = wall(chunk.offsets[rows] + int(self.began_ms))
                producer.feed(self.session, Capture(columns, chunk.applications, chunk.labels))
                self._done = stop
            if stop < len(chunk.offsets):
                return
            self._chunk, self._done = next(self._chunks, None), 0
        self.over = True
        producer.finish(self.session)


def play(
    producer: Producer, scripts: Sequence[Script], *, speed: float | None, progress: Progress, loop: bool = False
) -> None:
    """Play the scripts side by side, `speed` times as fast as they happened; None: as fast as they are taken.

    Event times are those of the playing: it begins now, and gaps are divided
    by the speed. At full speed the events of a step are spread over the time
    that the step before took. With `loop`, a session that ends begins again as
    a new one, until `progress.stopped`.
    """
    playing = [_open(producer, script, 0.0) for script in scripts]
    began, began_ms = time.monotonic(), time.time() * 1000
    slice_s = _SLICE_FEW_S if len(scripts) <= _FEW else _SLICE_MANY_S
    played = wall_ms = 0.0
    while playing and not progress.stopped:
        if speed is not None:
            time.sleep(slice_s)
        elapsed = (time.monotonic() - began) * 1000
        until = played + _STEP_MS if speed is None else elapsed * speed
        slope = (elapsed - wall_ms) / (until - played)
        wall = _clock(began_ms + wall_ms, played, slope)
        for one in playing:
            one.play(producer, until, wall)
        playing = _next_round(producer, playing, until, loop=loop)
        played, wall_ms = until, elapsed
        progress.played_ms, progress.running = played, len(playing)
    for one in playing:
        producer.finish(one.session)


def _open(producer: Producer, script: Script, began_ms: float) -> _Playing:
    return _Playing(script, producer.open(script.subject, screen=script.screen), began_ms)


def _next_round(producer: Producer, playing: list[_Playing], now_ms: float, *, loop: bool) -> list[_Playing]:
    if not loop:
        return [one for one in playing if not one.over]
    return [_open(producer, one.script, now_ms) if one.over else one for one in playing]


def _clock(wall_ms: float, played_ms: float, slope: float) -> Callable[[Ints], Ints]:
    """Return the function that lays the play's own times over the wall clock."""

    def wall(times: Ints) -> Ints:
        return (wall_ms + (times - played_ms) * slope).astype(np.int64)

    return wall
