"""Numbering and books, on columns alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from infra.control.gate import Verdict
from producers.batcher import Capture, Session, join
from producers.permit import Permit, closed
from schemas.catalogue import KIND_NAMES, KINDS, POLICY_FIELDS

MOVE, KEY = KINDS["pointer_move"], KINDS["key"]
FIELDS = frozenset(POLICY_FIELDS)


def permitting(*refused: int, epoch: int = 0) -> Permit:
    """A verdict that refuses some kinds and lets the others keep all fields."""
    refusal = tuple("switch" if code in refused else "" for code in range(len(KIND_NAMES)))
    verdict = Verdict(frozenset({"p"}), FIELDS, refusal, (FIELDS,) * len(KIND_NAMES))
    return Permit(epoch, verdict, float("inf"))


def capture(kinds: list[int], start: int = 0) -> Capture:
    times = np.arange(start, start + len(kinds), dtype=np.int64)
    return Capture({"time": times, "kind": np.array(kinds, np.int64)})


def test_batches_are_numbered_without_gaps_and_never_longer_than_allowed() -> None:
    """150 events at 64 a batch: 64, 64, 22, numbered from 0."""
    session = Session("s", batch_events=64)
    session.add(capture([MOVE] * 150), permitting(), 0.0)
    batches = session.cut(permitting())
    assert [(b.header["first_number"], b.events) for b in batches] == [(0, 64), (64, 64), (128, 22)]
    assert [b.header["captured"] for b in batches] == [64, 128, 150]


def test_a_batch_cut_while_it_is_looked_at_is_not_due() -> None:
    """A source that cuts its own batches may do so between two looks of the ticker, which must live on."""

    class CutMeanwhile(Session):
        @property
        def pending(self) -> int:
            self.cut(permitting())
            return super().pending

    session = CutMeanwhile("s")
    session.add(capture([MOVE]), permitting(), 0.0)
    assert not session.due(0.1, 0.5)
    assert not session.due(10.0, 0.5)


def test_offsets_count_from_the_first_event_and_may_be_negative() -> None:
    """A clock that runs backwards gives a negative offset, and is not rewritten."""
    session = Session("s")
    times = np.array([5000, 4990, 5010])
    session.add(Capture({"time": times, "kind": np.full(3, MOVE)}), permitting(), 0.0)
    (batch,) = session.cut(permitting())
    assert batch.header["base_time"] == 5000
    assert batch.columns["offset_ms"].tolist() == [0, -10, 10]


def test_a_batch_names_only_the_applications_it_refers_to() -> None:
    """Tables are cut down with the events: nothing of another batch leaks into this one."""
    session = Session("s", batch_events=2)
    columns = {"time": np.arange(4), "kind": np.full(4, MOVE), "application": np.array([1, 0, 2, 2])}
    session.add(Capture(columns, ("", "a", "b")), permitting(), 0.0)
    one, two = session.cut(permitting())
    assert (one.header["applications"], one.columns["application"].tolist()) == (["", "a"], [1, 0])
    assert (two.header["applications"], two.columns["application"].tolist()) == (["", "b"], [1, 1])


def test_joining_keeps_every_event_with_its_own_application() -> None:
    """Two captures with different tables become one, row by row the same."""
    first = Capture({"time": np.array([1]), "kind": np.array([MOVE]), "application": np.array([1])}, ("", "x"))
    second = Capture({"time": np.array([2]), "kind": np.array([KEY]), "application": np.array([1])}, ("", "y"))
    both = join([first, second])
    assert [both.applications[i] for i in both.columns["application"]] == ["x", "y"]


def test_an_application_under_a_switch_is_not_captured() -> None:
    """The switch's application is dropped and counted, its neighbour passes."""
    verdict = Verdict(frozenset({"p"}), FIELDS, ("",) * len(KIND_NAMES), (FIELDS,) * len(KIND_NAMES), frozenset({"a"}))
    session = Session("s")
    columns = {"time": np.arange(2), "kind": np.full(2, MOVE), "application": np.array([1, 2])}
    session.add(Capture(columns, ("", "a", "b")), Permit(0, verdict, float("inf")), 0.0)
    (batch,) = session.cut(Permit(0, verdict, float("inf")))
    assert batch.header["applications"] == ["", "b"]
    assert session.dropped == {"switch": 1}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.sampled_from([MOVE, KEY]), max_size=40), st.integers(0, 2)),
        st.tuples(st.just("cut"), st.sampled_from([(), (KEY,), (MOVE, KEY)]), st.integers(0, 2)),
        st.tuples(st.just("refuse"), st.just(()), st.integers(0, 9)),
        st.tuples(st.just("stale"), st.just(()), st.integers(0, 2)),
    ),
    max_size=30,
)


@given(steps, st.integers(1, 20), st.sets(st.integers(0, 40)))
def test_the_books_balance_whatever_happens(plan: list[tuple[str, list[int], int]], size: int, lost: set[int]) -> None:
    """captured = events in delivered batches + dropped, in the final batch, for any order of events and refusals."""
    session = Session("s", batch_events=size)
    batches, given_ = [], 0
    for what, kinds, number in plan:
        if what == "add":
            given_ += len(kinds)
            session.add(capture(kinds), permitting(epoch=number), 0.0)
        elif what == "cut":
            batches += session.cut(permitting(*kinds, epoch=number))
        elif what == "stale":
            batches += session.cut(closed("stale", number))
        else:
            given_ += number
            session.refuse("buffer_full", number)
    batches += session.cut(permitting())
    delivered = 0
    for place, batch in enumerate(batches):
        session.hand_on()
        session.settle(batch.events, "undeliverable" if place in lost else "")
        delivered += 0 if place in lost else batch.events
    final = session.end(permitting(), 0).header
    assert final["captured"] == given_ == delivered + sum(final["dropped"].values())
    assert session.unsettled == 0
    following = 0
    for batch in batches:
        assert batch.header["first_number"] == following
        assert 0 < batch.events <= size
        following += batch.events


def test_what_a_caller_dates_before_the_release_is_not_captured() -> None:
    """Events buffered while a switch was engaged and handed over after its release are refused as of another epoch."""
    session = Session("s")
    session.add(capture([MOVE] * 10, start=95), replace(permitting(epoch=1), since=100), 0.0)
    (batch,) = session.cut(replace(permitting(epoch=1), since=100))
    assert (batch.events, batch.header["base_time"], batch.header["epoch"]) == (5, 100, 1)
    assert batch.header["captured"] == 10
    assert session.dropped == {"epoch": 5}
