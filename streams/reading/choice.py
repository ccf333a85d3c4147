"""Which windows a sample takes: a pure choice over keys, the same whatever order they come in.

A random sample by hashing: every window gets a rank, a keyed hash of what it
is, and the lowest ranks are taken ("bottom-k" or "priority" sampling; Cohen and
Kaplan, "Summarizing data using bottom-k sketches", PODC 2007). With a key of
its own for each seed the ranks behave like random numbers, yet depend on
nothing but the window: not on the order of insertion, of reading, or of chunks.

* Cap: of each subject only the lowest `cap` ranks can be chosen at all. The cap
  comes before everything else.
* Strata: the places are allotted to strata first (`allocate`), then each
  stratum fills its places with its lowest ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALLOCATIONS = ("equal", "proportional")
POOL_ROWS = 1 << 20
"""Keys held before the hopeless ones are thrown out: 28 bytes each, so 28 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Windows that may be chosen, one row each. (slot, rank) identifies a window."""

    slot: NDArray[np.int64]
    rank: NDArray[np.uint64]
    subject: NDArray[np.int32]
    """A number for each subject, given by the caller."""
    stratum: NDArray[np.int32]
    """A number for each stratum, given by the caller; all 0 without strata."""
    events: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.rank)

    def take(self, rows: NDArray[Any]) -> Keys:
        """Return the rows of a mask or of indexes."""
        return Keys(self.slot[rows], self.rank[rows], self.subject[rows], self.stratum[rows], self.events[rows])

    @classmethod
    def join(cls, parts: Sequence[Keys]) -> Keys:
        """Return all rows of all parts."""
        names = ("slot", "rank", "subject", "stratum", "events")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def no_keys() -> Keys:
    """Return no rows."""
    return Keys(np.empty(0, "i8"), np.empty(0, "u8"), np.empty(0, "i4"), np.empty(0, "i4"), np.empty(0, "u4"))


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What was chosen, and from how much."""

    keys: Keys
    """The chosen windows, by slot, then rank."""
    candidates: int
    """How many windows could have been chosen but for the cap."""
    eligible: Mapping[str, int]
    """By stratum, how many windows were left under the cap; empty without strata."""
    chosen: Mapping[str, int]
    """By stratum, how many were chosen; empty without strata."""


class Chooser:
    """Chooses `wanted` windows of all the keys that are added, chunk by chunk.

    Holds what can still be chosen and little more: without strata the lowest
    `wanted` ranks, with strata but no cap those of each stratum. With both, what
    a cap takes from one stratum may fall to another, so everything under the cap
    is held.
    """

    def __init__(self, wanted: int, cap: int | None, stratified: bool, pool_rows: int = POOL_ROWS) -> None:
        self._wanted = wanted
        self._cap = cap
        self._stratified = stratified
        self._pool_rows = pool_rows
        self._pool = no_keys()
        self._fresh: list[Keys] = []
        self._candidates = 0
        self._by_stratum = np.zeros(0, np.int64)

    def add(self, keys: Keys) -> None:
        """Take in a chunk."""
        self._candidates += len(keys)
        counts = np.bincount(keys.stratum, minlength=len(self._by_stratum))
        counts[: len(self._by_stratum)] += self._by_stratum
        self._by_stratum = counts
        self._fresh.append(keys)
        if sum(map(len, self._fresh)) > max(self._pool_rows, len(self._pool)):
            self._prune()

    def choose(self, strata: Sequence[str], how: str) -> Choice:
        """Choose. `strata` names the numbers in `Keys.stratum`; `how` is one of ALLOCATIONS."""
        self._prune()
        pool = self._pool
        if not self._stratified:
            return Choice(pool.take(np.lexsort((pool.rank, pool.slot))), self._candidates, {}, {})
        # Without a cap the pool no longer holds every window, but all have been counted.
        held = self._by_stratum if self._cap is None else np.bincount(pool.stratum, minlength=len(strata))
        eligible = {name: int(count) for name, count in zip(strata, held, strict=False) if count}
        places = allocate(self._wanted, eligible, how)
        limit = np.array([places.get(name, 0) for name in strata], np.int64)
        pool = pool.take(_position(pool.stratum) < limit[pool.stratum])
        pool = pool.take(np.lexsort((pool.rank, pool.slot)))
        return Choice(pool, self._candidates, eligible, {name: n for name, n in places.items() if n})

    def _prune(self) -> None:
        """Throw out what cannot be chosen any more; the pool is then by rank."""
        pool = Keys.join([self._pool, *self._fresh])
        self._fresh = []
        pool = pool.take(np.lexsort((pool.slot, pool.rank)))
        if self._cap is not None:
            pool = pool.take(_position(pool.subject) < self._cap)
        if not self._stratified:
            pool = pool.take(np.arange(len(pool)) < self._wanted)
        elif self._cap is None:
            pool = pool.take(_position(pool.stratum) < self._wanted)
        self._pool = pool


def _position(group: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return each row's place among the rows of its group, in the order given, from 0."""
    order = np.argsort(group, kind="stable")
    by_group = group[order]
    first = np.flatnonzero(np.r_[True, by_group[1:] != by_group[:-1]]) if len(group) else np.empty(0, np.int64)
    sizes = np.diff(np.r_[first, len(group)])
    position = np.empty(len(group), np.int64)
    position[order] = np.arange(len(group)) - np.repeat(first, sizes)
    return position


def allocate(wanted: int, available: Mapping[str, int], how: str) -> dict[str, int]:
    """Allot `wanted` places to strata; never more to one than it has.

    `proportional`: by the strata's sizes, rounded by largest remainders
    (Hamilton's method); equal remainders go by name. `equal`: the same to each
    as far as it has windows; what the small ones leave goes to the rest, and the
    last odd places to the largest (by name among equals). The places add up to
    `wanted`, or to all there is.
    """
    total = sum(available.values())
    wanted = min(wanted, total)
    if how == "proportional":
        places = {name: wanted * count // total for name, count in available.items()} if total else {}
        left = wanted - sum(places.values())
        by_remainder = sorted(available, key=lambda name: (-(wanted * available[name] % total), name))
        return {name: places[name] + (name in by_remainder[:left]) for name in available}
    places = {}
    left = wanted
    smallest_first = sorted(available, key=lambda name: (available[name], name))
    for done, name in enumerate(smallest_first):
        places[name] = min(available[name], left // (len(available) - done))
        left -= places[name]
    return places
