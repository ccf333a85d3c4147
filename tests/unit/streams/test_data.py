"""The types' own rules."""

from __future__ import annotations

import pytest

from streams.data import Split, WindowSpec


def test_a_split_that_does_not_add_up_cannot_be_made() -> None:
    """Losing or inventing an event is an error where it happens."""
    assert Split(6, kept=3, dropped=2, late=1).input == 6
    for kept, dropped, late in ((3, 2, 0), (4, 2, 1), (7, -1, 0)):
        with pytest.raises(ValueError, match="is not input"):
            Split(6, kept, dropped, late)


@pytest.mark.parametrize(
    ("kind", "size", "step", "gap", "lateness"),
    [
        ("rolling", 10, 10, 0, 0),
        ("tumbling", 0, 0, 0, 0),
        ("tumbling", 2**31, 2**31, 0, 0),
        ("tumbling", 10, 10, 0, -1),
        ("hopping", 10, 0, 0, 0),
        ("hopping", 10, 11, 0, 0),
        ("hopping", 6_500, 100, 0, 0),
        ("session", 10, 10, 0, 0),
        ("session", 10, 10, 11, 0),
    ],
)
def test_windows_that_make_no_sense_are_refused(kind: str, size: int, step: int, gap: int, lateness: int) -> None:
    """No event may fall between windows, or into more of them than memory should hold."""
    with pytest.raises(ValueError, match=r"window|hopping|session|lateness"):
        WindowSpec(kind, size, step, gap, lateness)


def test_a_slot_closes_a_lateness_after_its_end() -> None:
    """The last slot that may hold an event is its primary one."""
    assert WindowSpec("tumbling", 10, 10, 0, 5).closes_at(19) == 25
    assert WindowSpec("hopping", 10, 5, 0, 5).closes_at(14) == 25
