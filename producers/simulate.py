"""A synthetic workforce: plausible, heavy-tailed, and the same for the same seed.

Nobody is modelled on anybody. A person has an activity drawn from a log-normal
distribution (few are very active) and alternates bursts of work with Pareto
pauses. The bursts:

* pointer strokes between targets, along a minimum-jerk path (Flash and Hogan
  1985, "The coordination of arm movements", J. Neurosci. 5(7)) with jitter,
  sampled every 16 ms, often ended by a click and the use of an element;
* typing: key classes with log-normal gaps and hold times;
* turns of the wheel; changes of the application in front, by Zipf's law.

Everything is generated as columns, a minute of one person at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from producers.batcher import Ints
from producers.playback import Chunk, Script, place_turns
from schemas.catalogue import BUTTONS, KEY_CLASSES, KINDS, ROLES

Floats = NDArray[np.float64]

MINUTE_MS = 60_000
_PROGRAMS = """
    browser mail editor terminal spreadsheet chat calendar wiki tickets files design crm erp video notes reader
    slides database monitoring music photos payroll travel expenses helpdesk forms survey maps vpn settings
"""
APPLICATIONS = ("", *(f"app.{name}" for name in _PROGRAMS.split()))
"""Application identifiers, the most used first."""
LABELS = ("", *(f"{what} {who}" for what in ("Payslip of", "Reply to", "Sick note of", "Call") for who in (
    "Mira Okonjo", "Teodor Lindqvist", "Aylin Castellanos", "Bartholomew Nkemelu", "Yuki Abramowicz",
)))  # fmt: skip
"""Labels that look personal and name nobody; a test that finds one of them downstream has found a leak."""
SCREENS = ((1920, 1080), (2560, 1440), (1366, 768))

_BURSTS = 240
"""Most bursts a minute: more than fit, with the shortest pauses and strokes."""
_STROKE, _TYPE, _WHEEL, _FOCUS = range(4)
_BURST_SHARES = (0.58, 0.22, 0.12, 0.08)
_SAMPLE_MS = 16
_KEY_SHARES = {"letter": 0.68, "space": 0.14, "punctuation": 0.04, "digit": 0.04, "editing": 0.06, "enter": 0.02,
               "navigation": 0.02}  # fmt: skip
_EMPTY: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Person:
    """One synthetic person of a workforce, decided by seed and index alone."""

    seed: int
    index: int

    @property
    def key(self) -> bytes:
        """The 32 bytes that stand for the person's key file."""
        return hashlib.blake2b(f"{self.seed}/{self.index}".encode(), digest_size=32, person=b"tidegate-sim").digest()

    def chunks(self, minutes: float) -> Iterator[Chunk]:
        """Return the person's session of that length: start, a chunk a minute, end."""
        traits = self._random(0)
        activity = float(np.clip(traits.lognormal(0.0, 1.0), 0.05, 12.0))
        favourites = traits.permutation(len(APPLICATIONS) - 1) + 1 if traits.random() < 0.3 else None
        begins, ends = int(traits.integers(0, 3000)), int(minutes * MINUTE_MS)
        in_front = min(int(traits.zipf(1.6)), len(APPLICATIONS) - 1)
        hand = _Hand(self.screen, self.screen[0] / 2, self.screen[1] / 2, in_front)
        yield Chunk.mark(begins, "session_start")
        for minute in range(-(-ends // MINUTE_MS)):
            chunk = _minute(self._random(minute + 1), activity, hand, favourites)
            start = minute * MINUTE_MS
            inside = (chunk.offsets + start > begins) & (chunk.offsets + start < ends)
            columns = {name: column[inside] for name, column in chunk.columns.items()}
            yield Chunk(chunk.offsets[inside] + start, columns, chunk.applications, chunk.labels)
        yield Chunk.mark(ends, "session_end")

    @property
    def screen(self) -> tuple[int, int]:
        """Width and height of the person's screen."""
        return SCREENS[self.index % len(SCREENS)]

    def _random(self, part: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(self.index, part))))


def workforce(people: int, minutes: float, seed: int) -> list[Script]:
    """Return the sessions of `people` people, to be played."""
    from infra.control.identity import subject_of

    persons = [Person(seed, index) for index in range(people)]
    return [Script(subject_of(p.key), p.screen, partial(p.chunks, minutes)) for p in persons]


@dataclass(slots=True)
class _Hand:
    """What goes on from one minute to the next: where the pointer is, which application is in front."""

    screen: tuple[int, int]
    x: float
    y: float
    application: int


class _Sheet:
    """Collects the columns of one minute, burst by kind of burst."""

    def __init__(self) -> None:
        self._parts: list[tuple[Floats, dict[str, Ints]]] = []

    def add(self, times: Floats, kind: str, **columns: Ints) -> None:
        self._parts.append((times, {"kind": np.full(len(times), KINDS[kind], np.int64), **columns}))

    def finish(self) -> tuple[Ints, dict[str, Ints]]:
        times = np.concatenate([part[0] for part in self._parts]).astype(np.int64)
        # Stable: events of the same millisecond keep the order they were made in.
        order = np.argsort(times, kind="stable")
        names = sorted({name for _, columns in self._parts for name in columns})
        joined = {
            name: np.concatenate([part.get(name, np.zeros(len(t), np.int64)) for t, part in self._parts])[order]
            for name in names
        }
        return times[order], joined


def _minute(rng: np.random.Generator, activity: float, hand: _Hand, favourites: Ints | None) -> Chunk:
    kinds = rng.choice(4, size=_BURSTS, p=_BURST_SHARES)
    lengths = _lengths(rng, kinds)
    # Pareto with index 1.3: most pauses are short, some last for the rest of the minute.
    pauses = (rng.pareto(1.3, _BURSTS) + 0.2) * 1500 / activity
    begins = np.cumsum(pauses) + np.concatenate(([0.0], np.cumsum(lengths)[:-1]))
    fits = begins + lengths < MINUTE_MS - 1000
    kinds, begins, lengths = kinds[fits], begins[fits], lengths[fits]
    sheet = _Sheet()
    stood = int(hand.x), int(hand.y)
    _strokes(rng, sheet, begins[kinds == _STROKE], lengths[kinds == _STROKE], hand)
    _typing(rng, sheet, begins[kinds == _TYPE], lengths[kinds == _TYPE])
    _wheels(rng, sheet, begins[kinds == _WHEEL])
    switches = begins[kinds == _FOCUS]
    chosen = np.minimum(rng.zipf(1.6, len(switches)), len(APPLICATIONS) - 1)
    if favourites is not None:
        chosen = favourites[chosen - 1]
    sheet.add(switches, "focus")
    times, columns = sheet.finish()
    place_turns(columns, columns["kind"] == KINDS["wheel"], *stood)
    in_front = np.concatenate(([hand.application], chosen))
    columns["application"] = in_front[np.searchsorted(switches.astype(np.int64), times, side="right")]
    hand.application = int(in_front[-1])
    return _paused(rng, Chunk(times, columns, APPLICATIONS, LABELS))


def _lengths(rng: np.random.Generator, kinds: Ints) -> Floats:
    strokes = np.clip(rng.lognormal(6.0, 0.5, len(kinds)), 80, 3000)
    typing = np.clip(rng.lognormal(7.6, 0.9, len(kinds)), 200, 20_000)
    return np.choose(kinds, [strokes + 250, typing, np.full(len(kinds), 700.0), np.full(len(kinds), 50.0)])


def _strokes(rng: np.random.Generator, sheet: _Sheet, begins: Floats, lengths: Floats, hand: _Hand) -> None:
    count = len(begins)
    width, height = hand.screen
    to_x, to_y = rng.uniform(0, width, count), rng.uniform(0, height, count)
    from_x, from_y = np.concatenate(([hand.x], to_x))[:count], np.concatenate(([hand.y], to_y))[:count]
    if count:
        hand.x, hand.y = float(to_x[-1]), float(to_y[-1])
    moving = lengths - 250
    samples = (moving // _SAMPLE_MS).astype(np.int64)
    stroke = np.repeat(np.arange(count), samples)
    step = np.arange(len(stroke)) - np.repeat(np.cumsum(samples) - samples, samples) + 1
    s = step / samples[stroke]
    path = 10 * s**3 - 15 * s**4 + 6 * s**5
    jitter = rng.normal(0, 1.5, (2, len(stroke))) * (1 - s)
    x = from_x[stroke] + (to_x - from_x)[stroke] * path + jitter[0]
    y = from_y[stroke] + (to_y - from_y)[stroke] * path + jitter[1]
    position = {"x": _pixels(x, width), "y": _pixels(y, height)}
    sheet.add(begins[stroke] + step * _SAMPLE_MS, "pointer_move", **position)
    _clicks(rng, sheet, begins + moving, _pixels(to_x, width), _pixels(to_y, height))


def _clicks(rng: np.random.Generator, sheet: _Sheet, ends: Floats, x: Ints, y: Ints) -> None:
    clicks = rng.random(len(ends)) < 0.6
    down = ends[clicks] + rng.uniform(30, 80, int(clicks.sum()))
    up = down + np.clip(rng.lognormal(4.4, 0.3, len(down)), 30, 150)
    names = rng.choice(3, size=len(down), p=(0.92, 0.07, 0.01))
    button = np.array([BUTTONS.index(name) for name in ("left", "right", "middle")])[names]
    place = {"button": button, "x": x[clicks], "y": y[clicks]}
    sheet.add(down, "pointer_button", pressed=np.ones(len(down), np.int64), **place)
    sheet.add(up, "pointer_button", **place)
    used = rng.random(len(down)) < 0.5
    count = int(used.sum())
    role, label = rng.integers(1, len(ROLES), count), rng.integers(0, len(LABELS), count)
    sheet.add(up[used], "element", role=role, label=label, x=place["x"][used], y=place["y"][used])


def _typing(rng: np.random.Generator, sheet: _Sheet, begins: Floats, lengths: Floats) -> None:
    # Median gap 150 ms, some 80 words a minute within a burst.
    keys = (lengths // 170).astype(np.int64)
    burst = np.repeat(np.arange(len(keys)), keys)
    gaps = np.clip(rng.lognormal(5.0, 0.45, len(burst)), 25, 2000)
    since = np.cumsum(gaps)
    first = np.cumsum(keys) - keys
    down = begins[burst] + since - (since[first] if len(burst) else _EMPTY)[burst]
    classes = np.array([KEY_CLASSES.index(name) for name in _KEY_SHARES])
    key_class = classes[rng.choice(len(classes), size=len(burst), p=list(_KEY_SHARES.values()))]
    held = np.clip(rng.lognormal(4.4, 0.3, len(burst)), 20, 400)
    sheet.add(down, "key", key_class=key_class, pressed=np.ones(len(burst), np.int64))
    sheet.add(down + held, "key", key_class=key_class)


def _wheels(rng: np.random.Generator, sheet: _Sheet, begins: Floats) -> None:
    notches = np.minimum(rng.geometric(0.25, len(begins)), 15)
    turn = np.repeat(np.arange(len(begins)), notches)
    step = np.arange(len(turn)) - np.repeat(np.cumsum(notches) - notches, notches)
    direction = np.where(rng.random(len(begins)) < 0.8, -1, 1)[turn]
    sheet.add(begins[turn] + step * 45, "wheel", wheel_y=direction)


def _pixels(positions: Floats, size: int) -> Ints:
    return np.clip(np.rint(positions), 0, size - 1).astype(np.int64)


def _paused(rng: np.random.Generator, chunk: Chunk) -> Chunk:
    """In one minute of twenty the person pauses the recording for a while: nothing is captured in between."""
    if rng.random() >= 0.05:
        return chunk
    start, stop = np.sort(rng.integers(5_000, 55_000, 2)).tolist()
    outside = (chunk.offsets < start) | (chunk.offsets > stop)
    times = np.concatenate((chunk.offsets[outside], [start, stop]))
    order = np.argsort(times, kind="stable")
    marks = {"kind": np.array([KINDS["session_pause"], KINDS["session_resume"]])}
    columns = {
        name: np.concatenate((column[outside], marks.get(name, np.zeros(2, np.int64))))[order]
        for name, column in chunk.columns.items()
    }
    return Chunk(times[order], columns, chunk.applications, chunk.labels)
