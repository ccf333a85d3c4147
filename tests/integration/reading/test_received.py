"""The numbers that a windower begins with, from the receipts of a real store."""

from __future__ import annotations

import random

import pytest

from streams import ledger
from streams.data import LedgerRow
from streams.received import DAY_MS, REMEMBERED_DAYS, Received

DAY = 20_000
NOON = DAY * DAY_MS + DAY_MS // 2


def ledger_row(replay_from: int, watermark: int = NOON) -> LedgerRow:
    return LedgerRow("1", 0, watermark, replay_from, watermark, replay_from)


def ranges(received: Received) -> dict[str, list[tuple[int, int, int]]]:
    return received._ranges


def test_batches_are_joined_into_runs(planted):
    """One row a session where nothing is missing, whatever order the batches came in; a hole, a day and a log divide."""
    for raw_offset, first in enumerate((0, 20, 10, 40)):
        planted.batch("a", raw_offset, 10, first + 10, append_time=NOON)
    planted.batch("a", 4, 10, 60, append_time=NOON + DAY_MS)
    planted.batch("b", 5, 5, 5, append_time=NOON, log="0")
    planted.batch("b", 6, 5, 10, append_time=NOON)
    planted.batch("b", 7, 0, 10, append_time=NOON, final=1)
    received = ledger.received(planted.store, "1", 0, ledger_row(8))
    assert ranges(received) == {
        "a": [(0, 30, DAY), (40, 50, DAY), (50, 60, DAY + 1)],
        "b": [(0, 10, DAY)],
    }


def test_only_what_came_before_the_replay_counts(planted):
    """Receipts of blocks that are read again, of other partitions and of days long gone are left out."""
    planted.batch("s", 0, 10, 10, append_time=NOON - (REMEMBERED_DAYS + 1) * DAY_MS)
    planted.batch("s", 1, 10, 20, append_time=NOON - REMEMBERED_DAYS * DAY_MS)
    planted.batch("s", 2, 10, 30, append_time=NOON)
    planted.batch("s", 3, 10, 40, append_time=NOON, block_offset=9)
    planted.batch("s", 4, 10, 50, append_time=NOON, partition=1)
    assert ranges(ledger.received(planted.store, "1", 0, ledger_row(9))) == {
        "s": [(10, 20, DAY - REMEMBERED_DAYS), (20, 30, DAY)]
    }
    assert len(ledger.received(planted.store, "1", 0, None)) == 0
    assert len(ledger.received(planted.store, "2", 0, None)) == 1  # a new log knows what the old one brought


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_is_what_was_known(planted, seed):
    """The set of a windower that never died, and the one read from its receipts, are the same."""
    dice, live, append = random.Random(seed), Received(), NOON
    for raw_offset in range(60):
        session, low = dice.choice("ab"), dice.randrange(0, 60)
        high, append = low + dice.randrange(1, 9), append + dice.choice((0, 1_000, DAY_MS // 3, DAY_MS // 2))
        low, high = live.take(session, low, high, append // DAY_MS, append // DAY_MS)
        if low < high:
            planted.batch(session, raw_offset, high - low, high, append_time=append)
    assert ranges(ledger.received(planted.store, "1", 0, ledger_row(60, append))) == ranges(live)
