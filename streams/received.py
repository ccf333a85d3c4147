"""Which event numbers of each session have arrived, so that what a producer sends again is stored once.

A producer that crashed, or whose broker hung, sends batches again from its
spool: new messages with new raw offsets, but with the session and the numbers
of the first time. They may come after later batches of the session, so a
highest number would not do: what has arrived is kept as intervals. Nearly
every session has one.

Every number belongs to the receipt that brought it, and is remembered for
REMEMBERED_DAYS whole days (UTC) of append time after that receipt's, measured
by the watermark. Both come from the log. So the numbers that a replay must
begin with can be read from the receipts, and a replay forgets when the first
reading did.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from streams.blocks import Block
from streams.data import Longs

DAY_MS = 86_400_000
REMEMBERED_DAYS = 8
"""How long a raw batch can come back: 1 day that it may wait in interactions.raw, and 7 in a producer's spool.

A spool has no age of its own: a machine put away for longer comes back with
older batches. Their events are late by then (windows are shorter than a week),
so still nothing is stored twice, but the books name the session.
Memory: some 400 bytes a session. 1,600 people with 10 sessions a day on 4
partitions are 36,000 sessions a partition, 14 MB.
"""


class Arrived(NamedTuple):
    """Numbers `low` to `high`, `high` left out, of one session, whose receipts' append times fall on day `day`."""

    session: str
    low: int
    high: int
    day: int


def oldest_remembered(watermark: int) -> int:
    """Return the first day whose receipts are remembered: a range is forgotten when its day lies before it."""
    return max(0, watermark // DAY_MS - REMEMBERED_DAYS)


class Received:
    """The numbers that have arrived of every session of one partition, those too old left out."""

    def __init__(self, arrived: Iterable[Arrived] = (), watermark: int = -1) -> None:
        """Begin with what had arrived when the watermark was so.

        `arrived` is sorted by session and `low`; nothing in it is of a day before `oldest_remembered(watermark)`.
        """
        self._oldest_day = oldest_remembered(watermark)
        # (low, high, day) by session: sorted, apart from each other, neighbours of one day joined.
        self._ranges: dict[str, list[tuple[int, int, int]]] = {}
        for session, first, high, day in arrived:
            known = self._ranges.setdefault(session, [])
            low = max(first, known[-1][1]) if known else first  # receipts older than this rule may overlap
            if low < high:
                _join(known, low, high, day)

    def __len__(self) -> int:
        """How many sessions are remembered."""
        return len(self._ranges)

    def take(self, session: str, low: int, high: int, day: int, today: int) -> tuple[int, int]:
        """Note that numbers `low` to `high` (left out) have come; return those that had not come before.

        All of them: (low, high). None of them: two equal numbers, nothing is
        noted. Some of them: the first piece without a gap, and only that is
        noted. `day` is that of the append time, `today` that of the watermark
        with this batch, which never falls.
        """
        if today - REMEMBERED_DAYS > self._oldest_day:
            self._forget(today - REMEMBERED_DAYS)
        known = self._ranges.get(session)
        if known:
            first, end, last_day = known[-1]
            if low == end and day == last_day:  # nearly always
                known[-1] = (first, high, day)
                return low, high
            if low < end:
                low, high = _first_new(known, low, high)
        if low < high and day >= self._oldest_day:
            _join(self._ranges.setdefault(session, []), low, high, day)
        return low, high

    def _forget(self, oldest: int) -> None:
        """Drop what came before a day, once a day."""
        self._oldest_day = oldest
        kept = {session: [each for each in ranges if each[2] >= oldest] for session, ranges in self._ranges.items()}
        self._ranges = {session: ranges for session, ranges in kept.items() if ranges}


def _first_new(known: list[tuple[int, int, int]], low: int, high: int) -> tuple[int, int]:
    """Return the first piece of [low, high) that lies in none of the intervals; empty when there is none."""
    at = bisect_right(known, low, key=lambda each: each[0])
    if at and low < known[at - 1][1]:
        at -= 1
    while at < len(known) and known[at][0] <= low:
        low = max(low, known[at][1])
        at += 1
    if at < len(known):
        high = min(high, known[at][0])
    return min(low, high), high


def _join(known: list[tuple[int, int, int]], low: int, high: int, day: int) -> None:
    """Put in an interval that overlaps none, and join it with its neighbours of the same day."""
    at = len(known) if not known or known[-1][1] <= low else bisect_right(known, low, key=lambda each: each[0])
    end = at
    if at and known[at - 1][1:] == (low, day):
        at, low = at - 1, known[at - 1][0]
    if end < len(known) and (known[end][0], known[end][2]) == (high, day):
        end, high = end + 1, known[end][1]
    known[at:end] = [(low, high, day)]


def new_of(block: Block, fresh: int, received: Received, now: Longs) -> tuple[Block, Longs]:
    """Return the block with the batches that are new, and their positions in it before.

    Batches before `fresh` were known by their raw offset; of the others, those
    whose numbers have all arrived are left out too. A batch without events has
    no number to go by: it is let through, and says nothing twice, for what it
    holds (totals, the session's end) counts once however often it comes.

    A batch of which only some numbers are new cannot come from our producers,
    who send again what they had sent, to the byte. Nobody can say which of two
    different events with one number is true: the batch gives no event, and its
    first run of new numbers is counted as `malformed`. `now` is the watermark
    with each batch.
    """
    new: list[int] = []
    pieces: dict[int, tuple[int, int]] = {}
    days = (block.batches["append_time"] // DAY_MS, now // DAY_MS)
    columns = (column[fresh:].tolist() for column in (block.batches["first_number"], block.batches["count"], *days))
    for at, (key, low, count, day, today) in enumerate(zip(block.keys[fresh:], *columns, strict=True), fresh):
        if count:
            piece = received.take(key.session, low, low + count, day, today)
            if piece[0] == piece[1]:
                continue
            if piece != (low, low + count):
                pieces[at] = piece
        new.append(at)
    if pieces:
        block = block.refuse(pieces)
    positions = np.array(new, np.int64)
    return block.only(positions), positions
