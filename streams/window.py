"""Windows over event time, a column at a time.

A slot is what closes at once: one tumbling or hopping window, or, for session
windows, the tumbling window that cuts them. `place` says which slots events
belong to as a block arrives; `assemble` makes a slot's rows when it closes. Both
are functions of their arguments alone, and neither looks at how batches were
grouped into blocks: the same batches make the same rows in every replay.

Session windows: within its slot, a session's events are cut wherever the session
is silent for `gap_ms`. A slot's end cuts too, so that no window is longer than
`size_ms`, that each stands in one slot, and that a replay need not know how an
earlier slot was cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.events import Events
from streams.columns import expand, heads
from streams.data import WINDOW_EVENT_TYPES, Column, Longs, WindowSpec

Rows = slice | NDArray[np.intp]
MAX_APPLICATIONS = 2**16  # what the table's UInt16 can point at

CHUNK_TYPES: Mapping[str, type[np.integer[Any]]] = MappingProxyType(
    {**WINDOW_EVENT_TYPES, "offset_ms": np.int32, "application": np.int32}
)
"""How event columns are held while their window is open. Signed where they are subtracted or translated."""


class RowKey(NamedTuple):
    """What all events of a row share. A change of any of these within a window starts another row."""

    session: str
    subject: str
    policy: str
    policy_version: int
    notice: str
    purposes: tuple[str, ...]
    screen_width: int
    screen_height: int
    epoch: int
    """The control epoch in which they were captured."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """The events of one block that belong to one slot, batch after batch."""

    keys: Sequence[RowKey]
    """Of each batch."""
    raw_offset: Longs
    """Of each batch."""
    counts: Longs
    """Events of each batch."""
    applications: Sequence[str]
    """What `application` refers to; the first is the empty string."""
    columns: Mapping[str, Column]
    """Typed as CHUNK_TYPES, `offset_ms` from the slot's start. A column that is missing is all zeros."""

    def __len__(self) -> int:
        return len(self.columns["kind"])


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """The rows of one slot. `events.batch` is the row; events are sorted by row, time and number."""

    keys: Sequence[RowKey]
    start: Longs
    end: Longs
    step_ms: Longs
    applications: Sequence[str]
    events: Events

    @property
    def is_primary(self) -> NDArray[np.bool_]:
        """By event, whether this is its primary window: of hopping windows the one that began last before it."""
        return self.events.columns["offset_ms"] < self.step_ms[self.events.batch]

    @property
    def primary(self) -> int:
        """How many events have their primary window here."""
        return int(self.is_primary.sum())


def place(time: Longs, watermark: Longs, spec: WindowSpec) -> tuple[NDArray[np.bool_], Iterator[tuple[int, Rows]]]:
    """Say which events are late, and which belong to each slot that is still open.

    `time` is each event's, `watermark` what it was before each event's batch.
    Slots come as (start, rows); an event of hopping windows is in several. Late
    is an event whose slots are all closed, which is so when its newest one is.
    """
    every, size = spec.every_ms, spec.size_ms
    newest = time // every
    # Slot n is closed when n * every + size + lateness <= watermark.
    closed = (watermark - size - spec.lateness_ms) // every
    late = newest <= closed
    return late, _slots(time, newest, closed, spec)


def _slots(time: Longs, newest: Longs, closed: Longs, spec: WindowSpec) -> Iterator[tuple[int, Rows]]:
    every, size = spec.every_ms, spec.size_ms
    for back in range(-(-size // every)):
        number = newest - back
        inside = number > closed
        if back:
            inside &= time < number * every + size
        for slot, rows in _by_value(number, inside):
            yield slot * every, rows


def _by_value(values: Longs, chosen: NDArray[np.bool_]) -> Iterator[tuple[int, Rows]]:
    """Group the chosen rows by their value, in order of value; rows keep their order."""
    rows: Rows = slice(None) if chosen.all() else np.flatnonzero(chosen)
    values = values[rows]
    if not len(values):
        return
    low, high = int(values.min()), int(values.max())
    if low == high:
        yield low, rows
        return
    # A block spans few slots: as uint16 they sort by radix, in one pass.
    offsets = values - low
    order = np.argsort(offsets.astype(np.uint16) if high - low < 2**16 else offsets, kind="stable")
    ordered = values[order]
    for head, tail in pairwise([*heads(ordered).tolist(), len(ordered)]):
        picked = order[head:tail]
        yield int(ordered[head]), picked if isinstance(rows, slice) else rows[picked]


def assemble(chunks: Sequence[Chunk], spec: WindowSpec, slot_start: int) -> Windows:
    """Make the rows of a slot from its chunks, in whatever order the chunks come. At least one event."""
    joined = _join(chunks)
    ranked = sorted(set(joined.keys))
    rank_of = {key: rank for rank, key in enumerate(ranked)}
    key = np.array([rank_of[key] for key in joined.keys], np.int64)
    # A session's batches in order of the log are, with rare exceptions, its
    # events in order of time: so whole batches are moved, not events.
    group = _session_of(ranked)[key] if spec.kind == "session" else key
    batches = np.lexsort((joined.raw_offset, group))
    order = expand(joined.counts, batches)
    counts = joined.counts[batches]
    groups = np.repeat(group[batches], counts)
    keys = np.repeat(key[batches], counts)
    time, number = joined.columns["offset_ms"], joined.columns["number"]
    moved = _sort_within(groups, time[order], number[order])
    if moved is not None:
        order, keys = order[moved], keys[moved]
    if spec.kind == "session":
        return _session_windows(joined, ranked, order, groups, keys, spec, slot_start)
    first = heads(keys)
    rows = len(first)
    return Windows(
        keys=[ranked[rank] for rank in keys[first].tolist()],
        start=np.full(rows, slot_start, np.int64),
        end=np.full(rows, slot_start + spec.size_ms, np.int64),
        step_ms=np.full(rows, spec.every_ms, np.int64),
        applications=joined.applications,
        events=_events(joined, order, first),
    )


def _session_windows(
    joined: Chunk,
    ranked: Sequence[RowKey],
    order: Longs,
    groups: Longs,
    keys: Longs,
    spec: WindowSpec,
    slot_start: int,
) -> Windows:
    time = joined.columns["offset_ms"][order]
    first = np.ones(len(order), bool)
    first[1:] = (groups[1:] != groups[:-1]) | (time[1:] - time[:-1] >= spec.gap_ms)
    window = np.cumsum(first) - 1
    starts = time[first].astype(np.int64)
    last = np.append(np.flatnonzero(first)[1:], len(order)) - 1
    ends = np.minimum(time[last].astype(np.int64) + spec.gap_ms, spec.size_ms)
    row_of = window * len(ranked) + keys
    if (np.diff(row_of) < 0).any():
        moved = np.argsort(row_of, kind="stable")
        order, row_of = order[moved], row_of[moved]
    rows = heads(row_of)
    windows, ranks = np.divmod(row_of[rows], len(ranked))
    events = _events(joined, order, rows)
    offset = events.columns["offset_ms"] - starts[windows][events.batch].astype(np.int32)
    return Windows(
        keys=[ranked[rank] for rank in ranks.tolist()],
        start=slot_start + starts[windows],
        end=slot_start + ends[windows],
        step_ms=(ends - starts)[windows],
        applications=joined.applications,
        events=Events(events.batch, {**events.columns, "offset_ms": offset}),
    )


def _join(chunks: Sequence[Chunk]) -> Chunk:
    """Join chunks into one, with one list of applications and every column there."""
    names = sorted({name for chunk in chunks for name in chunk.applications} - {""})
    position = {name: index for index, name in enumerate(("", *names))}
    columns: dict[str, Column] = {}
    for name, dtype in CHUNK_TYPES.items():
        parts = [chunk.columns.get(name) for chunk in chunks]
        if name == "application":
            parts = [_translate(part, chunk, position) for part, chunk in zip(parts, chunks, strict=True)]
        filled = [np.zeros(len(c), dtype) if p is None else p for p, c in zip(parts, chunks, strict=True)]
        columns[name] = np.concatenate(filled)
    return Chunk(
        keys=[key for chunk in chunks for key in chunk.keys],
        raw_offset=np.concatenate([chunk.raw_offset for chunk in chunks]),
        counts=np.concatenate([chunk.counts for chunk in chunks]),
        applications=["", *names],
        columns=columns,
    )


def _translate(column: Column | None, chunk: Chunk, position: Mapping[str, int]) -> Column | None:
    if column is None:
        return None
    table = np.array([position[name] for name in chunk.applications], np.int32)
    return table[column]


def _session_of(ranked: Sequence[RowKey]) -> Longs:
    """Number the sessions of keys that are sorted, so that one session's keys stand together."""
    new = [int(a.session != b.session) for a, b in pairwise(ranked)]
    return np.cumsum([0, *new])


def _sort_within(group: Longs, time: Column, number: Column) -> Longs | None:
    """Return the order that sorts each group by time and number; None where it is so already.

    Only groups with an event out of place are sorted: one device whose clock
    jumps costs the others nothing.
    """
    same, step = group[1:] == group[:-1], time[1:] - time[:-1]
    wrong = same & ((step < 0) | ((step == 0) & (number[1:] < number[:-1])))
    if not wrong.any():
        return None
    out_of_place = np.flatnonzero(np.isin(group, np.unique(group[1:][wrong])))
    order = np.arange(len(group))
    sorted_ = np.lexsort((number[out_of_place], time[out_of_place], group[out_of_place]))
    order[out_of_place] = out_of_place[sorted_]
    return order


def _events(joined: Chunk, order: Longs, first: NDArray[np.intp]) -> Events:
    row = np.zeros(len(order), np.int32)
    row[first[1:]] = 1
    return Events(np.cumsum(row, dtype=np.int32), {name: column[order] for name, column in joined.columns.items()})


def own_applications(
    row: NDArray[np.int32], application: Column, names: Sequence[str], rows: int
) -> tuple[Column, list[list[str]]]:
    """Give each row a list of its own applications, the empty string first, and the column that points into it.

    Applications beyond what the table's column can point at become 0.
    """
    width = len(names)
    pair = row.astype(np.int64) * width + application
    # The application in front changes rarely: only the heads of runs are looked at.
    starts = heads(pair)
    zeros = np.arange(rows, dtype=np.int64) * width
    present, inverse = np.unique(np.concatenate((zeros, pair[starts])), return_inverse=True)
    first = np.searchsorted(present, zeros)
    of_row = present // width
    position = np.arange(len(present)) - first[of_row]
    position[position >= MAX_APPLICATIONS] = 0
    lists: list[list[str]] = [[] for _ in range(rows)]
    for owner, index in zip(of_row.tolist(), (present % width).tolist(), strict=True):
        if len(lists[owner]) < MAX_APPLICATIONS:
            lists[owner].append(names[index])
    lengths = np.diff(starts, append=len(pair))
    return np.repeat(position[inverse[rows:]], lengths).astype(WINDOW_EVENT_TYPES["application"]), lists
