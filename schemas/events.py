"""Events as columns: what the gate and the kernels work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.integer[Any]]
_Number = TypeVar("_Number", bound=np.integer[Any])


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """The events of some batches, one row an event, never changed after they are made.

    `batch` (int32) says which batch each event belongs to, as an index into
    whatever list the caller keeps; `columns` holds one array a column, all of
    the same length. The arrays are shared with the caller but read-only here.

    Raises ValueError when the lengths differ.
    """

    batch: NDArray[np.int32]
    columns: Mapping[str, Column]

    def __post_init__(self) -> None:
        rows = len(self.batch)
        for name, column in self.columns.items():
            if len(column) != rows:
                raise ValueError(f"column {name} has {len(column)} rows, the events are {rows}")
        read_only = {name: _read_only(column) for name, column in self.columns.items()}
        object.__setattr__(self, "batch", _read_only(np.asarray(self.batch, dtype=np.int32)))
        object.__setattr__(self, "columns", MappingProxyType(read_only))

    def __len__(self) -> int:
        return len(self.batch)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Events:
        """Return the events at `rows`: a mask with one bool an event, or indexes in the order wanted."""
        return Events(self.batch[rows], {name: column[rows] for name, column in self.columns.items()})


def _read_only(array: NDArray[_Number]) -> NDArray[_Number]:
    view = array.view()
    view.flags.writeable = False
    return view
