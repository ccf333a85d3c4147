"""The windower's pipeline: what is held, what closes, and what is judged again."""

from __future__ import annotations

from typing import Any

import pytest

from infra.control.records import Switch
from schemas import wire
from schemas.catalogue import KINDS
from streams.data import NotFreshError, WindowSpec
from streams.pipeline_window import WindowPipeline
from streams.received import Received
from tests.streams_support import (
    ANN,
    BLOCK_CODEC,
    BLOCK_ID,
    BOB,
    HOPPING,
    NOW,
    RESEARCH,
    SESSIONS,
    T0,
    TRAINING,
    Log,
    close_all,
    codec_for,
    policy,
    pseudonym,
    raw_message,
    rule,
    view_of,
)


def test_a_window_closes_a_lateness_after_its_end_and_not_before() -> None:
    """The watermark comes from the log; the token names log, partition, windows and slot."""
    log = Log().take(raw_message(0, [T0 + 1, T0 + 9_999])).tick(0, T0 + 14_999)
    assert log.windower().due() == []
    (slot,) = close_all(log.tick(0, T0 + 15_000).windower())
    assert slot.token == f"1/0/tumbling/10000/10000/0/5000/{T0}"
    assert (slot.rows.window_start, slot.rows.window_end) == ([T0], [T0 + 10_000])
    assert slot.rows.events["offset_ms"].tolist() == [1, 9_999]
    assert slot.rows.session == ["s1"]
    assert slot.rows.subject == [pseudonym(ANN)]
    assert (slot.split.kept, slot.rows.stored) == (2, [2])


def test_rows_are_by_session_and_their_applications_are_their_own() -> None:
    """Each row names the applications that its own events show, and no others."""
    log = Log().take(
        raw_message(0, [T0, T0 + 1], session="b", subject=BOB, application=[2, 0]),
        raw_message(1, [T0 + 5], session="a", application=1),
        raw_message(2, [T0 + 3], session="b", subject=BOB, application=1, first_number=2),
    )
    (slot,) = close_all(log.tick(2, T0 + 60_000).windower())
    rows = slot.rows
    assert rows.session == ["a", "b"]
    assert rows.offsets.tolist() == [0, 1, 4]
    assert rows.applications == [["", "editor"], ["", "browser", "editor"]]
    assert rows.events["application"].tolist() == [1, 1, 0, 2]
    assert rows.purposes == [[TRAINING], [TRAINING, RESEARCH]]


def test_events_of_a_row_are_sorted_by_time_and_number() -> None:
    """Whatever order they were captured or arrived in."""
    log = Log().take(
        raw_message(0, [T0 + 500, T0 + 100, T0 + 100]), raw_message(1, [T0 + 100, T0 + 90], first_number=3)
    )
    (slot,) = close_all(log.tick(1, T0 + 60_000).windower())
    assert slot.rows.events["offset_ms"].tolist() == [90, 100, 100, 100, 500]
    assert slot.rows.events["number"].tolist() == [4, 1, 2, 3, 0]


def test_what_the_purposes_of_a_row_are_holds_for_all_its_events() -> None:
    """A consent that changes within a window starts another row."""
    log = Log().take(raw_message(0, [T0])).take(raw_message(1, [T0 + 1], first_number=1), consents={ANN: [RESEARCH]})
    both = view_of(policy(), {pseudonym(ANN): [TRAINING, RESEARCH]})
    (slot,) = close_all(log.tick(1, T0 + 60_000).windower(), both)
    assert slot.rows.purposes == [[TRAINING], [RESEARCH]]
    assert slot.rows.stored == [1, 1]


def test_an_event_is_late_alone() -> None:
    """A device an hour behind loses its own events, counted with its batch."""
    log = Log().take(raw_message(0, [T0 + 3_600_000]))
    log.take(
        raw_message(1, [T0, T0 + 3_600_001], append=T0 + 3_600_002, session="slow"),
        raw_message(2, [T0 + 3_600_003], first_number=1),
    )
    receipts = log.windower().receipts()
    assert receipts is not None
    assert receipts.late == [0, 1, 0]
    assert receipts.kept == [1, 2, 1]


def test_lateness_is_measured_by_the_watermark_before_the_batch() -> None:
    """So it does not matter whether the batch that moved the watermark came in the same block."""
    messages = [raw_message(0, [T0 + 30_000]), raw_message(1, [T0 + 1], append=T0 + 30_000, first_number=1)]
    together = Log().take(*messages).windower().receipts()
    apart = Log().take(messages[0]).take(messages[1]).windower().receipts()
    assert together is not None
    assert apart is not None
    assert together.late == apart.late == [0, 1]


def test_rows_of_a_subject_who_said_no_meanwhile_are_counts() -> None:
    """Nothing of the events is left; the others' rows are not touched."""
    log = Log().take(raw_message(0, [T0, T0 + 1], application=1), raw_message(1, [T0], subject=BOB, session="b"))
    withdrawn = view_of(policy(), {pseudonym(BOB): [TRAINING]})
    (slot,) = close_all(log.tick(1, T0 + 60_000).windower(), withdrawn)
    rows = slot.rows
    assert rows.refused == [{}, {"no_consent": 2}]
    assert rows.session == ["b", "s1"]
    assert (rows.subject, rows.screen_width) == ([pseudonym(BOB), ""], [1920, 0])
    assert rows.stored == [1, 0]
    assert rows.offsets.tolist() == [0, 1, 1]
    assert (rows.purposes, rows.applications) == ([[TRAINING], []], [[""], [""]])
    assert (slot.split.kept, slot.split.dropped) == (1, 2)


def test_a_source_stopped_meanwhile_takes_its_events_out_of_the_row() -> None:
    """The rest of the row stays."""
    switch = Switch("w", "source", "keys", True, "test", "me", T0, 0)
    stopped = view_of(policy(), {pseudonym(ANN): [TRAINING]}, switches={"w": switch})
    log = Log().take(raw_message(0, [T0, T0 + 1, T0 + 2], kinds=[KINDS["key"], KINDS["pointer_move"], KINDS["key"]]))
    (slot,) = close_all(log.tick(0, T0 + 60_000).windower(), stopped)
    assert slot.rows.refused == [{"switch": 2}]
    assert slot.rows.events["number"].tolist() == [1]


def test_an_application_stopped_meanwhile_leaves_not_even_its_name() -> None:
    """Its events are counted; the row's list does not name it."""
    switch = Switch("w", "application", "browser", True, "test", "me", T0, 0)
    stopped = view_of(policy(), {pseudonym(ANN): [TRAINING]}, switches={"w": switch})
    log = Log().take(raw_message(0, [T0, T0 + 1], application=[1, 2]))
    (slot,) = close_all(log.tick(0, T0 + 60_000).windower(), stopped)
    assert slot.rows.refused == [{"switch": 1}]
    assert slot.rows.applications == [["", "editor"]]


def test_what_waited_while_a_switch_was_engaged_is_refused_after_its_release() -> None:
    """In memory or in a topic: captured before, closed after; only what was captured since the release is stored."""
    consents = {pseudonym(ANN): [TRAINING]}
    log = Log().take(raw_message(0, [T0, T0 + 1], application=1))
    waiting = log.windower()
    engaged = view_of(policy(), consents, switches={"w": Switch("w", "everything", "", True, "test", "me", T0, 0)})
    released = view_of(policy(), consents, epoch=1)
    log.take(raw_message(1, [T0 + 2], first_number=2, epoch=1)).tick(1, T0 + 60_000)
    for offset in (1, 2):
        assert waiting.add(offset, log.values[offset], NOW) is None
    for pipeline in (waiting, log.windower()):
        assert close_all(pipeline, engaged)[0].rows.refused == [{"switch": 2}, {"switch": 1}]
        (slot,) = close_all(pipeline, released)
        assert slot.rows.refused == [{"epoch": 2}, {}]
        assert (slot.rows.subject, slot.rows.stored) == (["", pseudonym(ANN)], [0, 1])
        assert slot.rows.applications == [[""], [""]]
        assert slot.rows.events["number"].tolist() == [2]
        assert (slot.split.kept, slot.split.dropped) == (1, 2)


def test_epochs_within_a_window_are_rows_of_their_own() -> None:
    """So that each is judged by itself; session windows are cut by silence all the same."""
    for kind in ({}, SESSIONS):
        log = Log(**kind).take(raw_message(0, [T0, T0 + 600]), raw_message(1, [T0 + 300], first_number=2, epoch=1))
        (slot,) = close_all(log.tick(1, T0 + 60_000).windower())
        assert slot.rows.window_start == [T0, T0]
        assert slot.rows.stored == [2, 1]
        assert slot.rows.events["number"].tolist() == [0, 1, 2]


def test_purposes_and_fields_only_ever_become_fewer() -> None:
    """A purpose withdrawn takes its fields along; one consented to since gives no claim to older events."""
    narrow = {"purposes": (rule(TRAINING, fields=["x"]), rule(RESEARCH, fields=["y"]))}
    log = Log(**narrow).take(raw_message(0, [T0], x=5, y=6, session="a", subject=BOB), raw_message(1, [T0], x=5, y=6))
    now = view_of(policy(**narrow), {pseudonym(BOB): [RESEARCH], pseudonym(ANN): [RESEARCH]})
    (slot,) = close_all(log.tick(1, T0 + 60_000).windower(), now)
    assert slot.rows.purposes == [[RESEARCH], []]
    assert slot.rows.refused == [{}, {"no_consent": 1}]
    assert (slot.rows.events["x"].tolist(), slot.rows.events["y"].tolist()) == ([0], [6])


def test_a_stale_view_closes_nothing() -> None:
    """The slot stays, to be closed when the view is fresh."""
    pipeline = Log().take(raw_message(0, [T0])).tick(0, T0 + 60_000).windower()
    with pytest.raises(NotFreshError):
        close_all(pipeline, view_of(policy(), {}, fresh=False))
    assert len(pipeline.due()) == 1


def test_an_event_of_hopping_windows_counts_once() -> None:
    """It stands in each window, is stored in its primary one, and refused only there."""
    log = Log(**HOPPING).take(raw_message(0, [T0 + 9_000])).tick(0, T0 + 60_000)
    slots = close_all(log.windower())
    assert [slot.slot_start - T0 for slot in slots] == [0, 4_000, 8_000]
    assert [slot.rows.events["offset_ms"].tolist() for slot in slots] == [[9_000], [5_000], [1_000]]
    assert [slot.rows.stored for slot in slots] == [[0], [0], [1]]
    refused = close_all(log.windower(), view_of(policy(), {}))
    assert [slot.rows.refused for slot in refused] == [[{}], [{}], [{"no_consent": 1}]]


def test_a_hopping_event_is_late_only_when_all_its_windows_are_closed() -> None:
    """Until then it goes into those that are open."""
    log = Log(**HOPPING).take(raw_message(0, [T0 + 17_000]))
    log.take(raw_message(1, [T0 + 9_000], append=T0 + 17_000, first_number=1))
    pipeline = log.windower()
    receipts = pipeline.receipts()
    assert receipts is not None
    assert receipts.late == [0, 0]
    log.tick(1, T0 + 90_000)
    starts = {slot.slot_start - T0: slot.rows.stored for slot in close_all(log.windower())}
    assert starts == {4_000: [0], 8_000: [1], 12_000: [0], 16_000: [1]}


def test_session_windows_end_in_silence_or_with_their_slot() -> None:
    """A window ends a gap after its last event; no longer silence is in it."""
    times = [T0 + 100, T0 + 1_099, T0 + 2_099, T0 + 9_500, T0 + 10_000]
    log = Log(**SESSIONS).take(raw_message(0, times, append=T0 + 10_000)).tick(0, T0 + 60_000)
    first, second = close_all(log.windower())
    assert [at - T0 for at in first.rows.window_start] == [100, 2_099, 9_500]
    assert [at - T0 for at in first.rows.window_end] == [2_099, 3_099, 10_000]
    assert first.rows.events["offset_ms"].tolist() == [0, 999, 0, 0]
    assert first.rows.stored == [2, 1, 1]
    assert first.rows.step_ms == [1_999, 1_000, 500]
    assert [at - T0 for at in second.rows.window_start] == [10_000]


def test_session_windows_see_through_a_change_of_consent() -> None:
    """Events of one window that differ in purposes are rows of their own with the same start."""
    log = Log(**SESSIONS).take(raw_message(0, [T0, T0 + 600]))
    log.take(raw_message(1, [T0 + 300, T0 + 900], first_number=2), consents={ANN: [RESEARCH]})
    both = view_of(policy(), {pseudonym(ANN): [TRAINING, RESEARCH]})
    (slot,) = close_all(log.tick(1, T0 + 60_000).windower(), both)
    assert slot.rows.window_start == [T0, T0]
    assert slot.rows.purposes == [[TRAINING], [RESEARCH]]
    assert slot.rows.events["offset_ms"].tolist() == [0, 600, 300, 900]


def test_windows_of_an_old_and_a_new_policy_stand_side_by_side() -> None:
    """Also where only the lateness differs: the slots and their tokens are different ones."""
    log = Log().take(raw_message(0, [T0]))
    log.policy = policy(lateness_ms=9_000, version=2)
    log.take(raw_message(1, [T0 + 1], first_number=1)).tick(1, T0 + 60_000)
    old, new = close_all(log.windower())
    assert old.token != new.token
    assert (old.rows.policy_version, new.rows.policy_version) == ([1], [2])
    assert [slot.key.spec for slot in (old, new)] == [
        WindowSpec("tumbling", 10_000, 10_000, 0, 5_000),
        WindowSpec("tumbling", 10_000, 10_000, 0, 9_000),
    ]


def other_block(**changes: Any) -> bytes:
    """A block that no minimiser writes: one batch of one event, with header or columns changed."""
    value = Log().take(raw_message(0, [T0])).values[0]
    decoded = BLOCK_CODEC.decode([value[wire.FRAME_SIZE :]])
    header, columns = decoded.headers[0], dict(decoded.columns)
    for name, change in changes.items():
        if name in header:
            header[name] = change
        else:
            columns[name] = columns[name] * 0 + change
    return wire.frame(BLOCK_ID, BLOCK_CODEC.encode(header, columns))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"junk!", "not_framed"),
        (wire.frame(12345, b""), "unknown_schema"),
        (other_block()[:-2], None),
        (other_block(partition=1), "block_partition"),
        (other_block(batch_session=[]), "block_lengths"),
        (other_block(batch_kept=2), "block_counts"),
        (other_block(batch_kept=-1), "block_counts"),
        (other_block(batch_count=0), "block_numbers"),
        (other_block(batch_first_number=-1), "block_numbers"),
        (other_block(batch_offset=5), "block_range"),
        (other_block(application=9), "block_indexes"),
        (other_block(batch_base_time=2**62), "block_times"),
        (other_block(window_size_ms=0), "block_windows"),
    ],
)
def test_a_block_that_cannot_be_read_is_a_dead_letter_and_changes_nothing(value: bytes, reason: str | None) -> None:
    """Also one that is Avro but does not fit together."""
    pipeline = WindowPipeline("1", 0, codec_for, None, Received())
    letter = pipeline.add(0, value, NOW)
    assert letter is not None
    assert reason is None or letter.reason == reason
    assert (letter.offset, letter.size, letter.at) == (0, len(value), NOW)
    assert pipeline.receipts() is None
    assert (pipeline.watermark, pipeline.raw_through, pipeline.open_events) == (-1, -1, 0)


def test_an_offset_is_added_once() -> None:
    """The caller seeks; a message out of order is a bug, not data."""
    pipeline = Log().take(raw_message(0, [T0])).windower()
    with pytest.raises(ValueError, match="added before"):
        pipeline.add(0, b"", NOW)


def test_dead_letters_of_the_minimiser_are_receipts_too() -> None:
    """They reach the table through the block, so that losing the dead letter's message loses no count."""
    dead = raw_message(1, [T0])._replace(value=b"??")
    receipts = Log().take(raw_message(0, [T0]), dead).windower().receipts()
    assert receipts is not None
    assert len(receipts) == 1
    assert (receipts.dead.raw_offset, receipts.dead.reason, receipts.dead.size) == ([1], ["not_framed"], [2])
    assert receipts.dead.append_time == [T0]
