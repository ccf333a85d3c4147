"""Progress of each partition, kept in the store: the only truth about it. Blocking: call it from a thread."""

from __future__ import annotations

import pyarrow as pa

from infra.store import Store
from streams.data import LedgerRow
from streams.received import DAY_MS, Arrived, Received, oldest_remembered

# Receipts of one session and day, joined where one begins at the number at which another ends.
# Those of an earlier log count too: what was in flight when that broker died is sent again to this one.
_RECEIVED = """
SELECT session, piece[1].1 AS low, piece[-1].2 AS high, day
FROM (
    SELECT
        session,
        intDiv(append_time, {day_ms:Int64}) AS day,
        arraySort(groupArray((first_number, first_number + count))) AS ranges,
        arrayPushFront(arrayPopBack(ranges), ranges[1]) AS before,
        arrayJoin(arraySplit((range, last) -> range.1 != last.2, ranges, before)) AS piece
    FROM batches FINAL
    WHERE partition = {partition:Int32} AND count > 0 AND append_time >= {since:Int64}
        AND (log != {log:String} OR block_offset < {replay_from:Int64})
    GROUP BY session, day
)
ORDER BY session, low
"""


def read(store: Store, log: str, partition: int) -> LedgerRow | None:
    """Return a partition's row, or None where nothing of it is stored yet. Raises StoreError."""
    rows = store.query_rows(
        "SELECT closed_through, replay_from, watermark, raw_through FROM ledger FINAL "
        "WHERE log = {log:String} AND partition = {partition:Int32}",
        {"log": log, "partition": partition},
    ).dicts()
    return LedgerRow(log=log, partition=partition, **rows[0]) if rows else None


def received(store: Store, log: str, partition: int, row: LedgerRow | None) -> Received:
    """Return which event numbers had arrived before the row's `replay_from`. Raises StoreError.

    Receipts are written before the ledger, and say the same in every replay:
    what this returns is what a worker that never died would know.
    """
    watermark, replay_from = (row.watermark, row.replay_from) if row else (-1, 0)
    rows = store.query_rows(
        _RECEIVED,
        {
            "log": log,
            "partition": partition,
            "replay_from": replay_from,
            "since": oldest_remembered(watermark) * DAY_MS,
            "day_ms": DAY_MS,
        },
    ).rows
    return Received((Arrived(*each) for each in rows), watermark)


def write(store: Store, row: LedgerRow) -> None:
    """Write a partition's row. Of several rows the one with the highest `replay_from` stands. Raises StoreError.

    So a worker that was paused, lost its partition and woke up again cannot set
    progress back.
    """
    store.insert_arrow(
        "ledger",
        pa.table(
            {
                "log": [row.log],
                "partition": pa.array([row.partition], pa.int32()),
                "closed_through": [row.closed_through],
                "replay_from": [row.replay_from],
                "watermark": [row.watermark],
                "raw_through": [row.raw_through],
            }
        ),
        token=None,
    )
