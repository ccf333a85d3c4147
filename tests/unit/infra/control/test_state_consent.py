"""How what people say changes the control state, and what others may say for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.control import signing
from infra.control.records import (
    ALL_PURPOSES,
    MAX_SKEW_MS,
    Standing,
    Unreadable,
    consent_key,
)
from infra.control.state import Word, standing_of
from tests.approvers import ANNA, BEN, EVE

CONSENT, STANDING = "control.consent", "control.standing"
BROKEN = Unreadable("truncated")


def test_a_grant_takes_the_subjects_own_signature(make):
    """Unsigned, or signed by somebody else's key, it grants nothing and is counted; signed by their own, it does."""
    for by in [(), (make.other_key,), (EVE,)]:
        state = make.state(make.policy(), make.consent(by=by))
        assert not state.words_of(make.subject)
        assert state.ignored == {(CONSENT, "not_approved"): 1}
    assert make.state(make.consent()).words_of(make.subject)[make.training].granted, "with no policy, even"


def test_a_signature_of_another_log_or_of_another_word_is_none(make):
    """It does not come along to another life of the log, another purpose, notice or date."""
    for record in [
        signing.sign(make.consent(by=()), "another log", make.key),
        replace(make.consent(), purpose=make.research),
        replace(make.consent(), notice="2"),
        replace(make.consent(), at=make.now),
    ]:
        assert not make.state(record).words_of(make.subject)


def test_two_approvers_may_consent_for_a_subject(make):
    """Two of the policy in force, not one, not two whom it does not name, and none where no policy ever was."""
    both = make.consent(by=(ANNA, BEN))
    assert make.state(make.policy(), both).words_of(make.subject)[make.training].granted
    for records in [
        (make.policy(), make.consent(by=(ANNA,))),
        (make.policy(), make.consent(by=(ANNA, EVE))),
        (both,),
    ]:
        assert not make.state(*records).words_of(make.subject)


def test_a_withdrawal_takes_nobodys_signature(make):
    """Whoever writes it, the purpose is withdrawn and the others stay."""
    state = make.state(make.consent(), make.consent(make.research), make.consent(granted=False, at=make.now))
    assert state.words_of(make.subject)[make.training] == Word(False, "1", make.now)
    assert state.words_of(make.subject)[make.research].granted


def test_a_grant_written_again_after_the_withdrawal_does_not_grant(make):
    """A word must be later than the last by its date too, or whoever kept a copy could take the withdrawal back."""
    state = make.state(make.consent(), make.consent(granted=False, at=make.now), make.consent())
    assert not state.words_of(make.subject)[make.training].granted
    assert state.ignored == {(CONSENT, "replayed"): 1}
    assert make.more(state, make.consent(at=make.now + 1)).words_of(make.subject)[make.training].granted


def test_a_withdrawal_dated_back_still_holds_and_moves_no_date(make):
    """A slow clock withdraws too, and the grant that it withdraws stays used up."""
    state = make.state(make.consent(at=make.now), make.consent(granted=False, at=make.now - 60_000))
    assert state.words_of(make.subject)[make.training] == Word(False, "1", make.now)
    assert not make.more(state, make.consent(at=make.now)).words_of(make.subject)[make.training].granted


def test_a_word_dated_ahead_grants_nothing_and_blocks_nothing(make):
    """A grant an hour ahead is ignored; a withdrawal an hour ahead holds at once, and can be taken back soon."""
    hour = make.now + 3_600_000
    state = make.state(make.consent(at=hour))
    assert not state.words_of(make.subject)
    assert state.ignored == {(CONSENT, "future"): 1}
    withdrawn = make.state(make.consent(), make.consent(granted=False, at=hour))
    assert not withdrawn.words_of(make.subject)[make.training].granted
    soon = make.now + MAX_SKEW_MS + 1
    again = make.more(withdrawn, make.consent(at=soon), now=soon)
    assert again.words_of(make.subject)[make.training].granted


@pytest.mark.parametrize("record", [BROKEN, None])
def test_a_consent_that_cannot_be_read_or_was_removed_is_withdrawn(make, record):
    """It takes away what was granted before, leaves the other purpose, and the old grant cannot be written again."""
    key = consent_key(make.subject, make.training)
    state = make.state(make.consent(), make.consent(make.research), (CONSENT, key, record), make.consent())
    assert state.words_of(make.subject)[make.training] == Word(False, "", make.now)
    assert state.words_of(make.subject)[make.research].granted
    assert make.more(state, make.consent(at=make.now + 1)).words_of(make.subject)[make.training].granted


def test_a_consent_under_another_key_is_not_believed(make):
    """A grant under another subject's key grants to neither, and counts as what cannot be read."""
    state = make.state(
        make.consent(subject=make.other), (CONSENT, consent_key(make.other, make.training), make.consent())
    )
    assert not state.words_of(make.subject)
    assert not state.words_of(make.other)[make.training].granted
    assert state.ignored == {(CONSENT, "wrong_key"): 1}


def test_a_pause_takes_nobodys_signature_and_its_end_the_subjects_own(make):
    """Paused by an unsigned record, still paused after an unsigned resumption, resumed by a signed one."""
    state = make.state(make.consent(), make.pause())
    assert state.words_of(make.subject)[ALL_PURPOSES].pauses(make.now)
    still = make.more(state, make.resume(by=()))
    assert still.words_of(make.subject)[ALL_PURPOSES].pauses(make.now)
    assert not make.more(still, make.resume()).words_of(make.subject)[ALL_PURPOSES].pauses(make.now)
    approved = make.more(make.state(make.policy(), make.pause()), make.resume(by=(ANNA, BEN)))
    assert approved.words_of(make.subject)[ALL_PURPOSES].granted


@pytest.mark.parametrize(("before", "after"), [(0, 5000), (5000, 4999), (5000, -10_000)])
def test_a_shorter_pause_allows_more(make, before, after):
    """One that ends sooner takes the subject's own signature, be the one before over by then or not."""
    first = make.state(make.pause(at=make.now - 200, until=before and make.now + before))
    for taken in (make.now, make.now + 60_000):
        shorter = {"at": make.now, "until": make.now + after}
        kept = make.more(first, make.pause(**shorter), now=taken)
        assert kept.words_of(make.subject) == first.words_of(make.subject)
        assert kept.ignored == {(CONSENT, "not_approved"): 1}
        own = make.more(first, make.pause(**shorter, by=(make.key,)), now=taken)
        assert own.words_of(make.subject)[ALL_PURPOSES].until == make.now + after


@pytest.mark.parametrize(("before", "after"), [(5000, 0), (5000, 5001), (5000, 5000), (0, 0)])
def test_a_longer_pause_takes_nobodys_signature(make, before, after):
    """Without an end, with a later one, or with the same."""
    first = make.state(make.pause(at=make.now - 200, until=before and make.now + before))
    state = make.more(first, make.pause(at=make.now, until=after and make.now + after))
    assert state.words_of(make.subject)[ALL_PURPOSES].until == (after and make.now + after)
    assert not state.ignored


def test_a_pause_ends_by_itself_where_it_says_so():
    """It holds until that moment and not at it; one without an end holds for good."""
    assert Word(False, "", 0, until=1000).pauses(999)
    assert not Word(False, "", 0, until=1000).pauses(1000)
    assert Word(False, "", 0).pauses(2**50)
    assert not Word(True, "", 0, until=1000).pauses(500)


def test_a_producer_holds_nobody_elses_consent(make):
    """With `only`, the consents of others are applied as offsets and kept nowhere, whatever they are."""
    key = consent_key(make.other, make.research)
    others = make.consent(subject=make.other), (CONSENT, key, None)
    state = make.state(make.consent(), *others, only=frozenset({make.subject}))
    assert set(state.consents) == {make.subject}
    assert state.applied[CONSENT] == 2


def test_the_authority_holds_nobodys_consent(make):
    """It follows how far the topic reaches, and that is all."""
    state = make.state(make.consent(), make.pause(), mode="authority")
    assert not state.consents
    assert state.applied[CONSENT] == 1


def test_standing_follows_the_translation_and_ignores_one_that_lags(make):
    """A pseudonym's last record stands, unless it is based on an earlier offset than the one before."""
    newer = Standing("p", (), (), 9, 9)
    older = Standing("p", (make.training,), ("1",), 5, 9)
    state = make.state(newer, Standing("", (), (), 9, 8), older, Standing("", (), (), 5, 9), mode="standing")
    assert not state.words_of("p")
    assert (state.consent_reached, state.switch_reached) == (9, 9)
    assert state.ignored == {(STANDING, "lagging"): 1}
    granted = make.more(state, Standing("p", (make.training,), ("1",), 10, 9))
    assert granted.words_of("p")[make.training].notice == "1"
    assert not make.more(state, Standing("p", (make.training,), ("1",), 9, 8)).words_of("p")
    assert make.more(state, Standing("p", (make.training,), ("1",), 9, 9)).words_of("p"), "on the same basis: again"


def test_of_two_translations_of_which_each_knows_more_only_what_both_allow_stands(make):
    """One has read a withdrawal, the other a switch over the subject: in either order, both hold."""
    withdrawn, stopped = Standing("p", (make.research,), ("1",), 9, 3), Standing("p", (), (), 5, 7)
    both = (make.training, make.research), ("1", "1")
    for first, second in [(withdrawn, stopped), (stopped, withdrawn)]:
        state = make.state(Standing("p", *both, 4, 2), first, second, mode="standing")
        assert not state.words_of("p")
        assert state.ignored == {(STANDING, "crossing"): 1}
        assert not make.more(state, Standing("p", *both, 9, 6)).words_of("p"), "it knows less than both together"
        assert set(make.more(state, Standing("p", *both, 9, 7)).words_of("p")) == {make.training, make.research}
    halves = make.state(Standing("p", *both, 9, 3), Standing("p", (make.training,), ("1",), 5, 7), mode="standing")
    assert set(halves.words_of("p")) == {make.training}


@pytest.mark.parametrize("record", [BROKEN, None])
def test_a_standing_that_cannot_be_read_is_none(make, record):
    """The pseudonym has no consent until it is translated again."""
    granted = Standing("p", (make.training,), ("1",), 3)
    state = make.state(granted, (STANDING, "p", record), mode="standing")
    assert not state.words_of("p")
    assert make.more(state, granted).words_of("p")


def test_standing_leaves_out_what_does_not_stand(make):
    """A withdrawn or future consent, and everything of a subject who has paused or whom a switch covers."""
    state = make.state(make.policy(), make.consent(), make.consent(make.research, granted=False))
    assert standing_of(state, make.subject, "p", make.now) == Standing("p", (make.training,), ("1",), 1, -1)
    paused = make.more(state, make.pause(until=make.now + 1000))
    assert standing_of(paused, make.subject, "p", make.now).purposes == ()
    assert standing_of(paused, make.subject, "p", make.now + 1000).purposes == (make.training,)
    stopped = make.more(state, make.switch("subject", make.subject))
    assert standing_of(stopped, make.subject, "p", make.now) == Standing("p", (), (), 1, 0)
    future = make.state(make.consent(at=make.now + 60_000), now=make.now + 60_000)
    assert standing_of(future, make.subject, "p", make.now).purposes == ()
    assert standing_of(future, make.subject, "p", make.now + 60_000).purposes == (make.training,)


def test_a_switch_over_a_team_covers_its_people_and_those_of_no_team(make):
    """Who stands in another team is not covered; who stands in none may be in this one."""
    teams = {make.subject: "support", make.other: "research"}
    state = make.state(make.switch("team", "support"), teams=teams)
    one = state.switches["s"]
    covered = [state.covers_subject(one, subject) for subject in (make.subject, make.other, "0" * 32)]
    assert covered == [True, False, True]
    assert not state.covers_subject(make.switch("source", make.subject), make.subject)
