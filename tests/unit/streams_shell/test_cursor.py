"""The order of one partition's messages."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from streams.cursor import Cursor, Start


class Message(NamedTuple):
    offset: int


def run(first: int, last: int) -> list[Message]:
    return [Message(offset) for offset in range(first, last + 1)]


def test_takes_what_follows():
    """Fetches that follow one another pass whole."""
    cursor = Cursor(Start(10, seek=1))
    assert cursor.take(run(10, 12), seek=1) == run(10, 12)
    assert cursor.take(run(13, 13), seek=1) == run(13, 13)
    assert cursor.next == 14


def test_skips_repeats():
    """Messages below the next offset are skipped and counted, those above it in the same fetch are taken."""
    cursor = Cursor(Start(10, seek=1))
    assert cursor.take(run(5, 11), seek=0) == run(10, 11)
    assert cursor.take(run(0, 3), seek=0) == []
    assert cursor.skipped == 9


def test_a_gap_is_looked_at_before_it_is_believed():
    """The first sight of a gap asks for a seek; the same sight by a fetch that began after it is believed."""
    cursor = Cursor(Start(10, seek=1))
    assert cursor.take(run(10, 10), seek=1) == run(10, 10)
    assert cursor.take(run(20, 21), seek=1) is None
    cursor.sought(Start(11, seek=2))
    assert cursor.take(run(20, 21), seek=2) == run(20, 21)
    assert cursor.missing == 9


def test_a_fetch_from_before_the_seek_proves_no_gap():
    """A fetch that was under way when the partition was sought says nothing about what the log has."""
    cursor = Cursor(Start(10, seek=3))
    assert cursor.take(run(30, 31), seek=2) is None
    cursor.sought(Start(10, seek=4))
    assert cursor.take(run(32, 33), seek=2) is None
    cursor.sought(Start(10, seek=5))
    assert cursor.take(run(10, 31), seek=5) == run(10, 31)
    assert cursor.missing == 0


def test_a_fetch_after_a_dropped_one_proves_no_gap():
    """The consumer counts a dropped fetch as a seek, so the number differs and the gap is looked at again."""
    cursor = Cursor(Start(10, seek=1))
    assert cursor.take(run(15, 16), seek=2) is None


@given(
    st.sets(st.integers(0, 60), min_size=1),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20), st.booleans()), max_size=40),
)
def test_nothing_in_the_log_is_ever_passed_over(log, fetches):
    """Whatever stale or fresh fetches arrive, what was taken is exactly the log up to the next offset."""
    offsets = sorted(log)
    cursor, seek, taken = Cursor(Start(0, seek=1)), 1, []
    for start, size, stale in fetches:
        # A fetch from after the last seek begins where the cursor is; a stale one begins anywhere.
        begin, number = (start, seek - 1) if stale else (cursor.next, seek)
        records = [Message(offset) for offset in offsets if offset >= begin][:size]
        fresh = cursor.take(records, number)
        if fresh is None:
            seek += 1
            cursor.sought(Start(cursor.next, seek))
        else:
            taken += [message.offset for message in fresh]
    assert taken == [offset for offset in offsets if offset < cursor.next]
