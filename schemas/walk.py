"""Finds where each column of each message stands, without looking into any.

All messages of a pass are walked together, a column at a time, in numpy. That
walk knows only what nearly every message is made of: one block a column, with
its size, both in two bytes at most. Whatever else a message may be, right or
wrong, it leaves to a careful walk of that message alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from schemas.matching import cut
from schemas.refusals import Refusal, RefusedError

Longs = NDArray[np.int64]

# Zeros behind the last message: where a walk that went astray may end up is within
# two heads of two bytes and a column of 2^13.
_ROOM = bytes(2**13 + 8)
# Below, the steps in numpy cost more than the careful walk of each message.
_TOGETHER = 20


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What a walk needs to know of a schema."""

    group_of: Sequence[int]
    """By column, the number of its group."""
    groups: int
    max_rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Extents:
    """Where the columns of some messages stand in `data`, as varints without their blocks' heads."""

    data: bytes
    starts: Longs
    """By column and message."""
    sizes: Longs
    """By column and message; 0 where a column is empty."""
    rows: Longs
    """By group and message."""

    def keep(self, messages: Sequence[int]) -> Extents:
        """Return these messages only."""
        return Extents(self.data, self.starts[:, messages], self.sizes[:, messages], self.rows[:, messages])

    def cut_out(self, columns: Sequence[int]) -> bytes:
        """Join the varints of these columns, message after message within a column."""
        starts = self.starts[columns].ravel()
        stops = starts + self.sizes[columns].ravel()
        data = self.data
        return b"".join([data[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)])


def walk(bodies: Sequence[bytes], begins: Sequence[int], layout: Layout) -> tuple[Extents, dict[int, Refusal]]:
    """Find the columns of each message, which begin at `begins` in its body. Also say which messages are refused.

    The extents of a message that is refused mean nothing.
    """
    if len(bodies) < _TOGETHER:
        found, stray = _nothing(len(bodies), layout), list(range(len(bodies)))
    else:
        stops = np.cumsum(np.fromiter(map(len, bodies), np.int64, len(bodies)))
        starts = np.concatenate(([0], stops[:-1])) + np.array(begins, np.int64)
        found, sound = _walk_together(b"".join([*bodies, _ROOM]), starts, stops, layout)
        stray = np.flatnonzero(~sound).tolist()
    refused: dict[int, Refusal] = {}
    cut_out = [found.data]
    size = len(found.data)
    for message in stray:
        try:
            rows, parts = _walk_alone(bodies[message], begins[message], layout)
        except IndexError:
            refused[message] = Refusal.TRUNCATED
            continue
        except RefusedError as error:
            refused[message] = error.refusal
            continue
        sizes = np.array([len(part) for part in parts], np.int64)
        found.starts[:, message] = size + np.cumsum(sizes) - sizes
        found.sizes[:, message] = sizes
        found.rows[:, message] = rows
        cut_out += parts
        size += int(sizes.sum())
    return Extents(b"".join(cut_out), found.starts, found.sizes, found.rows), refused


def _nothing(messages: int, layout: Layout) -> Extents:
    """Return extents in which every column of every message is empty."""
    shape = len(layout.group_of), messages
    rows = np.zeros((layout.groups, messages), np.int64)
    return Extents(b"", np.zeros(shape, np.int64), np.zeros(shape, np.int64), rows)


def _walk_together(data: bytes, pos: Longs, stops: Longs, layout: Layout) -> tuple[Extents, NDArray[np.bool_]]:
    """Walk from `pos` to `stops`, which are by message; also say which messages are as expected.

    A message that is not may send its walk astray, but never back, and never
    beyond its stop by more than _ROOM: there it is held.
    """
    pairs = np.ndarray(len(data) - 1, "<u2", data, strides=(1,))  # the two bytes at each position
    counts_at, sizes_at, lengths, skips = _heads()
    shape = len(layout.group_of), len(pos)
    heads, tails, ends = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16), np.zeros(shape, np.int64)
    for column in range(len(layout.group_of)):
        heads[column] = head = pairs[pos]
        at = pos + lengths[head]
        tails[column] = tail = pairs[at]
        ends[column] = end = at + skips[tail]
        pos = np.minimum(end + 1, stops)
    counts, sizes = counts_at[heads], sizes_at[tails]
    rows = np.zeros((layout.groups, len(stops)), np.int64)
    for column, group in enumerate(layout.group_of):
        np.maximum(rows[group], counts[column], out=rows[group])
    sound = (counts == 0) | (counts == rows[layout.group_of])
    sound &= (counts <= sizes) & (ends < stops) & (np.frombuffer(data, np.uint8)[ends] == 0)
    as_expected = sound.all(axis=0) & (pos == stops) & (rows <= layout.max_rows).all(axis=0)
    return Extents(data, ends - sizes, sizes.astype(np.int64), rows), as_expected


# More rows than two bytes can hold, and than a column of a size in two bytes.
_MANY = 2**15 - 1


@cache
def _heads() -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint16]]:
    """Return what every two bytes mean where a column begins and where its size is.

    Four tables: the rows of a column that begins so, the size, the length of the
    number, and length and size together. A zero is an empty column: of length 0,
    so that whoever reads on from there finds it again, as a size. What is not
    expected reads as more rows than any size, and as a size below any rows.
    """
    first, second = np.arange(2**16) & 0xFF, np.arange(2**16) >> 8
    longer = first >= 0x80
    value = np.where(longer, first & 0x7F | second << 7, first)
    odd = value & 1 == 1
    beyond = longer & (second >= 0x80)
    counts = np.where(odd & ~beyond, (value + 1) >> 1, _MANY)
    counts[first == 0] = 0
    sizes = np.where(odd | beyond, -1, value >> 1)
    lengths = np.where(first == 0, 0, 1 + longer)
    skips = lengths + np.maximum(sizes, 0)
    return counts.astype(np.int16), sizes.astype(np.int16), lengths.astype(np.uint8), skips.astype(np.uint16)


def _walk_alone(body: bytes, pos: int, layout: Layout) -> tuple[list[int], list[bytes]]:
    """Cut the columns out of one message. Raises RefusedError, or IndexError where bytes are missing."""
    rows = [0] * layout.groups
    parts: list[bytes] = []
    for group in layout.group_of:
        if not body[pos]:
            parts.append(b"")
            pos += 1
            continue
        count, part, pos = cut(body, pos)
        parts.append(part)
        if count and count != rows[group]:
            if rows[group]:
                raise RefusedError(Refusal.UNEQUAL_COLUMNS)
            if count > layout.max_rows:
                raise RefusedError(Refusal.TOO_MANY_ROWS)
            rows[group] = count
    if pos != len(body):
        raise RefusedError(Refusal.TRAILING_BYTES)
    return rows, parts
