"""Who may pass, as a few plain lines over what was truly said: the measure for everything in the control plane.

It knows nothing of signatures, digests, offsets or clocks: whoever writes a record
in these tests notes here what it is meant to change, or that it must change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Target = tuple[str, str]
"""A switch's scope and value."""


class Rules(NamedTuple):
    """What a policy allows, until when (UTC epoch ms), to those who agreed to its notice."""

    sources: Mapping[str, frozenset[str]]
    """By purpose."""
    notice: str
    end: int


class Grant(NamedTuple):
    who: str
    purpose: str
    notice: str


class Withdrawal(NamedTuple):
    who: str
    purpose: str


class Pause(NamedTuple):
    """Until a moment, or an earlier or later one said since; a resumption is a pause that is over."""

    who: str
    until: float


class Stop(NamedTuple):
    target: Target


class Release(NamedTuple):
    stop: int
    """Offset of the Stop that it ends."""
    epoch: int


NO_RULES = Rules({}, "", 0)


@dataclass
class Told:
    """By offset of each topic, what the record there changes; None for nothing."""

    policies: list[Rules | None] = field(default_factory=list)
    consents: list[Grant | Withdrawal | Pause | None] = field(default_factory=list)
    switches: list[Stop | Release | None] = field(default_factory=list)


class Model(NamedTuple):
    """What stands after some records."""

    rules: Rules
    granted: frozenset[tuple[str, str]]
    """By whom, for which purpose, under the notice in force."""
    paused: Mapping[str, float]
    stops: frozenset[Target]
    epoch: int

    def may_pass(self, who: str, source: str, application: str, now: int, teams: Mapping[str, str]) -> bool:
        """Whether an event of that source and application may pass now (UTC epoch ms)."""
        stopped = {("everything", ""), ("source", source), ("subject", who)} & self.stops
        team = any(scope == "team" and teams.get(who, value) == value for scope, value in self.stops)
        mail = ("application", "mail") in self.stops and application in ("", "mail") and source != "session"
        if stopped or team or mail or now >= self.rules.end or now < self.paused.get(who, 0):
            return False
        running = (
            purpose for subject, purpose in self.granted if subject == who and ("purpose", purpose) not in self.stops
        )
        return any(source in self.rules.sources[purpose] for purpose in running)


def model(
    policies: Sequence[Rules | None],
    consents: Sequence[Grant | Withdrawal | Pause | None],
    switches: Sequence[Stop | Release | None],
) -> Model:
    """Go through what was told, in order."""
    rules = [NO_RULES, *(each for each in policies if each is not None)][-1]
    notices: dict[tuple[str, str], str] = {}
    paused: dict[str, float] = {}
    stops: dict[int, Target] = {}
    epoch = 0
    for told in consents:
        match told:
            case Grant(who, purpose, notice):
                notices[who, purpose] = notice
            case Withdrawal(who, purpose):
                notices.pop((who, purpose), None)
            case Pause(who, until):
                paused[who] = until
    for offset, said in enumerate(switches):
        match said:
            case Stop(target):
                stops[offset] = target
            case Release(stop, started):
                del stops[stop]
                epoch = started
    granted = {pair for pair, notice in notices.items() if notice == rules.notice and pair[1] in rules.sources}
    return Model(rules, frozenset(granted), paused, frozenset(stops.values()), epoch)
