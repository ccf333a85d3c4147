"""A sample's Parquet files: the chosen windows, read in batches and written one row group a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.store import Store
from streams.reading import manifest
from streams.reading.choice import Keys
from streams.reading.narrow import file_schema, narrowed, stored_columns
from streams.reading.permit import Gate, Permit
from streams.reading.sample_sql import read_sql

BATCH_WINDOWS = 256
"""Windows of a batch: their ranks, 21 characters each, fit a query parameter of 5 KB."""
BATCH_EVENTS = 100_000
"""Events of a batch: about 40 bytes each in Arrow, so 4 MB. A batch is a row group."""
FILE_BATCHES = 64
"""Batches of a file: up to 16,384 windows or 6.4 M events, some 50 MB of Parquet."""
# Everything that could change the bytes is pinned; the file holds no time.
_WRITER: Mapping[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": True,
    "write_statistics": True,
    "store_schema": True,
}

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much (0: not known)."""


@dataclass
class Totals:
    """What stands in the files."""

    windows: int
    events: int
    subjects: set[str]
    files: list[dict[str, Any]]


def write(
    folder: Path,
    chosen: Keys,
    allowed: Permit,
    gate: Gate,
    store: Store,
    parameters: Mapping[str, Any],
    progress: Progress,
) -> Totals:
    """Read the chosen windows batch by batch and write them: a batch is a row group, FILE_BATCHES make a file."""
    totals = Totals(0, 0, set(), [])
    batches = list(_batches(chosen))
    for number, begin in enumerate(range(0, len(batches), FILE_BATCHES)):
        path, before = folder / f"windows-{number:05d}.parquet", totals.windows
        with pq.ParquetWriter(path, file_schema(allowed), **_WRITER) as writer:
            for batch in batches[begin : begin + FILE_BATCHES]:
                progress("reading windows", totals.windows, len(chosen))
                table = _read(batch, allowed, gate, store, parameters)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
                totals.windows += table.num_rows
                totals.events += int(np.sum(table.column("events").to_numpy()))
                totals.subjects |= set(table.column("subject").to_pylist())
        totals.files.append({**manifest.describe_file(path), "windows": totals.windows - before})
    return totals


def _batches(keys: Keys) -> Iterator[Keys]:
    """Cut the chosen keys, in their order, into batches of bounded windows and events."""
    begin, events = 0, 0
    for row, count in enumerate(keys.events.tolist()):
        if row > begin and (row - begin == BATCH_WINDOWS or events + count > BATCH_EVENTS):
            yield keys.take(np.arange(begin, row))
            begin, events = row, 0
        events += count
    if len(keys) > begin:
        yield keys.take(np.arange(begin, len(keys)))


def _read(batch: Keys, allowed: Permit, gate: Gate, store: Store, parameters: Mapping[str, Any]) -> pa.Table:
    """Read one batch and pass it through the gate. Raises TidegateError when a consent is gone since it was chosen."""
    where = {"first_slot": int(batch.slot[0]), "last_slot": int(batch.slot[-1]), "ranks": batch.rank.tolist()}
    rows = store.query_arrow(read_sql(stored_columns(allowed)), {**parameters, **where})
    chosen = set(zip(batch.slot.tolist(), batch.rank.tolist(), strict=True))
    got = zip(rows.column("slot").to_pylist(), rows.column("rank").to_pylist(), strict=True)
    rows = rows.filter(pa.array([key in chosen for key in got], pa.bool_()))
    subjects = set(rows.column("subject").to_pylist())
    return narrowed(rows, allowed, gate.still(allowed, subjects))
