"""From rows to Arrow."""

from __future__ import annotations

import pyarrow as pa

from schemas.catalogue import KINDS
from streams.data import WINDOW_EVENT_TYPES
from streams.sink import windows_table
from tests.streams_support import T0, Log, close_all, raw_message


def test_event_columns_have_the_tables_types() -> None:
    """Whatever they had while their window was open; each row holds its own events, and `events` says how many."""
    kinds = [KINDS["pointer_move"], KINDS["wheel"], KINDS["key"]]
    first = raw_message(
        0, [T0, T0 + 2, T0 + 9_999], kinds=kinds, x=[7, 0, 0], wheel_y=[0, -1, 0], application=[1, 2, 0]
    )
    (slot,) = close_all(Log().take(first, raw_message(1, [T0 + 5], session="s0")).tick(1, T0 + 60_000).windower())
    table = windows_table(slot.rows)
    for name, dtype in WINDOW_EVENT_TYPES.items():
        assert table.schema.field(name).type == pa.list_(pa.from_numpy_dtype(dtype)), name
    assert table["events"].to_pylist() == [1, 3]
    assert table["offset_ms"].to_pylist() == [[5], [0, 2, 9_999]]
    assert table["application"].to_pylist() == [[0], [2, 1, 0]]
    assert table["applications"].to_pylist() == [[""], ["", "browser", "editor"]]
    assert table["wheel_y"].to_pylist() == [[0], [0, -1, 0]]
