"""The minimiser's pipeline: what passes, what is refused, what is taken away, and what a block says of it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from infra.control.records import Switch
from infra.errors import TidegateError
from schemas import wire
from schemas.catalogue import KINDS
from streams.data import MAX_BATCH_EVENTS, NotFreshError, RawMessage
from tests.streams_support import (
    ANN,
    BOB,
    OTHER_RAW_ID,
    RAW_ID,
    RESEARCH,
    T0,
    TRAINING,
    minimiser,
    policy,
    raw_body,
    raw_message,
    read_block,
    rule,
    view_of,
)

OPEN = view_of(policy(), {ANN: [TRAINING], BOB: [TRAINING, RESEARCH]})
NOW = T0 + 60_000


def run(*messages: RawMessage, view=OPEN, now=NOW):
    out = minimiser().process(3, messages, view, now)
    return out, *read_block(out.body)


def test_a_stale_view_passes_nothing_and_loses_nothing() -> None:
    """The take is refused as a whole, to be tried again; it is not counted as dropped."""
    stale = view_of(policy(), {ANN: [TRAINING]}, fresh=False)
    with pytest.raises(NotFreshError):
        minimiser().process(0, [raw_message(0, [T0])], stale, NOW)


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (view_of(None, {ANN: [TRAINING]}), "no_policy"),
        (view_of(policy(valid_until=NOW), {ANN: [TRAINING]}), "policy_expired"),
        (view_of(policy(), {BOB: [TRAINING]}), "no_consent"),
        (view_of(policy(), {ANN: [TRAINING]}, notice="n0"), "notice_changed"),
        (view_of(policy(), {ANN: [TRAINING]}, epoch=1), "epoch"),
    ],
)
def test_a_batch_refused_keeps_its_row_and_names_nobody(view, reason: str) -> None:
    """Every refused event is counted with its reason, beside a batch without a pseudonym."""
    out, header, columns = run(raw_message(5, [T0, T0 + 1]), view=view)
    assert out.stats.split.kept == 0
    assert out.stats.dropped == {reason: 2}
    assert header["batch_subject"] == [""]
    assert header["drop_reason"] == [reason]
    assert (columns["batch_count"].tolist(), columns["batch_kept"].tolist()) == ([2], [0])
    assert columns["drop_count"].tolist() == [2]
    assert len(columns["kind"]) == 0


def test_the_subject_becomes_a_keyed_pseudonym() -> None:
    """Neither the subject nor an unkeyed hash of it stands in a block."""
    out, header, _ = run(raw_message(0, [T0]))
    (pseudonym,) = header["batch_subject"]
    assert len(pseudonym) == 32
    assert ANN.encode() not in out.body
    assert pseudonym != hashlib.sha256(ANN.encode()).hexdigest()[:32]


def test_fields_the_policy_does_not_list_are_zeros() -> None:
    """A field passes only where a purpose of this subject may use it; batches beside it are not touched."""
    mixed = policy(purposes=(rule(TRAINING, fields=["x", "y"]), rule(RESEARCH, fields=["application"])))
    view = view_of(mixed, {ANN: [TRAINING], BOB: [RESEARCH]})
    _, header, columns = run(
        raw_message(0, [T0], x=100, y=50, application=1),
        raw_message(1, [T0], subject=BOB, x=100, y=50, application=2),
        view=view,
    )
    assert columns["x"].tolist() == [100, 0]
    assert columns["y"].tolist() == [50, 0]
    assert [header["applications"][index] for index in columns["application"]] == ["", "browser"]
    assert header["applications"] == ["", "browser"]  # a name that no event shows is not in the block
    assert columns["batch_screen_width"].tolist() == [1920, 0]
    assert columns["batch_purposes"].tolist() == [1, 2]


def test_each_batch_keeps_the_epoch_it_was_captured_in() -> None:
    """Also one of an epoch that this worker has not heard of yet; the gate before the INSERT judges by it."""
    _, _, columns = run(raw_message(0, [T0]), raw_message(1, [T0], subject=BOB, epoch=2), raw_message(2, [], epoch=1))
    assert columns["batch_epoch"].tolist() == [0, 2, 1]


def test_labels_never_pass() -> None:
    """Not even under a policy that lists them."""
    out, _, columns = run(raw_message(0, [T0], kinds=KINDS["element"], label=1, labels=["", "Secret plan"]))
    assert "label" not in columns
    assert b"Secret" not in out.body


def test_positions_and_times_are_rounded_down() -> None:
    """To the grid and to the resolution, also below zero; the base time too."""
    coarse = view_of(policy(grid_px=10, resolution_ms=100), {ANN: [TRAINING]})
    times = [T0 + 199, T0 + 250, T0 + 99]
    _, _, columns = run(raw_message(0, times, base_time=T0 + 123, x=[19, -1, 20], y=9, pressed=3), view=coarse)
    assert columns["batch_base_time"].tolist() == [T0 + 100]
    assert (columns["batch_base_time"] + columns["offset_ms"]).tolist() == [T0 + 100, T0 + 200, T0]
    assert columns["x"].tolist() == [10, -10, 20]
    assert columns["y"].tolist() == [0, 0, 0]
    assert columns["pressed"].tolist() == [1, 1, 1]


def test_a_position_at_the_end_of_its_range_is_no_crash() -> None:
    """Rounding down cannot leave the type."""
    coarse = view_of(policy(grid_px=7), {ANN: [TRAINING]})
    _, _, columns = run(raw_message(0, [T0], x=-(2**31), y=2**31 - 1), view=coarse)
    assert columns["x"].tolist() == [-(2**31)]


def test_events_from_before_the_release_are_refused_whatever_epoch_they_claim() -> None:
    """A device that buffers while it is stopped and sends under the new epoch gets none of that in."""
    view = view_of(policy(), {ANN: [TRAINING]}, epoch=1, epoch_since=T0 + 10)
    message = raw_message(0, [T0 + 8, T0 + 9, T0 + 10, T0 + 11], epoch=1)
    out, _, columns = run(message, view=view)
    assert out.stats.dropped == {"epoch": 2}
    assert columns["number"].tolist() == [2, 3]


def test_events_from_the_future_are_refused_alone() -> None:
    """Up to the tolerance after the append time an event passes, beyond it only that event is refused."""
    times = [T0, T0 + 5_000, T0 + 5_001, T0 + 86_400_000]
    out, _, columns = run(raw_message(0, times, append=T0), raw_message(1, [T0 + 1], subject=BOB, append=T0))
    assert out.stats.dropped == {"future": 2}
    assert columns["number"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("offset", [-(2**62), 2**62])
def test_offsets_that_would_overflow_are_refused(offset: int) -> None:
    """An absurd offset costs its own event, not the arithmetic."""
    out, _, columns = run(raw_message(0, [T0, T0 + offset], base_time=T0, append=T0))
    assert sum(out.stats.dropped.values()) == 1
    assert columns["number"].tolist() == [0]


def test_time_running_backwards_is_kept() -> None:
    """A device may set its clock back; sorting is the windower's part."""
    _, _, columns = run(raw_message(0, [T0 + 500, T0], append=T0 + 500))
    assert columns["offset_ms"].tolist() == [0, -500]
    assert columns["number"].tolist() == [0, 1]


def dead_message(offset: int, value: bytes) -> RawMessage:
    return RawMessage(offset, T0, True, value)


@pytest.mark.parametrize(
    ("value", "reason", "schema_id"),
    [
        (b"", "not_framed", -1),
        (b"\xff\x00garbage", "not_framed", -1),
        (wire.frame(99, b"x"), "unknown_schema", 99),
        (wire.frame(2**32 - 1, b"x"), "unknown_schema", 2**31 - 1),
        (wire.frame(RAW_ID, b"\x80" * 40), None, RAW_ID),
        (wire.frame(RAW_ID, raw_body([T0])[:-3]), "truncated", RAW_ID),
        (wire.frame(RAW_ID, raw_body([T0, T0], captured=1)), "bad_header", RAW_ID),
        (wire.frame(RAW_ID, raw_body([T0], first_number=-1, captured=5)), "bad_header", RAW_ID),
        (wire.frame(RAW_ID, raw_body([T0], dropped={"buffer_full": -1})), "bad_header", RAW_ID),
        (wire.frame(RAW_ID, raw_body([0], base_time=0)), "bad_header", RAW_ID),
        (wire.frame(RAW_ID, raw_body([T0], base_time=2**62)), "bad_header", RAW_ID),
        (wire.frame(RAW_ID, raw_body([T0], session="")), "bad_header", RAW_ID),
        (wire.frame(RAW_ID, raw_body([T0], epoch=-1)), "bad_header", RAW_ID),
        (wire.frame(RAW_ID, raw_body([T0], application=3)), "bad_application", RAW_ID),
        (wire.frame(RAW_ID, raw_body([T0], application=-1)), "bad_application", RAW_ID),
        (wire.frame(RAW_ID, raw_body([T0] * (MAX_BATCH_EVENTS + 1))), "too_many_rows", RAW_ID),
    ],
)
def test_what_cannot_be_read_is_a_dead_letter_between_others(value: bytes, reason: str | None, schema_id: int) -> None:
    """Reason, schema id, size and digest; the messages beside it pass, and the block covers all offsets."""
    out, header, columns = run(raw_message(10, [T0]), dead_message(11, value), raw_message(12, [T0], first_number=1))
    (letter,) = out.dead_letters
    assert reason is None or letter.reason == reason
    assert (letter.offset, letter.schema_id, letter.size) == (11, schema_id, len(value))
    assert letter.digest == hashlib.sha256(value).hexdigest()
    assert header["dead_reason"] == [letter.reason]
    assert columns["dead_offset"].tolist() == [11]
    assert (out.raw_from, out.raw_through) == (10, 12)
    assert columns["batch_offset"].tolist() == [10, 12]
    assert columns["number"].tolist() == [0, 1]


def test_messages_of_several_schemas_keep_their_order() -> None:
    """Each schema is decoded in one pass; the block is in order of the log all the same."""
    messages = [raw_message(i, [T0 + i, T0 + i], first_number=10 * i, x=i) for i in range(4)]
    for i in (0, 3):
        messages[i] = messages[i]._replace(value=wire.frame(OTHER_RAW_ID, messages[i].value[wire.FRAME_SIZE :]))
    _, _, columns = run(*messages)
    assert columns["batch_offset"].tolist() == [0, 1, 2, 3]
    assert columns["number"].tolist() == [0, 1, 10, 11, 20, 21, 30, 31]
    assert columns["x"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_take_of_dead_letters_alone_still_makes_a_block() -> None:
    """So that the windower knows that these offsets were read."""
    out, header, _ = run(dead_message(4, b""), dead_message(5, b"x"))
    assert (out.raw_from, out.raw_through, len(out.dead_letters)) == (4, 5, 2)
    assert header["batch_session"] == []
    assert header["append_time"] == T0


def test_the_producers_own_counts_are_passed_on_under_known_names() -> None:
    """Running totals stay as they are; a word of the producer's own making does not reach the tables."""
    _, header, columns = run(raw_message(0, [T0], dropped={"buffer_full": 3, "my secret": 2}, captured=6))
    counts = dict(zip(header["drop_reason"], columns["drop_count"].tolist(), strict=True))
    assert counts == {"buffer_full": 3, "malformed": 2}
    assert columns["drop_by"].tolist() == [0, 0]


def test_an_application_that_a_switch_stops_is_refused_by_name() -> None:
    """The switch names an application; batches number theirs as they like."""
    switch = Switch("w1", "application", "browser", True, "test", "me", T0, 0)
    stopped = view_of(policy(), {ANN: [TRAINING]}, switches={"w1": switch})
    out, header, _ = run(
        raw_message(0, [T0, T0], application=[1, 2]),
        raw_message(1, [T0, T0], application=[1, 2], applications=["", "browser", "editor"]),
        view=stopped,
    )
    assert out.stats.dropped == {"switch": 2}
    assert header["applications"] == ["", "editor"]


def test_a_policy_whose_windows_cannot_be_made_stops_the_work_and_says_so() -> None:
    """It names the policy and what to do; nothing is dropped."""
    broken = policy(window_kind="hopping", window_size_ms=10_000, window_step_ms=1)
    with pytest.raises(TidegateError, match="policy test version 1 cannot be followed"):
        minimiser().process(0, [raw_message(0, [T0])], view_of(broken, {}), NOW)


def test_without_the_brokers_stamp_no_device_moves_time_forward() -> None:
    """A timestamp a day ahead stands for nothing; one behind does not turn time back."""
    stamps = [NOW - 3_000, NOW + 86_400_000, NOW - 60_000, NOW + 1_000, -1]
    messages = [raw_message(i, [T0])._replace(timestamp_ms=at, append_time_known=False) for i, at in enumerate(stamps)]
    _, header, columns = run(*messages)
    assert columns["batch_append_time"].tolist() == [NOW - 3_000, NOW - 3_000, NOW - 3_000, NOW, NOW]
    assert header["append_time"] == NOW


def test_the_broker_stamp_is_taken_as_it_is() -> None:
    """Where the broker stamps, this worker's clock has no say."""
    _, header, _ = run(raw_message(0, [T0], append=NOW + 10_000))
    assert header["append_time"] == NOW + 10_000


def test_a_quiet_partition_ticks_until_its_last_window_has_closed() -> None:
    """Ticks carry the time of the silence's beginning, and stop."""
    pipeline = minimiser(tick_after_ms=2_000)
    assert pipeline.tick(0, NOW) is None
    pipeline.confirm(pipeline.process(0, [raw_message(9, [T0 + 1])], OPEN, T0 + 10))
    assert pipeline.tick(0, T0 + 1_999) is None
    ticks = [block for at in range(T0 + 2_010, T0 + 60_000, 500) if (block := pipeline.tick(0, at))]
    times = [read_block(block.body)[0]["append_time"] for block in ticks]
    assert times[0] == T0 + 10
    # The window of T0 + 1 ends at 10 s, or at 20 s for an event that the tolerance allows; lateness 5 s.
    assert T0 + 15_000 <= times[-1] <= T0 + 28_000
    assert all(np.diff(times) >= 2_000)
    assert {(block.raw_from, block.raw_through) for block in ticks} == {(10, 9)}


def test_a_partition_whose_messages_move_no_time_ticks_too() -> None:
    """A device whose stamps are worth nothing must not hold open everybody's windows."""
    pipeline = minimiser(tick_after_ms=2_000)
    pipeline.confirm(pipeline.process(0, [raw_message(0, [T0 + 1])], OPEN, T0 + 10))
    liar = raw_message(1, [T0 + 1])._replace(timestamp_ms=T0 + 86_400_000, append_time_known=False)
    pipeline.confirm(pipeline.process(0, [liar], OPEN, T0 + 2_500))
    assert pipeline.tick(0, T0 + 2_600) is not None


def test_a_forgotten_partition_does_not_tick() -> None:
    """Its new owner does."""
    pipeline = minimiser()
    pipeline.confirm(pipeline.process(0, [raw_message(0, [T0])], OPEN, T0))
    pipeline.forget(0)
    assert pipeline.tick(0, T0 + 5_000) is None


def test_what_is_not_confirmed_is_not_remembered() -> None:
    """A take whose send failed is processed again as if for the first time."""
    pipeline = minimiser(tick_after_ms=2_000)
    pipeline.confirm(pipeline.process(0, [raw_message(0, [T0])], OPEN, T0))
    message = raw_message(1, [T0 + 1])._replace(timestamp_ms=T0 + 3_000, append_time_known=False)
    first = pipeline.process(0, [message], OPEN, T0 + 4_000)
    assert pipeline.process(0, [message], OPEN, T0 + 4_000) == first
    tick = pipeline.tick(0, T0 + 2_000)
    assert tick is not None
    assert (tick.raw_from, tick.raw_through) == (1, 0)
    with pytest.raises(ValueError, match="tick"):
        pipeline.confirm(tick)


@pytest.mark.parametrize("stamp", [T0 - 7_000, T0 - 1, T0, T0 + 2_000, T0 + 86_400_000, -1])
def test_a_take_tried_again_later_has_the_append_times_of_the_first_time(stamp: int) -> None:
    """Where the broker does not stamp them: how often a send failed must not decide what is late or in the future."""
    pipeline = minimiser()
    messages = [
        raw_message(i, [T0 + 4_000], append=at)._replace(append_time_known=False) for i, at in enumerate([T0, stamp])
    ]
    first, again = (pipeline.process(0, messages, OPEN, T0 + later, read_ms=T0) for later in (0, 90_000))
    assert again.body == first.body
