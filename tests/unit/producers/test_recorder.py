"""The SDK as its caller meets it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from infra.control.records import Switch
from infra.errors import TidegateError
from producers import Recorder
from producers.producer import Producer
from schemas.catalogue import KINDS
from schemas.codec import Decoded
from tests.support import wait_until

SUBJECT = "ab" * 16
Make = Callable[..., Producer]
Spooled = Callable[[], Decoded]


def test_every_kind_arrives_as_it_was_recorded(make: Make, spooled: Spooled) -> None:
    """Each call becomes one event with its own values, in order, and the books close."""
    producer = make()
    with Recorder(subject=SUBJECT, screen=(800, 600), producer=producer) as recorder:
        recorder.focus("app.mail", at=1000)
        recorder.pointer_move(3, 4.7, at=1001)
        recorder.pointer_button("right", pressed=True, x=5, y=6, at=1002)
        recorder.wheel(1, -2, x=7, y=8, at=1003)
        recorder.key("letter", pressed=True, at=1004)
        recorder.element("button", "Payslip", at=1005)
        recorder.pause()
        recorder.key("digit", pressed=True)
        recorder.resume()
    report = producer.close(2)
    got = spooled()
    columns = got.columns
    kinds = ("session_start", "focus", "pointer_move", "pointer_button", "wheel", "key", "element",
             "session_pause", "session_resume", "session_end")  # fmt: skip
    assert columns["kind"].tolist() == [KINDS[kind] for kind in kinds]
    assert columns["x"].tolist()[2:5] == [3, 5, 7]
    assert columns["y"].tolist()[2:5] == [4, 6, 8]
    assert columns["button"].tolist()[3] == 2
    assert columns["pressed"].tolist() == [0, 0, 0, 1, 0, 1, 0, 0, 0, 0]
    assert (columns["wheel_x"].tolist()[4], columns["wheel_y"].tolist()[4]) == (1, -2)
    assert columns["key_class"].tolist()[5] == 1
    assert got.headers[0]["applications"] == ["", "app.mail"]
    assert columns["application"].tolist() == [0] + [1] * 9
    assert [h["final"] for h in got.headers] == [False] * (len(got.headers) - 1) + [True]
    assert report.captured == got.headers[-1]["captured"] == len(kinds)
    assert got.headers[-1]["dropped"] == {}


def test_fields_that_the_policy_does_not_list_stay_on_the_device(make: Make, spooled: Spooled) -> None:
    """The demo policy lists no labels, so neither the index nor the text leaves."""
    producer = make()
    with Recorder(subject=SUBJECT, producer=producer) as recorder:
        recorder.element("link", "Sick note of Mira Okonjo")
    producer.close(2)
    got = spooled()
    assert not got.columns["label"].any()
    assert all(header["labels"] == [""] for header in got.headers)


@pytest.mark.parametrize(
    "call",
    [
        lambda r: r.key("a", pressed=True),
        lambda r: r.key("s3cret", pressed=True),
        lambda r: r.key(None, pressed=True),
        lambda r: r.key(["letter"], pressed=True),
        lambda r: r.pointer_move("here", 1),
        lambda r: r.pointer_move(float("nan"), 1),
        lambda r: r.pointer_move(2**70, 1),
        lambda r: r.pointer_move(None, None),
        lambda r: r.pointer_button("thumb", pressed=True, x=0, y=0),
        lambda r: r.pointer_button("left", pressed=np.zeros(2), x=0, y=0),
        lambda r: r.wheel(float("inf"), 0),
        lambda r: r.focus(7),
        lambda r: r.element("button", 7),
        lambda r: r.element("dragon"),
        lambda r: r.pointer_move(1, 1, at=-5),
        lambda r: r.pointer_move(1, 1, at="now"),
    ],
)
def test_a_bad_argument_is_counted_and_neither_raised_nor_kept(
    make: Make, spooled: Spooled, call: Callable[[Any], None]
) -> None:
    """Whatever a caller passes, its program goes on, and the books say `malformed`."""
    producer = make()
    with Recorder(subject=SUBJECT, producer=producer) as recorder:
        call(recorder)
    assert producer.close(2).dropped == {"malformed": 1}
    assert spooled().headers[-1]["captured"] == 3


def test_a_full_buffer_refuses_the_newest(make: Make, spooled: Spooled) -> None:
    """The oldest events are kept, the rest is counted as buffer_full, and nothing blocks."""
    producer = make(buffer_events=100, gate_tick_s=0.3)
    recorder = Recorder(subject=SUBJECT, producer=producer)
    recorder.start()
    producer.wake = lambda: None  # type: ignore[method-assign]  # the ticker sleeps, so that the buffer fills
    for number in range(1000):
        recorder.pointer_move(number, 0)
    recorder.close()
    dropped = producer.close(3).dropped
    assert set(dropped) == {"buffer_full"}
    assert dropped["buffer_full"] >= 500
    assert spooled().columns["x"].tolist()[1:90] == list(range(89))


def test_nothing_is_captured_while_the_control_state_is_not_fresh(make: Make, spooled: Spooled, control: Any) -> None:
    """Default deny: without a fresh view every call is counted as stale, and only counts leave."""
    control.fresh = False
    producer = make()
    recorder = Recorder(subject=SUBJECT, producer=producer)
    assert not recorder.start(wait_s=0.05)
    assert recorder.refusal == "stale"
    for _ in range(5):
        recorder.pointer_move(1, 1)
    recorder.close()
    assert producer.close(2).dropped == {"stale": 7}
    assert len(spooled().columns["kind"]) == 0


def test_a_subject_without_consent_leaves_counts_alone(make: Make, spooled: Spooled) -> None:
    """Somebody who said nothing is not recorded; that events were refused is in the books."""
    producer = make()
    with Recorder(subject="cd" * 16, producer=producer) as recorder:
        recorder.pointer_move(1, 1)
    assert producer.close(2).dropped == {"no_consent": 3}
    assert len(spooled().columns["kind"]) == 0


def test_what_waits_when_a_switch_engages_is_dropped(make: Make, spooled: Spooled, control: Any) -> None:
    """Events captured before the stop but not yet sent are refused too, and capturing stops."""
    producer = make(batch_age_s=60.0)
    recorder = Recorder(subject=SUBJECT, producer=producer)
    recorder.start()
    for _ in range(9):
        recorder.pointer_move(1, 1)
    switch = Switch("s", "everything", "", True, "test", "me", 0, 0)
    control.change(switches={"s": switch})
    wait_until(lambda: recorder.refusal == "switch", 5, "the recorder sees the switch")
    recorder.pointer_move(2, 2)
    recorder.close()
    assert producer.close(2).dropped == {"switch": 12}
    assert len(spooled().columns["kind"]) == 0


def test_what_was_captured_before_a_release_never_leaves(make: Make, spooled: Spooled, control: Any) -> None:
    """A new epoch drops what an earlier one captured; what follows carries the new epoch."""
    producer = make(batch_age_s=60.0)
    recorder = Recorder(subject=SUBJECT, producer=producer)
    recorder.start()
    recorder.pointer_move(1, 1)
    control.change(epoch=1)
    wait_until(lambda: recorder._permit.epoch == 1, 5, "the recorder sees the epoch")
    recorder.pointer_move(2, 2)
    recorder.close()
    assert producer.close(2).dropped == {"epoch": 2}
    got = spooled()
    assert {header["epoch"] for header in got.headers} == {1}
    assert got.columns["x"].tolist() == [2, 0]


def test_a_stuck_ticker_closes_the_gate(make: Make) -> None:
    """A permit that nobody renews runs out: the capturing call itself stops."""
    producer = make(gate_valid_s=0.05, gate_tick_s=0.01)
    recorder = Recorder(subject=SUBJECT, producer=producer)
    recorder.start()
    producer._stopping = True
    producer._thread.join(5)
    wait_until(lambda: recorder._session.dropped["stale"] or recorder.pointer_move(1, 1), 5, "the permit runs out")


def test_calls_after_close_are_ignored_and_counted(make: Make) -> None:
    """A late listener thread cannot write into a closed session."""
    producer = make()
    recorder = Recorder(subject=SUBJECT, producer=producer)
    recorder.start()
    recorder.close()
    recorder.pointer_move(1, 1)
    assert recorder.ignored == 1
    assert recorder.close() is None


def test_threads_may_share_a_recorder(make: Make, spooled: Spooled) -> None:
    """Four threads at once lose and double nothing: captured is exact."""
    producer = make(buffer_events=100_000, gate_valid_s=60.0)
    with Recorder(subject=SUBJECT, producer=producer) as recorder:

        def work() -> None:
            for number in range(2000):
                recorder.pointer_move(number, 0)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report = producer.close(5)
    assert (report.captured, report.dropped) == (8002, {})
    got = spooled()
    assert len(got.columns["kind"]) == 8002
    firsts = [int(header["first_number"]) for header in got.headers]
    assert firsts == np.concatenate(([0], np.cumsum(got.counts["event"])[:-1])).tolist()


def test_a_recorder_needs_one_name_for_its_subject(make: Make) -> None:
    """Neither both nor none: a clear error at construction."""
    with pytest.raises(TidegateError, match="either subject_key or subject"):
        Recorder(producer=make())
