"""How records change the control state; above all, what a broken record may not do."""

from __future__ import annotations

from infra.control.records import Standing, Unreadable, consent_key
from infra.control.state import ControlState, Entry, apply, standing_of

POLICY, CONSENT, SWITCH, STANDING = "control.policy", "control.consent", "control.switch", "control.standing"
BROKEN = Unreadable("truncated")


def test_a_repeat_changes_nothing(make):
    """A record at an offset that is applied already leaves the state as it is."""
    state = make.state(make.policy(version=2))
    again = apply(state, [Entry(POLICY, 0, "policy", make.policy(version=3))], make.now)
    assert again.policy.version == 2
    assert again.version == state.version


def test_the_highest_policy_version_stands(make):
    """A lower version written later is ignored and counted; a higher one replaces."""
    state = make.state(make.policy(version=5), make.policy(version=4))
    assert state.policy.version == 5
    assert state.ignored[POLICY, "lower_version"] == 1
    assert make.more(state, make.policy(version=6)).policy.version == 6


def test_one_version_has_one_content(make):
    """The same version with another content is ignored; the same content written again is not."""
    state = make.state(make.policy(), make.policy(grid_px=1), make.policy(applied_at=make.now))
    assert state.policy.grid_px == 8
    assert state.policy.applied_at == make.now
    assert state.ignored == {(POLICY, "same_version_other_content"): 1}


def test_an_unreadable_policy_leaves_the_one_before_and_a_tombstone_leaves_none(make):
    """Neither lets more pass: the broken record is counted, the removed policy closes the gate."""
    state = make.state(make.policy(), (POLICY, "policy", BROKEN))
    assert state.policy == make.policy()
    assert state.ignored == {(POLICY, "truncated"): 1}
    assert make.more(state, (POLICY, "policy", None)).policy is None


def test_consent_that_cannot_be_read_or_was_removed_is_none(make):
    """An unreadable consent and a tombstone both take away what was granted before."""
    key = consent_key(make.subject, make.training)
    for record in (BROKEN, None):
        state = make.state(make.consent(), make.consent(make.research), (CONSENT, key, record))
        assert set(state.words_of(make.subject)) == {make.research}


def test_a_record_under_another_key_is_not_believed(make):
    """A grant written under another subject's key does not grant, since compaction would keep both."""
    state = make.state((CONSENT, consent_key("0" * 32, make.training), make.consent()))
    assert not state.words_of(make.subject)
    assert state.ignored[CONSENT, "wrong_key"] == 1


def test_an_unreadable_switch_stops_everything_until_it_is_released(make):
    """What a broken switch was meant to stop is not known, so it stops all; a release of its key ends that."""
    for record in (BROKEN, make.switch(scope="source", value="keys", name="other")):
        state = make.state((SWITCH, "s", record))
        assert state.switches["s"].scope == "everything"
        assert state.switches["s"].stops(make.now)
        released = make.more(state, make.switch(engaged=False, epoch=1))
        assert not released.switches["s"].stops(make.now)


def test_removing_a_switch_is_no_release(make):
    """A tombstone of an engaged switch is ignored and counted."""
    state = make.state(make.switch(), (SWITCH, "s", None))
    assert state.switches["s"].stops(make.now)
    assert state.ignored == {(SWITCH, "tombstone"): 1}


def test_a_release_dated_in_the_future_has_not_happened_yet(make):
    """The switch stops until the release's own time, and the record is counted."""
    state = make.state(make.switch(engaged=False, at=make.now + 60_000, epoch=1))
    assert state.switches["s"].stops(make.now)
    assert not state.switches["s"].stops(make.now + 60_000)
    assert state.ignored == {(SWITCH, "future"): 1}


def test_the_epoch_never_falls(make):
    """Engaging again under an identifier whose release started an epoch does not take the epoch back."""
    state = make.state(make.switch(engaged=False, epoch=3), make.switch(engaged=True, epoch=0))
    assert state.epoch == 3


def test_only_the_last_record_of_a_key_matters(make):
    """Compaction: the state of all records and of each key's last record let the same pass."""
    every = [
        make.policy(version=1),
        make.policy(version=2),
        make.consent(granted=True),
        make.consent(granted=False),
        make.consent(make.research),
        make.switch(),
        make.switch(engaged=False, epoch=1),
    ]
    last = [make.policy(version=2), make.consent(granted=False), make.consent(make.research), every[-1]]
    full, compacted = make.state(*every), make.state(*last)
    assert (full.policy, full.switches, full.epoch) == (compacted.policy, compacted.switches, compacted.epoch)
    assert full.words_of(make.subject) == compacted.words_of(make.subject)


def test_a_producer_holds_nobody_elses_consent(make):
    """With `only`, the consents of others are applied as offsets and kept nowhere."""
    state = make.state(make.consent(), make.consent(subject="f" * 32), only=frozenset({make.subject}))
    assert set(state.consents) == {make.subject}
    assert state.applied[CONSENT] == 1


def test_states_share_nothing_that_changes(make):
    """Applying a record leaves the state before it untouched."""
    before = make.state(make.consent())
    words = dict(before.words_of(make.subject))
    make.more(before, make.consent(make.research), make.switch(), make.policy())
    assert dict(before.words_of(make.subject)) == words
    assert before.policy is None
    assert not before.switches


def test_the_version_grows_only_when_a_verdict_can_change(make):
    """An ignored record moves the offset, not the version, so cached verdicts stay."""
    state = make.state(make.policy(version=2))
    after = make.more(state, make.policy(version=1))
    assert after.applied[POLICY] == 1
    assert after.version == state.version
    assert make.more(after, make.consent()).version > state.version


def test_standing_follows_the_translation_and_ignores_one_that_lags(make):
    """A pseudonym's last record stands, unless it is based on an earlier offset of control.consent."""
    newer = Standing("p", (), (), 9)
    older = Standing("p", (make.training,), ("1",), 5)
    state = make.state(newer, Standing("", (), (), 9), older, Standing("", (), (), 5), mode="standing")
    assert not state.words_of("p")
    assert state.consent_reached == 9
    assert state.ignored == {(STANDING, "lagging"): 1}
    granted = make.more(state, Standing("p", (make.training,), ("1",), 10))
    assert granted.words_of("p")[make.training].notice == "1"


def test_standing_leaves_out_what_does_not_stand(make):
    """A withdrawn or future consent, and everything of a subject whom a switch covers, is not translated."""
    records = (make.consent(), make.consent(make.research, granted=False))
    state = make.state(*records)
    assert standing_of(state, make.subject, "p", make.now).purposes == (make.training,)
    stopped = make.more(state, make.switch("subject", make.subject))
    assert standing_of(stopped, make.subject, "p", make.now).purposes == ()
    future = make.state(make.consent(at=make.now + 60_000))
    assert standing_of(future, make.subject, "p", make.now).purposes == ()
    assert standing_of(future, make.subject, "p", make.now + 60_000).purposes == (make.training,)


def test_another_log_begins_with_nothing(make):
    """Nothing of the old log holds in the new one, and cached verdicts do not either."""
    state = make.state(make.policy(), make.consent(), make.switch(epoch=2))
    new = state.restarted("2")
    assert (new.policy, dict(new.consents), dict(new.switches), new.epoch) == (None, {}, {}, 0)
    assert not new.applied
    assert new.version > state.version
    assert new == ControlState("2", version=new.version)
