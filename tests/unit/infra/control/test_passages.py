"""An acknowledgement means that it is over: what is settled while something is still on its way."""

from __future__ import annotations

import threading
import time

import pytest

from infra.control.passages import Passages
from infra.control.state import ControlState, View


class Gate:
    """A view that the test moves on."""

    def __init__(self) -> None:
        self.moved(log="1", switch=0)

    def moved(self, log: str = "1", **applied: int) -> View:
        self.view = View(ControlState(log, applied={f"control.{topic}": at for topic, at in applied.items()}), True)
        return self.view

    def __call__(self) -> View:
        return self.view


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_with_nothing_under_way_all_that_is_applied_is_settled(gate):
    """The latest view's own offsets, with the view."""
    gate.moved(switch=3, policy=1)
    assert Passages(gate).settled() == (gate.view, {"control.switch": 3, "control.policy": 1})


def test_what_was_judged_by_less_holds_the_offset_back_until_it_leaves(gate):
    """A switch is acknowledged when the last passage that was entered before it has left, in whatever order they do."""
    passages = Passages(gate)
    first = passages.enter()
    second_view = gate.moved(switch=1)
    second = passages.enter()
    gate.moved(switch=2)
    assert passages.settled()[1] == {"control.switch": 0}
    first.leave()
    assert passages.settled()[1] == {"control.switch": 1}
    assert second.view is second_view, "a passage goes by the view it was entered with"
    second.leave()
    assert passages.settled()[1] == {"control.switch": 2}


def test_one_that_left_early_settles_nothing_for_another(gate):
    """Two passages by the same view are two, and leaving one of them twice is leaving once."""
    passages = Passages(gate)
    first, second = passages.enter(), passages.enter()
    gate.moved(switch=1)
    first.leave()
    first.leave()
    assert passages.settled()[1] == {"control.switch": 0}
    second.leave()
    assert passages.settled()[1] == {"control.switch": 1}


def test_a_topic_that_was_not_known_before_is_not_settled(gate):
    """What a passage had read nothing of counts as -1."""
    passages = Passages(gate)
    with passages.enter():
        gate.moved(switch=0, consent=4)
        assert passages.settled()[1] == {"control.switch": 0, "control.consent": -1}
    assert passages.settled()[1] == {"control.switch": 0, "control.consent": 4}


def test_what_was_judged_by_another_log_settles_nothing(gate):
    """Its offsets are of other records."""
    passages = Passages(gate)
    with passages.enter():
        gate.moved(log="2", switch=0)
        assert passages.settled()[1] == {"control.switch": -1}
    assert passages.settled()[1] == {"control.switch": 0}


def test_a_passage_is_left_when_its_work_fails(gate):
    """As a context manager, however the block ends."""
    passages = Passages(gate)
    with pytest.raises(RuntimeError), passages.enter():
        raise RuntimeError
    gate.moved(switch=1)
    assert passages.settled()[1] == {"control.switch": 1}


def test_leaving_and_nudging_end_a_wait(gate):
    """Also where they came first, so that no change is slept through; otherwise it lasts until its time is over."""
    passages = Passages(gate)
    passages.enter().leave()
    started = time.monotonic()
    passages.wait(30)
    passages.nudge()
    passages.wait(30)
    later = threading.Timer(0.02, passages.enter().leave)
    later.start()
    passages.wait(30)
    assert time.monotonic() - started < 10
    later.join()
    started = time.monotonic()
    passages.wait(0.03)
    assert time.monotonic() - started >= 0.02


def test_no_passage_slips_in_under_a_view_that_was_settled(gate):
    """With threads that enter and a view that moves on: after an offset was settled, nobody judges by less."""
    passages, settled = Passages(gate), -1
    seen: list[str] = []
    done = threading.Event()

    def judge() -> None:
        while not done.is_set():
            before = settled
            with passages.enter() as passage:
                if passage.view.state.applied["control.switch"] < before:
                    seen.append("judged by less than was settled before")

    threads = [threading.Thread(target=judge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for offset in range(1, 300):
        gate.moved(switch=offset)
        settled = passages.settled()[1]["control.switch"]
    done.set()
    for thread in threads:
        thread.join()
    assert not seen
    assert passages.settled()[1] == {"control.switch": 299}


def test_consents_count_as_far_as_the_view_of_a_passage_was_translated():
    """A gate of pseudonyms that still stores by an earlier translation has not gone by the later withdrawal."""
    views = [
        View(ControlState("1", mode="standing", applied={"control.standing": n}, consent_reached=n), True)
        for n in (3, 7)
    ]
    now = [views[0]]
    passages = Passages(lambda: now[0])
    passage = passages.enter()
    now[0] = views[1]
    assert passages.settled()[1] == {"control.standing": 3, "control.consent": 3}
    passage.leave()
    assert passages.settled()[1] == {"control.standing": 7, "control.consent": 7}
