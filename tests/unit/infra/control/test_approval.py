"""How two people come to stand for one record, together or one after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.control import signing
from infra.control.approval import approvers_for, endorse
from infra.errors import TidegateError
from tests.approvers import ANNA, APPROVERS, BEN, EVE


@pytest.fixture
def state(make):
    return make.state(make.policy(), make.switch())


def test_two_at_one_machine_are_enough(make, state):
    """With both keys the record comes back as every gate takes it."""
    release, approval = endorse(make.release(state, by=()), state, [ANNA, BEN], make.now)
    assert (approval.names, approval.enough, approval.others) == (("anna", "ben"), True, ())
    assert not make.more(state, release).switches["s"].engaged


def test_the_second_finds_what_the_first_signed(make, state):
    """What waits on the topic comes with its signature; the second one completes it."""
    first, approval = endorse(make.release(state, by=()), state, [ANNA], make.now)
    assert (approval.names, approval.enough, approval.others) == (("anna",), False, ("ben",))
    waiting = make.more(state, first)
    assert waiting.switches["s"].engaged
    second, approval = endorse(make.release(state, by=()), waiting, [BEN], make.now)
    assert approval.enough
    assert not make.more(waiting, second).switches["s"].engaged


def test_the_same_person_twice_is_one(make, state):
    """Neither with the key given twice nor by coming a second time."""
    first, approval = endorse(make.release(state, by=()), state, [ANNA, ANNA], make.now)
    assert approval.names == ("anna",)
    _, approval = endorse(make.release(state, by=()), make.more(state, first), [ANNA], make.now)
    assert (approval.names, approval.enough) == (("anna",), False)


def test_a_signature_is_not_taken_along_to_something_else(make, state):
    """Where what waits says anything else, another reason or another date, the second begins anew."""
    waiting = make.more(state, endorse(make.release(state, by=()), state, [ANNA], make.now)[0])
    for other in (replace(make.release(state, by=()), reason="other"), make.release(state, at=make.now, by=())):
        record, approval = endorse(other, waiting, [BEN], make.now)
        assert approval.names == ("ben",)
        assert make.more(waiting, record).switches["s"].engaged


def test_a_policy_waits_whoever_brings_it_and_when(make, state):
    """Approvers sign a policy's content: the second may apply it later, under another name."""
    first, _ = endorse(make.policy(version=2, grid_px=1, by=()), state, [ANNA], make.now)
    waiting = make.more(state, first)
    later = make.policy(version=2, grid_px=1, by=(), applied_at=make.now, applied_by="ben")
    second, approval = endorse(later, waiting, [BEN], make.now)
    assert approval.enough
    assert make.more(waiting, second).policy.grid_px == 1


@pytest.mark.parametrize(
    ("seed", "part"), [(EVE, "is no approver's. The approvers are anna, ben."), (ANNA, "anna has run out")]
)
def test_a_key_that_does_not_count_is_named(make, seed, part):
    """A stranger's by the public key, one that has run out by its owner; neither error holds the secret half."""
    ends = (replace(APPROVERS[0], until=make.now), APPROVERS[1])
    state = make.state(make.policy(approvers=ends), make.switch(), now=make.now - 1000)
    with pytest.raises(TidegateError, match=part) as raised:
        endorse(make.release(state, by=()), state, [BEN, seed], make.now)
    assert seed.hex() not in str(raised.value)
    assert seed.decode() not in str(raised.value)


def test_where_no_policy_ever_was_only_a_first_policy_can_be_signed(make):
    """By its own approvers; for anything else there is nobody."""
    state = make.state(make.switch())
    policy = make.policy(by=())
    assert approvers_for(policy, state) == APPROVERS
    assert make.more(state, endorse(policy, state, [ANNA, BEN], make.now)[0]).policy is not None
    with pytest.raises(TidegateError, match="no policy was ever in force"):
        endorse(make.release(state, by=()), state, [ANNA], make.now)


def test_approvers_are_those_of_the_last_policy_also_where_none_is_in_force(make):
    """A record that cannot be read puts the policy out of force, and its approvers decide what follows."""
    state = make.state(make.policy(), ("control.policy", "policy", None))
    newcomers = make.policy(version=2, approvers=make.anna_and_carl, by=())
    assert approvers_for(newcomers, state) == APPROVERS


def test_a_clock_behind_the_brokers_does_not_hide_the_approvers(make):
    """The broker dated the policy a moment ahead of this machine: its approvers may sign all the same."""
    state = make.state(make.policy(), make.switch(), now=make.now + 3000)
    release, approval = endorse(make.release(state, by=()), state, [ANNA, BEN], make.now)
    assert approval.enough
    assert signing.approvals(release, make.log, state.approvers_at(make.now + 3001), make.now)
