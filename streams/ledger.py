"""Progress of each partition, kept in the store: the only truth about it. Blocking: call it from a thread."""

from __future__ import annotations

import pyarrow as pa

from infra.store import Store
from streams.data import LedgerRow


def read(store: Store, log: str, partition: int) -> LedgerRow | None:
    """Return a partition's row, or None where nothing of it is stored yet. Raises StoreError."""
    rows = store.query_rows(
        "SELECT closed_through, replay_from, watermark, raw_through FROM ledger FINAL "
        "WHERE log = {log:String} AND partition = {partition:Int32}",
        {"log": log, "partition": partition},
    ).dicts()
    return LedgerRow(log=log, partition=partition, **rows[0]) if rows else None


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
