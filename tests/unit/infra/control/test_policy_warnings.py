"""When a policy needs somebody: what is said, and from when on."""

from __future__ import annotations

import pytest

from infra.control.policy_warnings import DAY_MS, foresight, in_days, pressing, signable_until, warnings
from infra.control.records import Approver


def approvers(*untils: int) -> tuple[Approver, ...]:
    return tuple(Approver(f"a{place}", f"{place:064x}", until) for place, until in enumerate(untils))


@pytest.mark.parametrize(
    ("days", "stage"), [(15, None), (14.01, None), (14, 14), (3.01, 14), (3, 3), (0.01, 3), (0, 0), (-1, 0)]
)
def test_an_end_presses_14_and_3_days_before(make, days, stage):
    """Each threshold is reached when exactly so many days are left; past the end, 0."""
    assert pressing(make.now + round(days * DAY_MS), make.now) == stage


def test_a_policy_that_runs_out_is_said_in_time(make):
    """Nothing 15 days before; from 14 on with the days, and afterwards that it has run out."""
    policy = make.policy(approvers=approvers(0, 0))

    def said(days: float) -> list[str]:
        return warnings(policy, policy.valid_until - round(days * DAY_MS))

    assert said(15) == []
    assert "runs out in 14 days" in said(14)[0]
    assert "runs out in 6 hours" in said(0.25)[0]
    assert "has run out" in said(-1)[0]


@pytest.mark.parametrize(
    ("untils", "end"), [((0, 0, 5), 0), ((0, 5), 5), ((0, 5, 9), 9), ((5, 9), 5), ((5, 7, 9), 7), ((9,), 1), ((), 1)]
)
def test_signatures_are_to_be_had_until_all_keys_but_one_have_run_out(untils, end):
    """The end of the second-last key; never, where two have none; at once, where there are not two."""
    assert signable_until(approvers(*untils)) == end


def test_keys_that_run_out_are_said_by_name_and_before_nobody_can_sign(make):
    """One key among three that ends is told by name; the last but one is told as the end of all loosening."""
    soon, later = make.now + 2 * DAY_MS, make.now + 900 * DAY_MS
    (one,) = warnings(make.policy(valid_until=later, approvers=approvers(soon, 0, 0)), make.now)
    assert one.startswith("the key of a0 runs out in 2 days")
    (last,) = warnings(make.policy(valid_until=later, approvers=approvers(soon, 0)), make.now)
    assert "nobody can allow more from then on" in last


def test_a_policy_that_outlives_its_keys_is_told_at_once(make):
    """Long before it presses: nobody could sign the policy that is to follow; and one that has not begun says so."""
    policy = make.policy(valid_until=make.now + 900 * DAY_MS, approvers=approvers(make.now + 100 * DAY_MS, 0))
    assert warnings(policy, make.now) == []
    (said,) = foresight(policy, make.now)
    assert "nobody can allow more, nor name new keys" in said
    early = make.policy(valid_from=make.now + 3 * DAY_MS, valid_until=make.now + 90 * DAY_MS, approvers=approvers(0, 0))
    (said,) = foresight(early, make.now)
    assert "begins in 3 days" in said


def test_how_far_away_a_moment_is():
    """In days, in hours below one, and the past as the past."""
    assert [in_days(round(days * DAY_MS), 0) for days in (30, 1.5, 0.5, -0.5, -3)] == [
        *("in 30 days", "in 1 day", "in 12 hours", "today", "3 days ago"),
    ]
