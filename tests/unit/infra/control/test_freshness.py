"""Freshness with clocks that the test moves: what opens a gate, and above all what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.control.freshness import MAX_AGE, Pulse, authority_ms, hear, why_clock_is_wrong, why_closed
from infra.control.records import MAX_SKEW_MS, Heartbeat, Standing
from infra.control.state import TOPICS, ControlState

ALL = frozenset(TOPICS["authority"])
NOTHING_THERE = dict.fromkeys(TOPICS["authority"], -1)


class World:
    """A gate that hears heartbeats; `now` is true time in seconds, its monotonic clock began long ago."""

    def __init__(self, state: ControlState | None = None) -> None:
        self.now = 1_700_000_000.0
        self.state = state or ControlState("1")
        self.pulse = Pulse(log="1")
        self.ends = ALL
        self.wall_off_ms = 0

    def hear(self, sequence: int, sent: float | None = None, offset: int | None = None, **changes) -> None:
        at = int((self.now if sent is None else sent) * 1000)
        values = {"authority": "a", "log": "1", "sequence": sequence, "at": at, "applied": NOTHING_THERE}
        heartbeat = Heartbeat(**{**values, **changes})
        self.pulse = hear(self.pulse, heartbeat, self.now - 1e6, int(self.now * 1000) + self.wall_off_ms, offset)

    def beat(self, sequences, **changes) -> None:
        for sequence in sequences:
            self.now += 0.2
            self.hear(sequence, **changes)

    def why(self) -> str:
        return why_closed(self.pulse, self.state, self.ends, self.now - 1e6)


@pytest.fixture
def world() -> World:
    return World()


def test_closed_until_a_heartbeat_proves_to_be_live(world):
    """None is not enough, one is not enough: the second, as much later as it says, opens."""
    assert "no live heartbeat" in world.why()
    world.beat([1])
    assert "no live heartbeat" in world.why()
    world.beat([2])
    assert world.why() == ""


def test_closes_when_heartbeats_stop_and_opens_when_they_go_on(world):
    """The last heartbeat is good for MAX_AGE seconds and not longer."""
    world.beat([1, 2])
    world.now += MAX_AGE - 0.01
    assert world.why() == ""
    world.now += 0.02
    assert "old" in world.why()
    world.beat([3])
    assert world.why() == ""


def test_a_backlog_of_old_heartbeats_opens_nothing(world):
    """Heartbeats written 200 ms apart and read all at once do not count, though each is newer than the last."""
    start = world.now
    for sequence in range(1, 20):
        world.now += 0.001
        world.hear(sequence, sent=start - 4 + 0.2 * sequence)
        assert world.why() != ""


def test_a_backlog_read_with_a_pause_opens_nothing_for_long(world):
    """A pause that makes two old heartbeats look live is found out by the next that leaps ahead."""
    start = world.now
    world.hear(1, sent=start - 4)
    world.now += 0.2
    world.hear(2, sent=start - 3.8)
    world.now += 0.001
    world.hear(3, sent=start - 2)
    assert "no live heartbeat" in world.why()


@pytest.mark.parametrize("authority", ["a", "b"])
def test_a_log_that_begins_again_under_its_name_closes_for_good(world, authority):
    """A new heartbeat where an older one stood, of the same authority or of one that was started since."""
    for sequence in range(1, 30):
        world.now += 0.2
        world.hear(sequence, offset=100 + sequence)
    assert world.why() == ""
    for sequence in range(30, 180):
        world.now += 0.2
        world.hear(sequence, offset=sequence - 30, authority=authority)
        assert "started anew" in world.why()


@pytest.mark.parametrize("set_by", [-3600, 3600])
def test_a_clock_that_is_set_is_wrong_at_once(world, set_by):
    """Not only when the next heartbeat comes; before any heartbeat nothing is known of it."""

    def why(seconds: float) -> str:
        return why_clock_is_wrong(world.pulse, world.now - 1e6, int((world.now + seconds) * 1000))

    assert why(set_by) == ""
    world.beat([1, 2])
    assert why(0) == why(MAX_SKEW_MS / 1000) == ""
    assert "3600 s from the authority's" in why(set_by)


def test_heartbeats_read_again_from_an_earlier_place_close_nothing(world):
    """Some brokers name an end that is too low; what was counted before is recognised, wherever it is read again."""
    sent = {}
    for sequence in range(1, 10):
        world.now += 0.2
        sent[sequence] = world.now
        world.hear(sequence, offset=sequence)
    for sequence in range(3, 10):
        world.hear(sequence, sent=sent[sequence], offset=sequence)
    world.now += 0.2
    world.hear(10, offset=10)
    assert world.why() == ""


def test_the_same_heartbeats_written_again_open_nothing(world):
    """A replayed heartbeat has no newer sequence and time, so the gate closes as if it had not come."""
    world.beat([1, 2])
    old = world.now
    world.now += MAX_AGE + 0.1
    for _ in range(10):
        world.now += 0.2
        world.hear(1, sent=old - 0.2)
        world.hear(2, sent=old)
        assert "old" in world.why()


def test_one_heartbeat_written_again_and_again_opens_no_gate_that_starts(world):
    """To a gate that knows no better, the same record at a steady pace is still one heartbeat."""
    sent = world.now - 0.5
    for _ in range(10):
        world.now += 0.2
        world.hear(7, sent=sent)
        assert "no live heartbeat" in world.why()


def test_old_heartbeats_open_no_gate_that_starts_later(world):
    """At the pace at which they were written, but dated further back than clocks may differ: not counted."""
    for sequence in range(1, 10):
        world.now += 0.2
        world.hear(sequence, sent=world.now - MAX_SKEW_MS / 1000 - 1)
        assert world.why() != ""


def test_heartbeats_that_all_come_late_grow_stale(world):
    """A stream that falls behind is stale though heartbeats keep arriving."""
    world.beat([1, 2, 3])
    world.now += 2.0
    for sequence in range(4, 10):
        world.now += 0.2
        world.hear(sequence, sent=world.now - 1.5)
        assert "old" in world.why()


def test_a_late_heartbeat_does_not_close_an_open_gate(world):
    """Some delay and jitter, well under MAX_AGE, are life."""
    world.beat([1, 2, 3])
    for sequence, delay in enumerate([0.3, 0.0, 0.5, 0.1, 0.0, 0.4], 4):
        world.now += 0.2
        world.hear(sequence, sent=world.now - delay + 0.0001 * sequence)
        assert world.why() == ""


@pytest.mark.parametrize("off_ms", [-3_600_000, 3_600_000])
def test_clocks_apart_close(world, off_ms):
    """With the local clock an hour off, nothing is fresh; set right again, it is."""
    world.beat([1, 2])
    world.wall_off_ms = off_ms
    world.beat(range(3, 10))
    assert "old" in world.why()
    world.wall_off_ms = 0
    world.beat([10])
    assert world.why() == ""


def test_the_local_clock_set_while_open_does_not_lengthen_freshness(world):
    """Age is measured on the monotonic clock: a jump of the wall clock within the tolerance changes nothing."""
    world.beat([1, 2])
    world.wall_off_ms = -4_000
    world.now += MAX_AGE + 0.1
    assert "old" in world.why()


def test_every_named_offset_must_be_applied(world):
    """One record behind on any topic is closed, and the topic is named."""
    world.state = ControlState("1", applied={"control.policy": 0, "control.consent": 4, "control.switch": 6})
    applied = {**NOTHING_THERE, "control.policy": 0, "control.consent": 4, "control.switch": 6}
    world.beat([1, 2], applied=applied)
    assert world.why() == ""
    world.beat([3], applied={**applied, "control.switch": 7})
    assert world.why() == "control.switch is applied up to offset 6 of 7"


def test_an_authority_that_lags_cannot_open_what_another_closed(world):
    """The highest offset ever named counts, whoever named it."""
    world.beat([1, 2])
    world.beat([1, 2], authority="b", applied={**NOTHING_THERE, "control.switch": 0})
    world.beat([3, 4, 5])
    assert world.why() == "control.switch is applied up to offset -1 of 0"


def test_a_topic_that_is_not_named_or_not_read_to_its_end_is_closed(world):
    """A gate does not take silence about a topic for emptiness."""
    world.beat([1, 2], applied={"control.policy": -1, "control.consent": -1})
    assert "does not say how far control.switch" in world.why()
    world.beat([3])
    assert world.why() == ""
    world.ends = ALL - {"control.switch"}
    assert "control.switch has not been read to its end" in world.why()


@pytest.mark.parametrize(
    ("consents", "switches", "why"),
    [
        (2, 5, "control.standing translates control.consent up to offset 2 of 3"),
        (3, 4, "control.standing translates control.switch up to offset 4 of 5"),
        (3, 5, ""),
        (9, 9, ""),
    ],
)
def test_a_gate_of_pseudonyms_waits_for_the_translation(make, consents, switches, why):
    """It is closed until the standing's progress reaches what is named for control.consent and control.switch."""
    named = {**NOTHING_THERE, "control.consent": 3, "control.switch": 5, "control.standing": 0}
    state = make.state(Standing("", (), (), consents, switches), mode="standing")
    world = World(replace(state, applied={**state.applied, "control.switch": 5}))
    world.beat([1, 2], applied=named)
    assert world.why() == why


def test_a_gate_of_pseudonyms_is_closed_from_reading_a_switch_until_it_is_translated(make):
    """It acknowledges what it has read; were it open meanwhile, a subject's switch would not hold there yet."""
    state = make.state(Standing("", (), (), 3, 5), mode="standing")
    world = World(replace(state, applied={**state.applied, "control.switch": 6}))
    world.beat([1, 2], applied={**NOTHING_THERE, "control.consent": 3, "control.switch": 5, "control.standing": 0})
    assert world.why() == "control.standing translates control.switch up to offset 5 of 6"


def test_a_gate_of_pseudonyms_does_not_take_silence_about_consents_for_emptiness(make):
    """It is closed while nobody says how far control.consent reaches, although it does not read it."""
    world = World(make.state(Standing("", (), (), 3, 5), mode="standing"))
    named = {topic: offset for topic, offset in NOTHING_THERE.items() if topic != "control.consent"}
    world.beat([1, 2], applied={**named, "control.standing": 0})
    assert "does not say how far control.consent" in world.why()


def test_a_live_heartbeat_of_another_log_closes(world):
    """The broker began a new life, or an authority of the old one still speaks: they disagree, so closed."""
    world.beat([1, 2])
    world.hear(1, authority="b", log="2")
    assert world.why() == "", "one heartbeat may be an old one"
    world.beat([2], authority="b", log="2")
    assert "log 2" in world.why()
    assert world.pulse.other_log(world.now - 1e6) == "2"
    world.beat([3, 4, 5, 6, 7, 8, 9])
    assert world.why() == ""


def test_offsets_of_another_log_are_never_compared(world):
    """What a heartbeat of another log names does not count here."""
    world.beat([1, 2])
    world.hear(1, authority="b", log="2", applied={**NOTHING_THERE, "control.switch": 99})
    world.beat([3])
    assert world.why() == ""


def test_a_silent_authority_is_forgotten_and_heard_again_as_a_new_one(world):
    """After a minute its name is free: it must prove to be live again, and its old heartbeats are too old to count."""
    world.beat([5, 6])
    old = world.now
    for sequence in range(1, 70):
        world.now += 1.0
        world.hear(sequence, authority="b")
    assert set(world.pulse.heard) == {"b"}
    for _ in range(3):
        world.now += 0.2
        world.hear(6, sent=old)
    assert set(world.pulse.heard) == {"b"}, "a replayed one is dated too far back"
    world.beat([1])
    assert not world.pulse.heard["a"].live
    world.beat([2])
    assert world.pulse.heard["a"].live


def test_the_authoritys_clock_goes_on_between_heartbeats(world):
    """A gate whose own clock is wrong dates by it; before any heartbeat there is none."""
    assert authority_ms(world.pulse, 0.0) is None
    world.wall_off_ms = 4_000
    world.beat([1, 2])
    world.now += 0.5
    assert authority_ms(world.pulse, world.now - 1e6) == pytest.approx(world.now * 1000, abs=2)
