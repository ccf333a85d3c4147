"""Moving whole batches of events about: what both kernels do to columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.data import Longs


def expand(counts: Longs, batches: NDArray[np.integer[Any]]) -> Longs:
    """Return the positions of all events of `batches`, batch after batch, where batch i holds `counts[i]` events."""
    starts = np.cumsum(counts) - counts
    chosen = counts[batches]
    before = np.cumsum(chosen) - chosen
    return np.repeat(starts[batches] - before, chosen) + np.arange(int(chosen.sum()))


def heads(values: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Return where each run of equal values begins."""
    if not len(values):
        return np.zeros(0, np.intp)
    return np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
