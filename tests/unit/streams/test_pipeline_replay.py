"""The windower's pipeline: what is met again, and what a replay needs."""

from __future__ import annotations

import pytest

from streams.data import LedgerRow
from streams.pipeline_window import WindowPipeline
from streams.received import DAY_MS, Arrived, Received
from tests.streams_support import HOPPING, NOW, SESSIONS, T0, Log, close_all, codec_for, raw_message


def test_batches_seen_before_are_skipped() -> None:
    """A block that was sent again, grouped otherwise, adds only what is new."""
    first, second, third = (raw_message(i, [T0 + i], first_number=i) for i in range(3))
    pipeline = Log().take(first, second).take(first).take(second, third).tick(2, T0 + 60_000).windower()
    (slot,) = close_all(pipeline)
    assert slot.rows.events["number"].tolist() == [0, 1, 2]
    receipts = pipeline.receipts()
    assert receipts is not None
    assert receipts.raw_offset == [0, 1, 2]
    assert receipts.block_offset == [0, 0, 2]
    assert (pipeline.repeats, pipeline.raw_gap) == (2, 0)


@pytest.mark.parametrize("kind", ["tumbling", "hopping", "session"])
def test_a_batch_sent_again_under_another_offset_is_stored_once(kind: str) -> None:
    """By its numbers, in every kind of window: no event, no receipt, only a count. Its append time moves the watermark."""
    log = Log(**{"tumbling": {}, "hopping": HOPPING, "session": SESSIONS}[kind])
    log.take(raw_message(0, [T0 + 1, T0 + 2]), raw_message(1, [T0 + 3], first_number=2))
    pipeline = log.take(raw_message(2, [T0 + 1, T0 + 2], append=T0 + 7)).windower()
    receipts = pipeline.receipts()
    assert receipts is not None
    assert (receipts.raw_offset, receipts.late, pipeline.repeats) == ([0, 1], [0, 0], 1)
    assert (pipeline.watermark, pipeline.raw_through) == (T0 + 7, 2)
    stored = sum(sum(slot.rows.stored) for slot in close_all(log.tick(2, T0 + 60_000).windower()))
    assert stored == 3


def test_a_batch_that_comes_after_a_later_one_is_stored() -> None:
    """What went through the spool may be overtaken."""
    log = Log().take(raw_message(0, [T0 + 3], first_number=2)).take(raw_message(1, [T0 + 1, T0 + 2]))
    (slot,) = close_all(log.tick(1, T0 + 60_000).windower())
    assert slot.rows.events["number"].tolist() == [0, 1, 2]


def test_a_batch_sent_again_is_known_after_a_crash() -> None:
    """What had arrived before the replay is passed in."""
    log = Log().take(raw_message(0, [T0], append=T0 + 60_000)).take(raw_message(1, [T0 + 59_999], append=T0 + 60_000))
    row = LedgerRow("1", 0, T0 + 60_000, 1, T0 + 60_000, 0)
    pipeline = WindowPipeline("1", 0, codec_for, row, Received([Arrived("s1", 0, 1, T0 // DAY_MS)], row.watermark))
    pipeline.add(1, log.values[1], NOW)
    assert (pipeline.repeats, pipeline.open_events) == (1, 0)


def test_an_empty_batch_is_never_a_repeat() -> None:
    """It has no number to go by; that the session has ended is written down each time it is said."""
    end = {"first_number": 1, "captured": 1, "final": True}
    log = Log().take(raw_message(0, [T0]), raw_message(1, [], **end)).take(raw_message(2, [], **end))
    pipeline = log.windower()
    receipts = pipeline.receipts()
    assert receipts is not None
    assert (receipts.count, receipts.final, pipeline.repeats) == ([1, 0, 0], [0, 1, 1], 0)


def test_a_batch_that_overlaps_another_in_part_gives_no_event() -> None:
    """No producer of ours sends one: its new numbers are counted as malformed, the old ones stay as they were."""
    log = (
        Log()
        .take(raw_message(0, [T0, T0 + 1]))
        .take(raw_message(1, [T0 + 5, T0 + 6, T0 + 7], first_number=1), raw_message(2, [T0 + 9], first_number=4))
    )
    pipeline = log.tick(2, T0 + 60_000).windower()
    receipts = pipeline.receipts()
    assert receipts is not None
    assert (receipts.first_number, receipts.count, receipts.kept) == ([0, 2, 4], [2, 2, 1], [2, 0, 1])
    assert (receipts.dropped, receipts.captured) == ([{}, {"malformed": 2}, {}], [2, 4, 5])
    (slot,) = close_all(pipeline)
    assert slot.rows.events["number"].tolist() == [0, 1, 4]
    assert slot.rows.events["offset_ms"].tolist() == [0, 1, 9]


def test_raw_offsets_that_no_block_covers_are_counted() -> None:
    """A gap is seen; where the log begins is none."""
    pipeline = Log().take(raw_message(7, [T0])).take(raw_message(10, [T0], first_number=1)).windower()
    assert pipeline.raw_gap == 2


def test_nothing_is_forgotten_before_it_is_confirmed() -> None:
    """A write that fails is tried again with the same content, and the ledger waits for it."""
    pipeline = Log().take(raw_message(0, [T0])).tick(0, T0 + 60_000).windower()
    (first,), (again,) = close_all(pipeline), close_all(pipeline)
    assert first.token == again.token
    assert first.rows.events["number"].tolist() == again.rows.events["number"].tolist()
    waiting = pipeline.ledger_row(2)
    assert (waiting.replay_from, waiting.closed_through) == (0, T0 + 14_999)
    assert (waiting.watermark, waiting.raw_through) == (-1, -1)
    pipeline.confirm(first.key)
    receipts = pipeline.receipts()
    assert receipts is not None
    assert pipeline.ledger_row(2).replay_from == 0  # the receipts are not written yet
    pipeline.confirm_receipts(receipts)
    assert pipeline.receipts() is None
    assert pipeline.ledger_row(2) == LedgerRow("1", 0, T0 + 60_000, 2, T0 + 60_000, 0)
    assert (pipeline.due(), pipeline.open_events) == ([], 0)


def test_receipts_added_meanwhile_stay() -> None:
    """Confirming covers what was written, not what came since."""
    log = Log().take(raw_message(0, [T0])).take(raw_message(1, [T0], first_number=1))
    pipeline = WindowPipeline("1", 0, codec_for, None, Received())
    pipeline.add(0, log.values[0], NOW)
    receipts = pipeline.receipts()
    pipeline.add(1, log.values[1], NOW)
    assert receipts is not None
    pipeline.confirm_receipts(receipts)
    rest = pipeline.receipts()
    assert rest is not None
    assert rest.raw_offset == [1]


def test_a_replay_leaves_out_what_is_stored() -> None:
    """A block read again for a window that is open holds events of windows that are not."""
    log = Log().take(raw_message(0, [T0, T0 + 20_000], append=T0 + 20_000)).tick(0, T0 + 21_000)
    pipeline = log.windower()
    for slot in close_all(pipeline):
        pipeline.confirm(slot.key)
    receipts = pipeline.receipts()
    assert receipts is not None
    pipeline.confirm_receipts(receipts)
    row = pipeline.ledger_row(2)
    assert (row.replay_from, row.closed_through) == (0, T0 + 21_000)
    (slot,) = close_all(log.tick(0, T0 + 60_000).windower(row))
    assert slot.slot_start == T0 + 20_000


def test_a_ledger_row_of_another_log_is_refused() -> None:
    """Offsets of two logs are never compared."""
    with pytest.raises(ValueError, match="given for"):
        WindowPipeline("2", 0, codec_for, LedgerRow("1", 0, 0, 0, 0, 0), Received())
