"""How records change the control state, policies above all: what one may not do that nobody has signed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.control import signing
from infra.control.records import (
    MAX_SKEW_MS,
    Approver,
    Unreadable,
    consent_key,
)
from infra.control.state import ControlState, Entry, apply
from tests.approvers import ANNA, APPROVERS, BEN, EVE

POLICY, CONSENT = "control.policy", "control.consent"
BROKEN = Unreadable("truncated")
CARL = b"c" * 32


def test_a_repeat_changes_nothing(make):
    """A record at an offset that is applied already leaves the state as it is."""
    state = make.state(make.policy(version=2))
    again = apply(state, [Entry(POLICY, 0, "policy", make.policy(version=3), make.now)], make.now)
    assert again.policy.version == 2
    assert again.version == state.version


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


def test_another_log_begins_with_nothing(make):
    """Nothing of the old log holds in the new one, and cached verdicts do not either."""
    state = make.state(make.policy(), make.consent(), make.switch(), teams={make.subject: "support"})
    new = state.restarted("2")
    assert new == ControlState("2", teams={make.subject: "support"}, version=new.version)
    assert new.version > state.version


def test_a_record_that_the_broker_does_not_date_counts_as_of_now(make):
    """Without a time of the broker's, what is dated ahead of the local clock allows nothing."""
    ahead = make.consent(at=make.now + MAX_SKEW_MS + 1)
    state = apply(
        ControlState(make.log), [Entry(CONSENT, 0, consent_key(make.subject, make.training), ahead)], make.now
    )
    assert not state.words_of(make.subject)
    assert state.ignored == {(CONSENT, "future"): 1}


def test_a_first_policy_takes_two_of_its_own_approvers(make):
    """Unsigned, signed by one, by one twice, by one and a stranger, or for another log: no policy; by two: in force."""
    for by in [(), (ANNA,), (ANNA, ANNA), (ANNA, EVE)]:
        state = make.state(make.policy(by=by))
        assert state.policy is None
        assert state.ignored == {(POLICY, "not_approved"): 1}
    elsewhere = signing.sign(make.policy(by=()), "another log", ANNA, BEN)
    assert make.state(elsewhere).policy is None
    assert make.state(make.policy()).policy == make.policy()


def test_the_highest_policy_version_stands(make):
    """A lower version written later is ignored and counted; a higher one replaces."""
    state = make.state(make.policy(version=5), make.policy(version=4))
    assert state.policy.version == 5
    assert state.ignored == {(POLICY, "lower_version"): 1}
    assert make.more(state, make.policy(version=6)).policy.version == 6


def test_one_version_has_one_content(make):
    """The same version with another content is ignored, whoever signed it; the same content again is welcome."""
    state = make.state(make.policy(), make.policy(grid_px=1), make.policy(applied_at=make.now))
    assert state.policy == make.policy(), "the first record of it, with its date"
    assert state.ignored == {(POLICY, "same_version"): 1}


def test_a_policy_that_only_forbids_takes_nobodys_signature(make):
    """Less for a purpose is in force as soon as it is written, by whomever."""
    state = make.state(make.policy(), make.policy(version=2, purposes=make.less, by=()))
    assert state.policy.version == 2
    assert not state.ignored


def test_a_policy_that_allows_more_takes_two_approvers_of_the_one_in_force(make):
    """Neither one signature nor those of approvers whom only the new policy names are enough."""
    state = make.state(make.policy(purposes=make.less))
    taken_over = (Approver("eve", signing.public_of(EVE)), Approver("carl", signing.public_of(CARL)))
    for record in [
        make.policy(version=2, by=()),
        make.policy(version=2, by=(BEN,)),
        make.policy(version=2, approvers=taken_over, by=(EVE, CARL)),
    ]:
        after = make.more(state, record)
        assert after.policy.version == 1
        assert after.ignored == {(POLICY, "not_approved"): 1}
    assert make.more(state, make.policy(version=2)).policy.version == 2


@pytest.mark.parametrize("record", [BROKEN, None])
def test_a_policy_that_cannot_be_read_leaves_none_until_a_higher_version_is_signed(make, record):
    """What was forbidden is not known, so nothing is allowed: not by the same policy again, nor by an unsigned one."""
    state = make.state(make.policy(), (POLICY, "policy", record))
    assert state.policy is None
    assert state.last_policy == make.policy()
    assert state.ignored == {(POLICY, "removed" if record is None else "truncated"): 1}
    assert make.more(state, make.policy()).policy is None
    assert make.more(state, make.policy(version=2, by=())).policy is None
    assert make.more(state, make.policy(version=2, purposes=make.less, by=(ANNA,))).policy is None
    assert make.more(state, make.policy(version=2)).policy.version == 2


def test_a_policy_under_another_key_leaves_none(make):
    """It may be meant to forbid, and says something that no writer of ours would write."""
    state = make.state(make.policy(), (POLICY, "other", make.policy(version=2)))
    assert state.policy is None
    assert state.ignored == {(POLICY, "wrong_key"): 1}


def test_a_policy_dated_ahead_is_ignored(make):
    """Beyond what clocks may differ, it does not replace the one in force; within that, it does."""
    ahead = make.now + MAX_SKEW_MS
    state = make.state(make.policy(), make.policy(version=2, applied_at=ahead + 1))
    assert state.policy.version == 1
    assert state.ignored == {(POLICY, "future"): 1}
    assert make.state(make.policy(), make.policy(version=2, applied_at=ahead)).policy.version == 2


def test_the_key_of_an_approver_runs_out(make):
    """From its end on it does not count, neither by the broker's date nor by the record's own."""
    ends = tuple(replace(approver, until=make.now) for approver in APPROVERS)
    first = make.policy(purposes=make.less, approvers=ends)
    state = make.state(first, now=make.now - 1000)
    more = {"version": 2, "approvers": ends}
    assert make.more(state, make.policy(**more, applied_at=make.now - 2), now=make.now - 1).policy.version == 2
    for at, taken in [(make.now - 2, make.now), (make.now, make.now - 1)]:
        after = make.more(state, make.policy(**more, applied_at=at), now=taken)
        assert after.policy.version == 1, "dated back, or taken early"
    assert not signing.approvals(make.policy(**more), make.log, ends, make.now)


def test_every_notice_that_was_in_force_can_be_shown_again(make):
    """By its version and digest, though the policy has changed; a policy that was ignored leaves none."""
    state = make.state(
        make.policy(notice_text="one"),
        make.policy(version=2, notice="2", notice_text="two"),
        make.policy(version=3, notice="3", notice_text="three", by=()),
    )
    assert sorted(state.notices.values()) == [("1", "one"), ("2", "two")]
    assert state.notices[make.policy(notice_text="one").notice_id] == ("1", "one")
