"""From numbers to a verdict."""

from __future__ import annotations

import pytest

from streams.reading.books import BALANCED, IN_FLIGHT, UNBALANCED, Books, Finding, Totals
from streams.reading.books_cli import POLL_S, QUIET_S, settle

GOOD = Totals(sessions=2, captured=10, stored=6, late=1, dropped={"producer": {"stale": 3}})


@pytest.mark.parametrize(
    ("totals", "code"),
    [
        (Totals(), BALANCED),
        (GOOD, BALANCED),
        (Totals(captured=10, stored=6, in_flight=4), IN_FLIGHT),
        (Totals(captured=10, stored=6, in_flight=3, lost=1, unbalanced=1), UNBALANCED),
        (Totals(captured=10, stored=12, twice=2, unbalanced=1), UNBALANCED),
        (Totals(captured=10, stored=10, unbalanced=1), UNBALANCED),
        (Totals(captured=10, stored=9), UNBALANCED),
        (Totals(captured=10, stored=8, log_lost=2), BALANCED),
    ],
)
def test_the_exit_code_follows_from_the_numbers(totals, code):
    """Anything off outranks events in flight; a sum that fails to add up is off by itself."""
    assert Books("1", totals).code == code


def test_the_line_adds_up_and_names_what_is_wrong():
    """The balance line holds every figure of the sum."""
    assert Books("1", GOOD).line == "10 captured = 6 stored + 3 dropped + 1 late"
    wrong = Totals(captured=1000, stored=995, lost=6, twice=1, unbalanced=2)
    assert Books("1", wrong).line.endswith("but 6 lost and 1 twice")


def test_events_that_producers_told_of_are_waited_for():
    """Books that know less than was captured are not balanced, however well they add up; they say how much they miss."""
    early = Books("1", GOOD, expected=12)
    assert (early.code, early.unknown) == (IN_FLIGHT, 2)
    assert early.line.endswith("; 2 more not known yet")
    assert early.document()["unknown"] == 2
    assert Books("1", GOOD, expected=10).code == BALANCED


def test_a_finding_says_all_that_is_off():
    """Several faults of one session are all named, and only those."""
    text = Finding("s", 10, missing=2, received_twice=0, unstored=1200, stored_twice=0, windows_twice=1).text
    assert text == "2 never received; 1,200 received but not stored; 1 windows stored again"


def test_the_document_holds_drops_by_stage_and_reason():
    """Scripts read totals at the top and reasons below."""
    document = Books("7", GOOD).document()
    assert (document["dropped"], document["dropped_by"]) == (3, {"producer": {"stale": 3}})
    assert (document["log"], document["verdict"], document["balanced"]) == ("7", "balanced", True)


def waited(counts, wait_s):
    """Settle over a list of counts (the last one repeats) with a clock that only sleeping moves."""
    now = [0.0]
    seen = []

    def look():
        seen.append(now[0])
        return counts[min(len(seen), len(counts)) - 1]

    def sleep(seconds):
        now[0] += seconds

    return settle(look, wait_s, lambda: now[0], sleep), now[0]


def test_without_a_wait_one_look_is_enough():
    """Balanced or in flight, the first count is the answer."""
    assert waited([Books("1", GOOD)], 0) == (Books("1", GOOD), 0.0)


def test_a_wait_ends_when_nothing_has_changed_for_a_while():
    """Numbers that still move are not settled, even where they balance at every moment."""
    moving = [Books("1", Totals(captured=n, stored=n)) for n in range(10)]
    found, at = waited(moving, 60)
    assert found.totals.captured == 9
    assert 9 * POLL_S + QUIET_S <= at < 9 * POLL_S + QUIET_S + 2 * POLL_S


def test_a_wait_runs_out_while_events_stay_in_flight():
    """Events in flight to the end: the last count, at the end of the time given."""
    flying = Books("1", Totals(captured=2, in_flight=2))
    found, at = waited([flying], 5)
    assert (found.code, at) == (IN_FLIGHT, 5.0)
