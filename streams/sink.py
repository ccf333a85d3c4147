"""From the pipeline's columns to Arrow tables to INSERTs. Blocking: call it from a thread.

Arrow types are those of the tables' migrations (infra/clickhouse); ClickHouse
matches columns by name and refuses what does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from infra.store import Store
from streams.data import WINDOW_EVENT_TYPES, ClosedSlot, DeadRows, Receipts, WindowRows

_COUNTS = pa.map_(pa.string(), pa.uint64())
_STRINGS = pa.list_(pa.string())


def store_slot(store: Store, slot: ClosedSlot) -> None:
    """Store all windows of one slot: one INSERT, once for its token however often it is called. Raises StoreError."""
    store.insert_arrow("windows", windows_table(slot.rows), token=slot.token)


def store_receipts(store: Store, receipts: Receipts) -> None:
    """Store receipts and the dead letters that came with them; the tables' keys make repeats harmless.

    Raises StoreError.
    """
    store.insert_arrow("batches", receipts_table(receipts), token=None)
    store.insert_arrow("deadletters", dead_table(receipts.dead), token=None)


def windows_table(rows: WindowRows) -> pa.Table:
    """Return the rows of one slot as the `windows` table wants them; `stored_at` is left to the store."""
    count = len(rows)
    columns = {
        "log": pa.repeat(rows.log, count),
        "partition": pa.repeat(pa.scalar(rows.partition, pa.int32()), count),
        "slot": pa.repeat(pa.scalar(rows.slot, pa.int64()), count),
        "window_kind": pa.repeat(rows.window_kind, count),
        "window_start": pa.array(rows.window_start, pa.int64()),
        "window_end": pa.array(rows.window_end, pa.int64()),
        "step_ms": pa.array(rows.step_ms, pa.int64()),
        "session": pa.array(rows.session, pa.string()),
        "subject": pa.array(rows.subject, pa.string()),
        "policy": pa.array(rows.policy, pa.string()),
        "policy_version": pa.array(rows.policy_version, pa.int32()),
        "notice": pa.array(rows.notice, pa.string()),
        "purposes": pa.array(rows.purposes, _STRINGS),
        "screen_width": pa.array(rows.screen_width, pa.int32()),
        "screen_height": pa.array(rows.screen_height, pa.int32()),
        "applications": pa.array(rows.applications, _STRINGS),
        "events": pa.array(np.diff(rows.offsets), pa.uint32()),
        "stored": pa.array(rows.stored, pa.uint32()),
        "refused": _counts(rows.refused),
    }
    offsets, events = pa.array(rows.offsets, pa.int32()), rows.events
    for name, dtype in WINDOW_EVENT_TYPES.items():
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(events[name].astype(dtype, copy=False)))
    return pa.table(columns)


def receipts_table(receipts: Receipts) -> pa.Table:
    """Return receipts as the `batches` table wants them."""
    count = len(receipts)
    return pa.table(
        {
            "log": pa.repeat(receipts.log, count),
            "partition": pa.repeat(pa.scalar(receipts.partition, pa.int32()), count),
            "raw_offset": pa.array(receipts.raw_offset, pa.int64()),
            "block_offset": pa.array(receipts.block_offset, pa.int64()),
            "session": pa.array(receipts.session, pa.string()),
            "first_number": pa.array(receipts.first_number, pa.int64()),
            "count": pa.array(receipts.count, pa.int64()),
            "captured": pa.array(receipts.captured, pa.int64()),
            "final": pa.array(receipts.final, pa.uint8()),
            "kept": pa.array(receipts.kept, pa.int64()),
            "late": pa.array(receipts.late, pa.int64()),
            "producer_dropped": _counts(receipts.producer_dropped),
            "dropped": _counts(receipts.dropped),
            "append_time": pa.array(receipts.append_time, pa.int64()),
        }
    )


def dead_table(dead: DeadRows) -> pa.Table:
    """Return dead letters as the `deadletters` table wants them."""
    count = len(dead)
    return pa.table(
        {
            "log": pa.repeat(dead.log, count),
            "partition": pa.repeat(pa.scalar(dead.partition, pa.int32()), count),
            "raw_offset": pa.array(dead.raw_offset, pa.int64()),
            "reason": pa.array(dead.reason, pa.string()),
            "schema_id": pa.array(dead.schema_id, pa.int32()),
            "size": pa.array(dead.size, pa.int64()),
            "digest": pa.array(dead.digest, pa.string()),
            "append_time": pa.array(dead.append_time, pa.int64()),
        }
    )


def _counts(counts: Sequence[Mapping[str, int]]) -> pa.Array:
    return pa.array([list(each.items()) for each in counts], _COUNTS)
