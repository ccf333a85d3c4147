"""What counts as allowing more: everything that does not certainly forbid, whatever else a policy changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.control.policy_change import MAX_STEP, changes, loosens
from infra.control.policy_warnings import foresight
from infra.control.records import Approver, Policy, PurposeRule, policy_fault
from infra.control.state import ControlState, View, Word
from infra.control.verdict import judge
from schemas.catalogue import POLICY_FIELDS, SOURCES
from tests.approvers import APPROVERS

NOW, DAY = 1_700_000_000_000, 86_400_000
PURPOSES = ("assistant-training", "usability-research")
SUBJECT = "0" * 32


def _subset(values):
    return st.lists(st.sampled_from(values), unique=True).map(tuple)


_rules = st.builds(
    lambda name, sources, listed, days: PurposeRule(name, "d", sources, listed, days),
    st.none(), _subset(SOURCES), _subset(POLICY_FIELDS), st.integers(1, 90),
)  # fmt: skip
policies = st.builds(
    lambda names, rules, begin, end, grid, resolution, ahead, late, teams: Policy(
        name="p", version=1, valid_from=NOW + begin * DAY, valid_until=NOW + (begin + end) * DAY, notice="1",
        purposes=tuple(replace(rule, name=name) for name, rule in zip(names, rules, strict=False)),
        grid_px=grid, resolution_ms=resolution, future_tolerance_ms=ahead, window_kind="tumbling",
        window_size_ms=10_000, window_step_ms=10_000, window_gap_ms=0, lateness_ms=late, approvers=APPROVERS,
        applied_at=0, applied_by="t", notice_text="say no", teams=teams,
    ),
    st.permutations(PURPOSES), st.lists(_rules, min_size=1, max_size=2), st.integers(-9, 9), st.integers(1, 9),
    st.integers(1, 64), st.integers(1, 100), st.integers(0, 9), st.integers(0, 9), _subset(("a", "b", "c")),
)  # fmt: skip


def _rule(policy: Policy, at: int) -> PurposeRule:
    return policy.purposes[at % len(policy.purposes)]


def _with_rule(policy: Policy, at: int, **changed) -> Policy:
    rule = _rule(policy, at)
    return replace(policy, purposes=tuple(replace(e, **changed) if e is rule else e for e in policy.purposes))


def _without(values: tuple, at: int) -> tuple:
    return tuple(each for place, each in enumerate(values) if place != at % max(1, len(values)))


# Each takes something away, shortens, or makes coarser; what has nothing left to take stays as it is.
_TIGHTER: dict[str, Callable[[Policy, int, int], Policy]] = {
    "purpose": lambda p, at, by: replace(p, purposes=_without(p.purposes, at) or p.purposes),
    "sources": lambda p, at, by: _with_rule(p, at, sources=_without(_rule(p, at).sources, by)),
    "fields": lambda p, at, by: _with_rule(p, at, fields=_without(_rule(p, at).fields, by)),
    "retention": lambda p, at, by: _with_rule(p, at, retention_days=max(1, _rule(p, at).retention_days - by)),
    "until": lambda p, at, by: replace(p, valid_until=max(p.valid_from + 1, p.valid_until - by * DAY)),
    "from": lambda p, at, by: replace(p, valid_from=min(p.valid_until - 1, p.valid_from + by * DAY)),
    "grid": lambda p, at, by: replace(p, grid_px=p.grid_px * by),
    "resolution": lambda p, at, by: replace(p, resolution_ms=p.resolution_ms * by),
    "lateness": lambda p, at, by: replace(p, lateness_ms=max(0, p.lateness_ms - by)),
    "ahead": lambda p, at, by: replace(p, future_tolerance_ms=max(0, p.future_tolerance_ms - by)),
    "team": lambda p, at, by: replace(p, teams=tuple(dict.fromkeys((*p.teams, f"team{by}")))),
}
tightenings = st.lists(st.tuples(st.sampled_from(sorted(_TIGHTER)), st.integers(0, 3), st.integers(1, 20)), max_size=6)


def tightened(policy: Policy, steps) -> Policy:
    for kind, at, by in steps:
        policy = _TIGHTER[kind](policy, at, by)
    return policy


def _more(policy: Policy, target: Policy, part: str, every: tuple, at: int, by: int) -> Policy | None:
    rule = _rule(target, at)
    had = policy.purpose(rule.name)
    new = [each for each in every if had is None or each not in getattr(had, part)]
    return _with_rule(target, at, **{part: (*getattr(rule, part), new[by % len(new)])}) if new else None


def _new_purpose(policy: Policy, target: Policy, at: int, by: int) -> Policy | None:
    new = [name for name in PURPOSES if policy.purpose(name) is None]
    return replace(target, purposes=(*target.purposes, PurposeRule(new[0], "d", (), (), 1))) if new else None


# Each lets the second policy have something that the first has not; None where there is nothing to add.
_WIDER: dict[str, Callable[[Policy, Policy, int, int], Policy | None]] = {
    "purpose": _new_purpose,
    "sources": lambda p, q, at, by: _more(p, q, "sources", SOURCES, at, by),
    "fields": lambda p, q, at, by: _more(p, q, "fields", POLICY_FIELDS, at, by),
    "retention": lambda p, q, at, by: _with_rule(q, at, retention_days=90 + by),
    "description": lambda p, q, at, by: _with_rule(q, at, description=f"d{by}"),
    "until": lambda p, q, at, by: replace(q, valid_until=p.valid_until + by),
    "from": lambda p, q, at, by: replace(q, valid_from=p.valid_from - by),
    "grid": lambda p, q, at, by: replace(q, grid_px=by) if by % p.grid_px else None,
    "resolution": lambda p, q, at, by: replace(q, resolution_ms=by) if by % p.resolution_ms else None,
    "lateness": lambda p, q, at, by: replace(q, lateness_ms=p.lateness_ms + by),
    "ahead": lambda p, q, at, by: replace(q, future_tolerance_ms=p.future_tolerance_ms + by),
    "approver": lambda p, q, at, by: replace(q, approvers=(*q.approvers, Approver(f"x{by}", f"{by:064x}"))),
    "notice": lambda p, q, at, by: replace(q, notice_text=f"say yes {by}"),
    "name": lambda p, q, at, by: replace(q, name=f"p{by}"),
    "version": lambda p, q, at, by: replace(q, version=p.version + MAX_STEP + by),
    "window": lambda p, q, at, by: replace(q, window_size_ms=10_000 + by, window_step_ms=10_000 + by),
    "team": lambda p, q, at, by: replace(q, teams=tuple(set(q.teams) - set(p.teams))) if p.teams else None,
}
widenings = st.tuples(st.sampled_from(sorted(_WIDER)), st.integers(0, 3), st.integers(1, 20))


@given(policies)
def test_a_policy_is_no_looser_than_itself(policy):
    """The same content, applied by whomever under whatever next version, changes nothing."""
    assert not policy_fault(policy)
    assert not loosens(policy, policy)
    again = replace(policy, version=policy.version + 1, applied_at=NOW, applied_by="somebody else")
    assert changes(policy, again) == []


@given(policies, tightenings)
def test_taking_away_never_loosens_and_undoing_it_does(policy, steps):
    """Only removing, shortening and coarsening needs nobody; the way back needs signatures."""
    tighter = tightened(policy, steps)
    assert not policy_fault(tighter)
    assert not loosens(policy, tighter), changes(policy, tighter)
    if tighter.content() != policy.content():
        assert loosens(tighter, policy)


@given(policies, tightenings, widenings)
def test_adding_anything_loosens_whatever_else_is_taken_away(policy, steps, addition):
    """One thing that the policy in force did not allow cannot hide among a dozen that are forbidden."""
    wider = _WIDER[addition[0]](policy, tightened(policy, steps), *addition[1:])
    if wider is not None:
        assert loosens(policy, wider), changes(policy, wider)


@given(policies, policies, tightenings, st.integers(-20, 20).map(lambda days: NOW + days * DAY))
def test_what_needs_no_signature_lets_nothing_more_pass(policy, other, steps, now):
    """By the gate's own judgement, of somebody who has consented to everything: no event, no field, no moment more."""
    for new in (other, tightened(policy, steps), replace(policy, purposes=other.purposes)):
        if not loosens(policy, new):
            before, after = _verdict(policy, now), _verdict(new, now)
            for kind, refusal in enumerate(after.refusal):
                if not refusal:
                    assert not before.refusal[kind]
                    assert after.kind_fields[kind] <= before.kind_fields[kind]


def _verdict(policy: Policy, now: int):
    words = {name: Word(True, policy.notice_id, NOW - 100 * DAY) for name in PURPOSES}
    return judge(View(ControlState("1", policy=policy, consents={SUBJECT: words}), True), SUBJECT, now, 0)


def test_no_field_of_a_policy_is_overlooked(make):
    """Whatever part of the record is changed, somebody is told; a part that is new to the record fails this test."""
    policy = make.policy(teams=("a",))
    other = {
        "name": "x", "valid_from": policy.valid_from - 1, "valid_until": policy.valid_until + 1, "notice": "2",
        "purposes": policy.purposes[:1], "grid_px": 9, "resolution_ms": 11, "future_tolerance_ms": 1, "lateness_ms": 1,
        "window_kind": "session", "window_size_ms": 7, "approvers": (), "notice_text": "x", "teams": (),
    }  # fmt: skip
    shaped = {"window_step_ms": ("hopping", 5), "window_gap_ms": ("session", 5)}
    told = {name for name, value in other.items() if changes(policy, replace(policy, **{name: value}))}
    for name, (kind, value) in shaped.items():
        base = replace(policy, window_kind=kind)
        if changes(base, replace(base, **{name: value})):
            told.add(name)
    silent = {"version", "applied_at", "applied_by", "signatures"}
    assert told | silent == {each.name for each in fields(Policy)}


@pytest.mark.parametrize(
    ("changed", "effect", "said"),
    [
        ({"valid_until": NOW}, "forbids", "it runs out on 2023-11-14 22:13 UTC, not 2023-11-14 22:30 UTC"),
        ({"grid_px": 16}, "forbids", "positions are put on a grid of 16 px, not 8 px"),
        ({"grid_px": 4}, "allows", "positions are put on a grid of 4 px, not 8 px"),
        ({"grid_px": 12}, "differs", "positions are put on a grid of 12 px, not 8 px"),
        ({"lateness_ms": 60_000}, "allows", "windows take events until 1 min after their end, not 5 s"),
        ({"window_size_ms": 20_000}, "differs", "windows are tumbling of 20 s, not tumbling of 10 s"),
        ({"name": "other"}, "differs", "the policy is called other, not test"),
        ({"teams": ("a",)}, "forbids", "the team a can now be stopped as one"),
        ({"version": 2_000_000_000}, "differs", "the version goes from 1 to 2000000000: those between are used up"),
    ],
)
def test_a_change_is_said_in_words(make, changed, effect, said):
    """From what to what, in units that people use."""
    (change,) = changes(make.policy(), make.policy(**changed))
    assert (change.effect, change.what) == (effect, said)


def test_whose_word_counts_is_told_person_by_person(make):
    """Somebody who comes, goes, is renamed or has another end: each by name and key, and none without signatures."""
    anna, ben = APPROVERS
    base = make.policy(approvers=(anna, ben, Approver("carl", "c" * 64, until=NOW)))
    for approvers, said in [
        ((anna, ben, Approver("carl", "c" * 64)), "carl (key cccccccccccc…) may sign without an end, not until"),
        ((anna, ben), "carl (key cccccccccccc…) may no longer sign"),
        ((anna, ben, Approver("eve", "c" * 64, until=NOW)), "carl (key cccccccccccc…) is called eve"),
        (
            (*base.approvers, Approver("dora", "d" * 64)),
            "dora (key dddddddddddd…) may sign to allow more, without an end",
        ),
    ]:
        (change,) = changes(base, make.policy(approvers=approvers))
        assert change.what.startswith(said)
        assert change.loosens


@given(st.integers(-(2**63), 2**63 - 1))
def test_no_moment_that_a_record_can_hold_stops_the_judgement(moment):
    """A date that no calendar has is compared and told like any other: a gate's reader must outlive every record."""
    one = Approver("x", "1" * 64, moment)
    policy = Policy(
        "p", 1, NOW - DAY, NOW + DAY, "1", (PurposeRule("assistant-training", "d", (), (), 1),), 8, 10, 0, "tumbling",
        10, 10, 0, 0, (*APPROVERS, one), 0, "t",
    )  # fmt: skip
    for part in ("valid_from", "valid_until"):
        other = replace(policy, **{part: moment})
        assert changes(None, other)
        assert loosens(policy, other) or loosens(other, policy) or other == policy
        assert all(isinstance(said, str) for said in foresight(other, NOW))
    assert loosens(replace(policy, approvers=APPROVERS), policy)


def test_a_first_policy_allows_all_that_it_says(make):
    """With nothing in force, each purpose, the time, the notice and the approvers are told as new."""
    said = changes(None, make.policy(approvers=APPROVERS))
    assert {change.effect for change in said} == {"allows"}
    words = "\n".join(change.what for change in said)
    for part in (
        "assistant-training may use pointer, keys",
        "kept for 30 days",
        "notice 1",
        "anna, ben may allow more",
    ):
        assert part in words
