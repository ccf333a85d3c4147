"""Events are columns of one length that nobody changes."""

import numpy as np
import pytest

from schemas.events import Events


def events():
    return Events(np.array([0, 0, 1], np.int32), {"x": np.array([5, 6, 7]), "kind": np.array([1, 2, 3])})


def test_take_by_mask_and_by_index_agree():
    """A mask and the indexes of its true rows pick the same events."""
    by_mask, by_index = events().take(np.array([True, False, True])), events().take(np.array([0, 2]))
    assert len(by_mask) == len(by_index) == 2
    assert by_mask.columns["x"].tolist() == by_index.columns["x"].tolist() == [5, 7]
    assert by_mask.batch.tolist() == [0, 1]


def test_unequal_columns_are_a_bug():
    """A column of another length is caught where the events are made."""
    with pytest.raises(ValueError, match="column x has 2 rows"):
        Events(np.zeros(3, np.int32), {"x": np.zeros(2, np.int64)})


def test_nobody_writes_into_events():
    """Neither the arrays nor the mapping can be changed, and the caller's own array stays writable."""
    mine = np.array([1, 2])
    made = Events(np.zeros(2, np.int32), {"x": mine})
    with pytest.raises(ValueError, match="read-only"):
        made.columns["x"][0] = 9
    with pytest.raises(TypeError):
        made.columns["y"] = mine  # type: ignore[index]  # that is what is tested
    mine[0] = 3
