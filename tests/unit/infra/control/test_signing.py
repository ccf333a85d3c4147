"""What is signed, what a signature is good for, and whose counts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from nacl.bindings import crypto_sign_open

from infra.control import signing
from infra.control.identity import subject_of
from infra.control.records import Approver, Signature
from tests.approvers import ANNA, APPROVERS, BEN, EVE

PINNED = "6f2d340d9d3b05d76be2addc5aad93cc38b0d91ded557f7cd69bebcb7c03343a"


def test_anybody_can_check_a_signature(make):
    """What is signed is sorted JSON without spaces that names the kind, the log and all of the content."""
    release = make.release(make.switch())
    said = signing.payload(release, make.log)
    expected = {
        "kind": "switch", "log": "1", "id": "s", "scope": "everything", "value": "", "engaged": False, "reason": "over",
        "by": "test", "at": make.now - 20, "epoch": 0, "expires_at": 0, "releases": release.releases,
    }  # fmt: skip
    assert said == json.dumps(expected, sort_keys=True, separators=(",", ":")).encode()
    first = release.signatures[0]
    assert crypto_sign_open(bytes.fromhex(first.signature) + said, bytes.fromhex(first.key)) == said


def test_the_payload_does_not_change_with_python_or_platform(make):
    """A fixed digest: a changed form would make every signature in every log worthless."""
    assert signing.digest(make.switch("source", "keys"), "log") == PINNED
    assert "ü".encode() in signing.payload(make.switch(reason="ü"), "log"), "UTF-8, so that people can read it"


def test_a_signature_is_good_for_one_thing_in_one_log(make):
    """For no other log, kind, content or key."""
    consent = make.consent()
    public = signing.public_of(make.key)
    assert signing.signers(consent, make.log) == {public}
    assert not signing.signers(consent, "2")
    for changes in ({"purpose": make.research}, {"granted": False}, {"at": 1}, {"until": 1}, {"subject": make.other}):
        assert not signing.signers(replace(consent, **changes), make.log)
    stolen = Signature(signing.public_of(EVE), consent.signatures[0].signature)
    assert not signing.signers(replace(consent, signatures=(stolen,)), make.log)


def test_signing_again_adds_and_replaces(make):
    """Each key stands once, in the order of the first time, and what others signed stays."""
    one = signing.sign(make.switch(), make.log, ANNA)
    both = signing.sign(one, make.log, BEN, ANNA)
    assert [each.key for each in both.signatures] == [each.key for each in APPROVERS]
    assert both.signatures[0] == one.signatures[0]
    moved = signing.sign(replace(one, at=1), make.log, ANNA)
    assert signing.signers(moved, make.log) == {APPROVERS[0].key}


def test_who_applied_a_policy_and_when_is_not_signed(make):
    """Approvers stand for the content: whoever brings it to the topic may come later."""
    policy = make.policy()
    assert len(signing.signers(replace(policy, applied_at=1, applied_by="x"), make.log)) == 2
    assert not signing.signers(replace(policy, grid_px=1), make.log)


@pytest.mark.parametrize("until", [0, 1_700_000_000_001, 1_700_000_000_000])
def test_an_approvers_key_counts_until_it_runs_out(make, until):
    """At its end it does not count any more; without an end it always does."""
    release = make.release(make.switch())
    anna = replace(APPROVERS[0], until=until)
    names = signing.approvals(release, make.log, [anna, APPROVERS[1]], make.now)
    assert names == (("ben",) if until == make.now else ("anna", "ben"))


def test_approvals_are_people_not_signatures(make):
    """Strangers, the same key twice, and one name with two keys are one approval or none."""
    release = make.release(make.switch(), by=(ANNA, EVE))
    assert signing.approvals(release, make.log, APPROVERS, make.now) == ("anna",)
    twice = replace(release, signatures=release.signatures[:1] * 2)
    assert signing.approvals(twice, make.log, APPROVERS, make.now) == ("anna",)
    two_keys = [Approver("anna", signing.public_of(seed)) for seed in (ANNA, EVE)]
    assert signing.approvals(release, make.log, two_keys, make.now) == ("anna",)


@pytest.mark.parametrize("spell", [str.upper, lambda key: f" {key}", lambda key: key[:2] + " " + key[2:]])
def test_a_key_has_one_spelling(make, spell):
    """Or a key that a policy lists in two of them would be two approvers."""
    release = make.release(make.switch(), by=(ANNA,))
    first = release.signatures[0]
    other = replace(first, key=spell(first.key))
    assert other.key != first.key
    both = replace(release, signatures=(first, other))
    approvers = [APPROVERS[0], Approver("somebody", other.key)]
    assert signing.approvals(both, make.log, approvers, make.now) == ("anna",)


@pytest.mark.parametrize(
    "signature",
    [
        Signature("", ""),
        Signature("0" * 64, "0" * 128),
        Signature("no hex", "no hex"),
        Signature("ab", "cd"),
        Signature("é" * 64, "0" * 128),
        Signature(APPROVERS[0].key, "0" * 126),
    ],
)
def test_what_is_no_signature_counts_for_nothing(make, signature):
    """Other lengths, other letters, the neutral key: none raises, none is valid, and the others still count."""
    release = make.release(make.switch(), by=(BEN,))
    mixed = replace(release, signatures=(signature, *release.signatures))
    assert signing.signers(mixed, make.log) == {APPROVERS[1].key}


def test_a_consent_is_somebodys_own_when_their_key_signed_it(make):
    """Not by whom it names, but by the key that its identifier comes from."""
    assert subject_of(make.key) == make.subject
    assert signing.is_own(make.consent(), make.log)
    for by in ((), (make.other_key,), (ANNA, BEN)):
        assert not signing.is_own(make.consent(by=by), make.log)
    assert signing.is_own(make.consent(by=(ANNA, make.key)), make.log)
