"""The choice of windows: properties that hold for any windows in any order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.reading.choice import ALLOCATIONS, Chooser, Keys, allocate

STRATA = ("browser", "editor", "mail", "(none)")


@st.composite
def windows(draw):
    """Keys with distinct identities, few subjects and strata, so that caps and allocations bite."""
    ranks = draw(st.lists(st.integers(0, 2**64 - 1), max_size=60, unique=True))
    n = len(ranks)

    def ints(top):
        return np.array(draw(st.lists(st.integers(0, top), min_size=n, max_size=n)), np.int32)

    return Keys(
        slot=ints(3).astype(np.int64) * 10_000,
        rank=np.array(ranks, np.uint64),
        subject=ints(5),
        stratum=ints(len(STRATA) - 1),
        events=ints(50).astype(np.uint32),
    )


def chosen(keys, order, cuts, wanted, cap, stratified, how, pool_rows=4):
    chooser = Chooser(wanted, cap, stratified, pool_rows=pool_rows)
    for rows in np.array_split(np.array(order, np.int64), cuts):
        chooser.add(keys.take(rows))
    return chooser.choose(STRATA, how)


options = {
    "wanted": st.integers(1, 80),
    "cap": st.none() | st.integers(1, 10),
    "stratified": st.booleans(),
    "how": st.sampled_from(ALLOCATIONS),
}


@given(data=st.data(), keys=windows(), **options)
def test_the_choice_does_not_depend_on_order_or_chunks(data, keys, wanted, cap, stratified, how):
    """The same windows in another order and other chunks give the same choice and the same counts."""
    rows = list(range(len(keys)))
    shuffled = data.draw(st.permutations(rows))
    cuts = data.draw(st.integers(1, 7))
    one = chosen(keys, rows, 1, wanted, cap, stratified, how, pool_rows=1000)
    two = chosen(keys, shuffled, cuts, wanted, cap, stratified, how)
    assert one.keys.rank.tolist() == two.keys.rank.tolist()
    assert one.keys.slot.tolist() == two.keys.slot.tolist()
    assert (one.eligible, one.chosen, one.candidates) == (two.eligible, two.chosen, two.candidates)


@given(keys=windows(), **options)
def test_the_cap_holds_and_no_place_stays_empty(keys, wanted, cap, stratified, how):
    """No subject has more windows than the cap, and all that is wanted is chosen as far as there is any."""
    choice = chosen(keys, range(len(keys)), 3, wanted, cap, stratified, how)
    _, counts = np.unique(choice.keys.subject, return_counts=True)
    assert cap is None or counts.max(initial=0) <= cap
    _, per_subject = np.unique(keys.subject, return_counts=True)
    under_cap = int(np.minimum(per_subject, len(keys) if cap is None else cap).sum())
    assert len(choice.keys) == min(wanted, under_cap)
    if stratified:
        assert sum(choice.eligible.values()) == under_cap
        in_strata = np.bincount(choice.keys.stratum, minlength=len(STRATA))
        assert choice.chosen == {name: n for name, n in zip(STRATA, in_strata, strict=True) if n}


@given(keys=windows(), **options)
def test_nothing_but_what_was_offered_is_chosen_and_nothing_twice(keys, wanted, cap, stratified, how):
    """Every chosen window is one of those offered, once."""
    choice = chosen(keys, range(len(keys)), 2, wanted, cap, stratified, how)
    offered = set(zip(keys.slot.tolist(), keys.rank.tolist(), strict=True))
    got = list(zip(choice.keys.slot.tolist(), choice.keys.rank.tolist(), strict=True))
    assert len(set(got)) == len(got)
    assert set(got) <= offered


@given(
    wanted=st.integers(0, 200),
    available=st.dictionaries(st.text(max_size=4), st.integers(1, 60), max_size=8),
    how=st.sampled_from(ALLOCATIONS),
)
def test_an_allocation_adds_up_and_gives_no_stratum_more_than_it_has(wanted, available, how):
    """The places add up to what is wanted, or to all there is, whatever the order of the strata."""
    places = allocate(wanted, available, how)
    assert sum(places.values()) == min(wanted, sum(available.values()))
    assert all(0 <= places[name] <= available[name] for name in available)
    assert places == allocate(wanted, dict(reversed(available.items())), how)


@given(
    wanted=st.integers(1, 200),
    available=st.dictionaries(st.text(max_size=4), st.integers(1, 60), min_size=1, max_size=8),
)
def test_a_proportional_allocation_is_within_one_place_of_its_share(wanted, available):
    """Largest remainders: every stratum gets its exact share, rounded down or up."""
    total = sum(available.values())
    wanted = min(wanted, total)
    for name, places in allocate(wanted, available, "proportional").items():
        assert wanted * available[name] // total <= places <= -(-wanted * available[name] // total)


@given(
    wanted=st.integers(1, 200),
    available=st.dictionaries(st.text(max_size=4), st.integers(1, 60), min_size=1, max_size=8),
)
def test_an_equal_allocation_leaves_nobody_behind(wanted, available):
    """A stratum that gets less than another by more than one place has given all it has."""
    places = allocate(wanted, available, "equal")
    most = max(places.values())
    assert all(places[name] >= most - 1 or places[name] == available[name] for name in available)
