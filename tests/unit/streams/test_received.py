"""The numbers that have arrived: intervals, what is new of a batch, and when it is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.received import DAY_MS, REMEMBERED_DAYS, Arrived, Received

DAY = 20_000


def take(received: Received, low: int, high: int, day: int = DAY) -> tuple[int, int]:
    return received.take("s", low, high, day, day)


def test_a_batch_is_new_once() -> None:
    """In order, the first time; a second time nothing of it is."""
    received = Received()
    assert take(received, 0, 10) == (0, 10)
    assert take(received, 10, 20) == (10, 20)
    for low, high in ((0, 10), (10, 20), (0, 20), (3, 12)):
        assert len(range(*take(received, low, high))) == 0
    assert received.take("other", 0, 10, DAY, DAY) == (0, 10)


def test_a_batch_that_comes_after_a_later_one_is_new() -> None:
    """It fills the hole, whole, and only once."""
    received = Received()
    take(received, 20, 30)
    assert take(received, 0, 10) == (0, 10)
    assert take(received, 10, 20) == (10, 20)
    assert len(range(*take(received, 0, 30))) == 0


def test_of_an_overlap_the_first_new_piece_is_taken() -> None:
    """Before, after, between and around what has arrived."""
    received = Received([Arrived("s", 10, 20, DAY), Arrived("s", 30, 40, DAY)], DAY * DAY_MS)
    assert take(received, 15, 25) == (20, 25)
    assert take(received, 5, 50) == (5, 10)
    assert take(received, 5, 50) == (25, 30)
    assert take(received, 5, 50) == (40, 50)


def test_numbers_are_forgotten_by_the_day_of_their_receipt() -> None:
    """For so many days they are repeats; then the memory is free again."""
    received = Received()
    take(received, 0, 10)
    received.take("quiet", 0, 10, DAY, DAY)
    last = DAY + REMEMBERED_DAYS
    take(received, 10, 20, last)
    assert len(range(*take(received, 0, 10, last))) == 0
    assert len(received) == 2
    assert take(received, 0, 10, last + 1) == (0, 10)
    assert len(range(*take(received, 10, 20, last + 1))) == 0
    assert len(received) == 1


def test_the_watermark_forgets_and_not_the_batch() -> None:
    """A tick may have carried it past the batch's own day: a replay would not read such a receipt either."""
    received = Received()
    take(received, 0, 10)
    later = DAY + REMEMBERED_DAYS + 1
    assert received.take("s", 0, 10, DAY, later) == (0, 10)
    assert len(received) == 0


claims = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9), st.sampled_from([0, 0, 1, 3])), max_size=40)


@given(claims)
def test_it_is_a_set_of_numbers_by_day(batches: list[tuple[int, int, int]]) -> None:
    """Against a dictionary from number to day."""
    received, model, day = Received(), dict[int, int](), DAY
    for low, count, days in batches:
        day += days
        model = {number: of for number, of in model.items() if of >= day - REMEMBERED_DAYS}
        new = [number for number in range(low, low + count) if number not in model]
        piece = [number for at, number in enumerate(new) if number == new[0] + at]
        assert list(range(*take(received, low, low + count, day))) == piece
        model |= dict.fromkeys(piece, day)


@given(claims)
def test_it_holds_no_more_intervals_than_there_are_holes(batches: list[tuple[int, int, int]]) -> None:
    """Neighbours of one day are joined: a session without holes is one interval a day, in whatever order it came."""
    received, known = Received(), set[int]()
    for low, count, _ in batches:
        known |= set(range(*take(received, low, low + count)))
    runs = sum(number - 1 not in known for number in known)
    assert len(received._ranges.get("s", [])) == runs
