"""The synthetic workforce: the same for the same seed, heavy-tailed, and plausible."""

from __future__ import annotations

import hashlib

import numpy as np

from producers.simulate import APPLICATIONS, LABELS, SCREENS, Person, workforce
from schemas.catalogue import EVENT_COLUMNS, KIND_NAMES, KINDS


def digest(person: Person, minutes: float) -> str:
    told = hashlib.sha256()
    for chunk in person.chunks(minutes):
        told.update(chunk.offsets.tobytes())
        for name in sorted(chunk.columns):
            told.update(name.encode() + chunk.columns[name].tobytes())
    return told.hexdigest()


def test_the_same_seed_makes_the_same_people() -> None:
    """Byte for byte the same columns and identifiers; another seed makes others."""
    assert [digest(Person(3, i), 2.5) for i in range(20)] == [digest(Person(3, i), 2.5) for i in range(20)]
    assert digest(Person(3, 0), 2.5) != digest(Person(4, 0), 2.5)
    one, two, other = (([s.subject for s in workforce(50, 1, seed)]) for seed in (3, 3, 4))
    assert one == two
    assert len(set(one)) == 50
    assert not set(one) & set(other)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    """The first minute does not depend on how many follow."""
    short, long_ = list(Person(3, 7).chunks(1.0)), list(Person(3, 7).chunks(3.0))
    assert np.array_equal(short[1].offsets, long_[1].offsets)


def test_every_event_is_a_possible_one() -> None:
    """Times never go back, positions are on the screen, indexes are in their tables, columns are known."""
    for index in range(30):
        person = Person(11, index)
        width, height = person.screen
        assert person.screen in SCREENS
        chunks = list(person.chunks(2.0))
        times = np.concatenate([chunk.offsets for chunk in chunks])
        assert (np.diff(times) >= 0).all()
        assert times[0] >= 0
        assert times[-1] == 120_000
        assert [chunk.columns["kind"].tolist() for chunk in (chunks[0], chunks[-1])] == [
            [KINDS["session_start"]], [KINDS["session_end"]]
        ]  # fmt: skip
        for chunk in chunks[1:-1]:
            assert set(chunk.columns) <= set(EVENT_COLUMNS)
            assert ((chunk.columns["x"] >= 0) & (chunk.columns["x"] < width)).all()
            assert ((chunk.columns["y"] >= 0) & (chunk.columns["y"] < height)).all()
            assert chunk.columns["application"].max(initial=0) < len(APPLICATIONS)
            assert chunk.columns["label"].max(initial=0) < len(LABELS)


def test_the_wheel_turns_where_the_pointer_is() -> None:
    """Within a minute, a turn's position is that of the pointer's event before it, but for minutes with a pause."""
    turns = 0
    for index in range(10):
        for chunk in Person(11, index).chunks(2.0):
            if KINDS["session_pause"] in chunk.columns["kind"]:
                continue
            placed = np.isin(chunk.columns["kind"], [KINDS["pointer_move"], KINDS["pointer_button"], KINDS["element"]])
            for turn in np.flatnonzero(chunk.columns["kind"] == KINDS["wheel"]):
                before = np.flatnonzero(placed[:turn])
                if len(before):
                    turns += 1
                    assert [chunk.columns[name][turn] for name in "xy"] == [
                        chunk.columns[name][before[-1]] for name in "xy"
                    ]
    assert turns > 20


def test_all_kinds_happen_and_few_people_do_most() -> None:
    """Every kind of event but `unknown` is there; the busiest tenth makes over a quarter of the events."""
    events, kinds = [], set()
    for index in range(200):
        chunks = list(Person(5, index).chunks(1.0))
        events.append(sum(len(chunk.offsets) for chunk in chunks))
        kinds.update(*(chunk.columns["kind"].tolist() for chunk in chunks))
    assert kinds == set(range(1, len(KIND_NAMES)))
    events.sort(reverse=True)
    assert sum(events[:20]) > 0.2 * sum(events)
    assert np.median(events) < np.mean(events)
