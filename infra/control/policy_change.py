"""What a new policy allows and forbids compared with the one before, in words. Pure.

A policy that allows anything more needs signatures; one that only forbids needs
nobody's. Whatever is not certainly a tightening counts as allowing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from infra.control.readable import moment
from infra.control.records import Approver, Policy, PurposeRule

MAX_STEP = 1_000
"""Versions that a policy which only forbids may skip. Without a limit, a single unsigned
record could use up all the versions there are, and no policy could follow it."""

Effect = Literal["allows", "forbids", "differs"]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that becomes different."""

    what: str
    """For a person: what, from what, to what."""
    effect: Effect
    """Whether it lets more be recorded, kept, or decided by others; less; or neither for certain."""

    @property
    def loosens(self) -> bool:
        """Whether it needs signatures: all that does not certainly forbid."""
        return self.effect != "forbids"


def changes(old: Policy | None, new: Policy) -> list[Change]:
    """Return what `new` changes, compared with the policy in force; None where there is none."""
    if old is None:
        return list(_from_nothing(new))
    return [*_purposes(old, new), *_times(old, new), *_detail(old, new), *_people(old, new), *_names_of(old, new)]


def loosens(old: Policy | None, new: Policy) -> bool:
    """Whether putting `new` in force needs signatures."""
    return any(change.loosens for change in changes(old, new))


def _from_nothing(new: Policy) -> Iterator[Change]:
    for rule in new.purposes:
        yield Change(
            f"{rule.name} may use {_list(rule.sources)} with the fields {_list(rule.fields)}, "
            f"kept for {_days(rule.retention_days)}",
            "allows",
        )
    yield Change(f"all that holds from {_date(new.valid_from)} until {_date(new.valid_until)}", "allows")
    yield Change(f"{_notice(new)} is what people consent to", "allows")
    yield Change(f"{_list(_names(new.approvers))} may allow more, two at a time", "allows")


def _purposes(old: Policy, new: Policy) -> Iterator[Change]:
    before = {rule.name: rule for rule in old.purposes}
    after = {rule.name: rule for rule in new.purposes}
    for name, rule in after.items():
        if name not in before:
            yield Change(
                f"{name} is a new purpose: it may use {_list(rule.sources)} with the fields {_list(rule.fields)}, "
                f"kept for {_days(rule.retention_days)}",
                "allows",
            )
        else:
            yield from _rule(before[name], rule)
    for name in before:
        if name not in after:
            yield Change(f"{name} is no purpose any more: nothing may be recorded or read for it", "forbids")


def _rule(old: PurposeRule, new: PurposeRule) -> Iterator[Change]:
    for what in ("source", "field"):
        had, has = set(getattr(old, f"{what}s")), set(getattr(new, f"{what}s"))
        if has - had:
            yield Change(f"{new.name} may also use the {_counted(what, has - had)}", "allows")
        if had - has:
            yield Change(f"{new.name} may no longer use the {_counted(what, had - has)}", "forbids")
    if old.retention_days != new.retention_days:
        longer = new.retention_days > old.retention_days
        yield Change(
            f"{new.name} keeps what is recorded for {_days(new.retention_days)}, "
            f"{'not just' if longer else 'not'} {_days(old.retention_days)}",
            "allows" if longer else "forbids",
        )
    if old.description != new.description:
        now, before = (" ".join(each.description.split()) for each in (new, old))
        yield Change(f'{new.name} means "{now}", not "{before}"', "differs")


def _times(old: Policy, new: Policy) -> Iterator[Change]:
    if old.valid_until != new.valid_until:
        yield Change(
            f"it runs out on {_date(new.valid_until)}, not {_date(old.valid_until)}",
            "allows" if new.valid_until > old.valid_until else "forbids",
        )
    if old.valid_from != new.valid_from:
        yield Change(
            f"it begins on {_date(new.valid_from)}, not {_date(old.valid_from)}",
            "allows" if new.valid_from < old.valid_from else "forbids",
        )
    if old.lateness_ms != new.lateness_ms:
        yield Change(
            f"windows take events until {length(new.lateness_ms)} after their end, not {length(old.lateness_ms)}",
            "allows" if new.lateness_ms > old.lateness_ms else "forbids",
        )
    if old.future_tolerance_ms != new.future_tolerance_ms:
        yield Change(
            f"a device's clock may be {length(new.future_tolerance_ms)} ahead, not {length(old.future_tolerance_ms)}",
            "allows" if new.future_tolerance_ms > old.future_tolerance_ms else "forbids",
        )


def _detail(old: Policy, new: Policy) -> Iterator[Change]:
    if old.grid_px != new.grid_px:
        yield Change(
            f"positions are put on a grid of {new.grid_px} px, not {old.grid_px} px",
            _coarsening(old.grid_px, new.grid_px),
        )
    if old.resolution_ms != new.resolution_ms:
        yield Change(
            f"times are rounded to {length(new.resolution_ms)}, not {length(old.resolution_ms)}",
            _coarsening(old.resolution_ms, new.resolution_ms),
        )
    if windows(old) != windows(new):
        # Longer windows tie more together, shorter ones cut others: neither is certainly less.
        yield Change(f"windows are {windows(new)}, not {windows(old)}", "differs")


def _coarsening(old: int, new: int) -> Effect:
    """Judge a step: only a multiple of the old one shows nothing that the old one hid, however much coarser it is."""
    if new % old == 0:
        return "forbids"
    return "allows" if new < old else "differs"


def _people(old: Policy, new: Policy) -> Iterator[Change]:
    """Judge whose word counts.

    To take an approver away is no tightening either: who may write to the topic could
    leave a system in which nobody is left to allow anything, and that for good.
    """
    if (old.notice, old.notice_text) != (new.notice, new.notice_text):
        yield Change(f"{_notice(new)} is what people consent to, not {_notice(old)}", "differs")
    before = {approver.key: approver for approver in old.approvers}
    after = {approver.key: approver for approver in new.approvers}
    for key, approver in after.items():
        had = before.get(key)
        if had is None:
            yield Change(f"{_key(approver)} may sign to allow more, {_until(approver)}", "allows")
        elif had.name != approver.name:
            yield Change(f"{_key(had)} is called {approver.name}", "differs")
        if had is not None and had.until != approver.until:
            sooner = approver.until and (not had.until or approver.until < had.until)
            yield Change(
                f"{_key(approver)} may sign {_until(approver)}, not {_until(had)}", "differs" if sooner else "allows"
            )
    for key, approver in before.items():
        if key not in after:
            yield Change(f"{_key(approver)} may no longer sign to allow more", "differs")


def _names_of(old: Policy, new: Policy) -> Iterator[Change]:
    if old.name != new.name:
        # Rows and samples name the policy that they were taken under.
        yield Change(f"the policy is called {new.name}, not {old.name}", "differs")
    for team in sorted(set(new.teams) - set(old.teams)):
        yield Change(f"the team {team} can now be stopped as one", "forbids")
    for team in sorted(set(old.teams) - set(new.teams)):
        yield Change(f"the team {team} can no longer be stopped as one", "allows")
    if new.version - old.version > MAX_STEP:
        yield Change(f"the version goes from {old.version} to {new.version}: those between are used up", "differs")


def windows(policy: Policy) -> str:
    """Return how a policy cuts windows, in words."""
    extra = {
        "hopping": f" every {length(policy.window_step_ms)}",
        "session": f", ended by {length(policy.window_gap_ms)} of silence",
    }
    return f"{policy.window_kind} of {length(policy.window_size_ms)}{extra.get(policy.window_kind, '')}"


def _notice(policy: Policy) -> str:
    return f"notice {policy.notice} (text {policy.notice_digest[:12] or 'not known'})"


def _key(approver: Approver) -> str:
    return f"{approver.name} (key {approver.key[:12]}…)"


def _until(approver: Approver) -> str:
    return f"until {_date(approver.until)}" if approver.until else "without an end"


def _names(approvers: Iterable[Approver]) -> list[str]:
    return [approver.name for approver in approvers]


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _counted(what: str, names: Iterable[str]) -> str:
    listed = sorted(names)
    return f"{what}{'' if len(listed) == 1 else 's'} {_list(listed)}"


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


def length(ms: int) -> str:
    """Return a length of time in the largest unit that leaves no rest."""
    for unit, size in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms and ms % size == 0:
            return f"{ms // size} {unit}"
    return f"{ms} ms"


def _date(ms: int) -> str:
    """Return a moment as people read it, without a midnight's zeros."""
    return moment(ms, "%Y-%m-%d" if ms % 86_400_000 == 0 else "%Y-%m-%d %H:%M UTC")
