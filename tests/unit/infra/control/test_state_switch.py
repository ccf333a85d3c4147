"""How switches are engaged and released, and by whom, whatever order the topics are read in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.control import signing
from infra.control.records import (
    MAX_SKEW_MS,
    Switch,
    Unreadable,
    consent_key,
    decode,
)
from infra.control.state import ControlState, Entry, apply
from tests.approvers import ANNA, BEN, EVE

POLICY, CONSENT, SWITCH = "control.policy", "control.consent", "control.switch"
BROKEN = Unreadable("truncated")
CARL = b"c" * 32


def test_engaging_takes_nobodys_signature(make):
    """Any record that says so engages, dated whenever."""
    for at in (0, make.now, make.now + 3_600_000):
        assert make.state(make.switch(at=at)).switches["s"].stops(make.now)


def test_a_switch_in_plain_json_engages(make):
    """What a stock Kafka client writes is a switch like any other, and is released like one."""
    said = decode(SWITCH, b'{"scope": "source:keys", "reason": "leak"}', key="s", at=make.now)
    state = make.state(make.policy(), (SWITCH, "s", said))
    assert (state.switches["s"].scope, state.switches["s"].value) == ("source", "keys")
    assert not make.more(state, make.release(state)).switches["s"].stops(make.now)


def test_a_release_takes_two_approvers(make):
    """Unsigned, signed by one, by one twice, by one and a stranger, or for another log: still engaged; by two: not."""
    state = make.state(make.policy(), make.switch())
    for by in [(), (ANNA,), (ANNA, ANNA), (ANNA, EVE)]:
        after = make.more(state, make.release(state, by=by))
        assert after.switches["s"].stops(make.now)
        assert after.epoch == 0
        assert after.ignored == {(SWITCH, "not_approved"): 1}
    elsewhere = signing.sign(make.release(state, by=()), "another log", ANNA, BEN)
    assert make.more(state, elsewhere).switches["s"].stops(make.now)
    assert not make.more(state, make.release(state)).switches["s"].stops(make.now)


def test_where_no_policy_ever_was_nobody_can_release(make):
    """There are no approvers, whoever signs."""
    state = make.state(make.switch())
    assert make.more(state, make.release(state)).switches["s"].stops(make.now)


def test_a_release_names_the_record_that_engaged(make):
    """One that names another record, or that is written again after the switch was engaged again, is replayed."""
    state = make.state(make.policy(), make.switch())
    wrong = make.release(make.switch(at=make.now - 51))
    assert make.more(state, wrong).ignored == {(SWITCH, "replayed"): 1}
    release = make.release(state)
    again = make.more(state, release, make.switch(at=make.now), release)
    assert again.switches["s"].stops(make.now)
    assert again.ignored == {(SWITCH, "replayed"): 1}
    assert not make.more(again, make.release(again)).switches["s"].stops(make.now)


def test_a_release_is_taken_once_even_where_the_same_record_engages_again(make):
    """A client that writes its record twice engages twice, and the old release does not end the second time."""
    state = make.state(make.policy(), make.switch())
    release = make.release(state)
    again = make.more(state, release, make.switch(), release)
    assert again.switches["s"].stops(make.now)
    assert again.ignored == {(SWITCH, "replayed"): 1}
    assert not make.more(again, make.release(again, at=make.now)).switches["s"].stops(make.now)


def test_releasing_what_is_not_engaged_does_nothing(make):
    """No epoch begins, neither for a switch that never was nor for one that is released."""
    assert make.state(make.policy(), make.release(make.switch())).ignored == {(SWITCH, "not_engaged"): 1}
    state = make.state(make.policy(), make.switch())
    twice = make.more(state, make.release(state), make.release(state, at=make.now))
    assert twice.epoch == 1
    assert twice.ignored == {(SWITCH, "not_engaged"): 1}


def test_a_release_dated_ahead_is_ignored(make):
    """Beyond what clocks may differ the switch stays engaged, also once that moment has come."""
    state = make.state(make.policy(), make.switch())
    after = make.more(state, make.release(state, at=make.now + MAX_SKEW_MS + 1))
    assert after.switches["s"].stops(make.now + 3_600_000)
    assert after.ignored == {(SWITCH, "future"): 1}
    assert not make.more(state, make.release(state, at=make.now + MAX_SKEW_MS)).switches["s"].stops(make.now)


def test_a_release_stops_on_until_its_date_has_come(make):
    """To a gate whose clock is slow, a release from its future has not happened yet."""
    state = make.state(make.policy(), make.switch())
    released = make.more(state, make.release(state)).switches["s"]
    assert released.stops(make.now - 60_000)
    assert not released.stops(make.now)


@pytest.mark.parametrize("record", [BROKEN, Switch("other", "source", "keys", True, "r", "b", 1, 0)])
def test_a_switch_that_cannot_be_read_stops_everything_until_it_is_released(make, record):
    """What a broken record, or one under another key, was meant to stop is not known: so it stops all."""
    state = make.state(make.policy(), (SWITCH, "s", record))
    assert state.switches["s"].scope == "everything"
    assert state.switches["s"].stops(make.now)
    assert not make.more(state, make.release(state)).switches["s"].stops(make.now)


def test_a_switch_without_a_name_gets_one(make):
    """Two that cannot be read and have no key both hold, and each has its own release."""
    state = make.state(make.policy(), (SWITCH, "", BROKEN), (SWITCH, "", BROKEN))
    assert set(state.switches) == {"unreadable-0", "unreadable-1"}
    after = make.more(state, make.release(state, name="unreadable-0"))
    assert [each.stops(make.now) for each in after.switches.values()] == [False, True]


def test_removing_a_switch_is_no_release(make):
    """A tombstone of an engaged switch is ignored and counted."""
    state = make.state(make.switch(), (SWITCH, "s", None))
    assert state.switches["s"].stops(make.now)
    assert state.ignored == {(SWITCH, "removed"): 1}


def test_engaging_again_over_the_same_changes_nothing(make):
    """The first record stands, so what its release must name does not move under the approvers' hands."""
    state = make.state(make.policy(), make.switch("source", "keys"))
    release = make.release(state)
    again = make.more(state, make.switch("source", "keys", at=make.now, reason="other"))
    assert again.switches == state.switches
    assert again.version == state.version
    assert not make.more(again, release).switches["s"].stops(make.now)


def test_engaging_again_over_something_else_holds_both(make):
    """Neither replaces the other, each is released for itself, and engaging either again changes nothing."""
    keys, pointer = make.switch("source", "keys"), make.switch("source", "pointer", at=make.now - 40)
    state = make.state(make.policy(), keys, pointer)
    assert {(each.scope, each.value) for each in state.switches.values()} == {("source", "keys"), ("source", "pointer")}
    later = (replace(pointer, at=make.now), replace(keys, at=make.now), pointer)
    assert make.more(state, *later).switches == state.switches
    other = next(name for name in state.switches if name != "s")
    first = make.more(state, make.release(state))
    assert [name for name, each in first.switches.items() if each.engaged] == [other]
    both = make.more(first, make.release(first, name=other))
    assert not any(each.engaged for each in both.switches.values())
    assert both.epoch == 2


def test_many_switches_under_one_name_all_hold(make, monkeypatch):
    """Even where the shortened digests of two records are the same."""
    monkeypatch.setattr(signing, "digest", lambda record, log: f"abcdef-{record.value}")
    values = ("keys", "pointer", "wheel", "focus")
    state = make.state(*(make.switch("source", value) for value in values))
    assert sorted(each.value for each in state.switches.values() if each.engaged) == sorted(values)


def test_each_release_is_an_epoch_and_none_falls(make):
    """One higher than before, or as high as the release says; engaging does not touch it."""
    state = make.state(make.policy(), make.switch())
    seen = []
    for number, epoch in enumerate((0, 7, 3)):
        state = make.more(state, make.release(state, epoch=epoch))
        seen.append(state.epoch)
        state = make.more(state, make.switch(at=make.now + number))
        seen.append(state.epoch)
    assert seen == [1, 1, 7, 7, 8, 8]


def test_approvers_are_those_of_the_policy_when_the_broker_took_the_record(make):
    """Who became one later does not count before, and who was removed does not count after."""
    state = make.state(make.policy(), make.switch(), now=make.now)
    second = make.policy(version=2, approvers=make.anna_and_carl)
    early = make.more(state, make.release(state, by=(ANNA, CARL)), now=make.now + 100)
    assert make.more(early, second, now=make.now + 200).switches["s"].engaged
    after = make.more(state, second, now=make.now + 200)
    assert make.more(after, make.release(state), now=make.now + 300).switches["s"].engaged
    assert not make.more(after, make.release(state, by=(ANNA, CARL)), now=make.now + 300).switches["s"].engaged


def test_a_gate_that_starts_decides_as_one_that_was_there(make):
    """Read after all policies, a release is judged by the approvers of its own time, however soon they changed."""
    engaged = make.switch()
    policies = [
        Entry(POLICY, 0, "policy", make.policy(), make.now),
        Entry(POLICY, 1, "policy", make.policy(version=2, approvers=make.anna_and_carl), make.now + 200),
    ]
    for by, released in [((ANNA, BEN), True), ((ANNA, CARL), False)]:
        switches = [
            Entry(SWITCH, 0, "s", engaged, make.now + 10),
            Entry(SWITCH, 1, "s", make.release(engaged, by=by), make.now + 100),
        ]
        live = apply(ControlState(make.log), [policies[0], *switches, policies[1]], make.now)
        started = apply(ControlState(make.log), [*policies, *switches], make.now)
        assert live.switches == started.switches
        assert live.switches["s"].engaged is not released


@pytest.mark.parametrize(("by", "released"), [((ANNA, BEN), False), ((ANNA, CARL), True)])
def test_a_policy_read_late_decides_again(make, by, released):
    """A release that was read before the policy that was already in force comes out as if it had been read after."""
    engaged, second = make.switch(), make.policy(version=2, approvers=make.anna_and_carl)
    before = [Entry(POLICY, 0, "policy", make.policy(), make.now), Entry(SWITCH, 0, "s", engaged, make.now + 10)]
    policy = Entry(POLICY, 1, "policy", second, make.now + 100)
    release = Entry(SWITCH, 1, "s", make.release(engaged, by=by), make.now + 200)
    again = Entry(SWITCH, 2, "t", make.switch("source", "keys", name="t"), make.now + 300)
    in_order = apply(ControlState(make.log), [*before, policy, release, again], make.now)
    late = ControlState(make.log)
    for entry in [*before, release, again, policy]:
        late = apply(late, [entry], make.now)
    assert late.switches == in_order.switches
    assert late.pending == in_order.pending
    assert late.switches["s"].engaged is not released
    assert late.epoch == 1, "an epoch that has begun does not end"


@pytest.mark.parametrize(("by", "granted"), [((ANNA, BEN), False), ((ANNA, CARL), True)])
def test_a_policy_read_late_decides_anew_what_approvers_said_for_others(make, by, granted):
    """And what the subject said since, on top of that."""
    second = make.policy(version=2, approvers=make.anna_and_carl)
    key, other = consent_key(make.subject, make.training), consent_key(make.subject, make.research)
    before = [
        Entry(POLICY, 0, "policy", make.policy(), make.now),
        Entry(CONSENT, 0, key, make.consent(granted=False), make.now),
    ]
    policy = Entry(POLICY, 1, "policy", second, make.now + 100)
    after = [
        Entry(CONSENT, 1, key, make.consent(at=make.now, by=by), make.now + 200),
        Entry(CONSENT, 2, other, make.consent(make.research, at=make.now), make.now + 210),
        Entry(CONSENT, 3, key, make.consent(granted=False, at=make.now + 20), make.now + 220),
        Entry(CONSENT, 4, key, make.consent(at=make.now + 30, by=by), make.now + 230),
    ]
    for length in (1, 2, 3, 4):
        in_order = apply(ControlState(make.log), [*before, policy, *after[:length]], make.now)
        late = ControlState(make.log)
        for entry in [*before, *after[:length], policy]:
            late = apply(late, [entry], make.now)
        assert late.consents == in_order.consents
        assert late.pending == in_order.pending
    assert late.words_of(make.subject)[make.training].granted is granted


def test_what_lacks_only_a_signature_waits_for_all_to_see(make):
    """One approver's release, policy or consent is pending; a stranger's is not; what completes it ends that."""
    state = make.state(make.policy(purposes=make.less), make.switch())
    release, consent = make.release(state, by=(ANNA,)), make.consent(by=(BEN,))
    policy = make.policy(version=2, by=(ANNA,))
    waiting = make.more(state, release, consent, policy)
    key = consent_key(make.subject, make.training)
    assert waiting.pending == {(SWITCH, "s"): release, (CONSENT, key): consent, (POLICY, "policy"): policy}
    assert waiting.version == state.version, "no verdict changes"
    assert not make.more(state, make.release(state, by=(EVE,)), make.consent(by=(EVE,))).pending
    done = make.more(waiting, *(signing.sign(record, make.log, ANNA, BEN) for record in (release, consent, policy)))
    assert not done.pending
    withdrawn = make.more(waiting, make.consent(granted=False, at=make.now))
    assert set(withdrawn.pending) == {(SWITCH, "s"), (POLICY, "policy")}
