"""What a new policy allows and forbids compared with the one before, in words. Pure.

A policy that allows anything more needs signatures; one that only forbids needs
nobody's. Whatever is not certainly a tightening counts as allowing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.control.records import Approver, Policy, PurposeRule


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that becomes different."""

    what: str
    """For a person: what, from what, to what."""
    loosens: bool
    """Whether it may let more be recorded, kept, or decided by others."""


def changes(old: Policy | None, new: Policy) -> list[Change]:
    """Return what `new` changes, compared with the policy in force; None where there is none."""
    if old is None:
        return list(_from_nothing(new))
    return [*_purposes(old, new), *_times(old, new), *_detail(old, new), *_people(old, new)]


def loosens(old: Policy | None, new: Policy) -> bool:
    """Whether putting `new` in force needs signatures."""
    return any(change.loosens for change in changes(old, new))


def _from_nothing(new: Policy) -> Iterator[Change]:
    for rule in new.purposes:
        yield Change(
            f"{rule.name} may use {_list(rule.sources)} with the fields {_list(rule.fields)}, "
            f"kept for {_days(rule.retention_days)}",
            loosens=True,
        )
    yield Change(f"it holds from {_date(new.valid_from)} until {_date(new.valid_until)}", loosens=True)
    yield Change(f"notice {new.notice} is what people consent to", loosens=True)
    yield Change(f"{_list(_names(new.approvers))} may allow more, two at a time", loosens=True)


def _purposes(old: Policy, new: Policy) -> Iterator[Change]:
    before = {rule.name: rule for rule in old.purposes}
    after = {rule.name: rule for rule in new.purposes}
    for name, rule in after.items():
        if name not in before:
            yield Change(
                f"{name} is a new purpose: {_list(rule.sources)}, with the fields {_list(rule.fields)}", loosens=True
            )
        else:
            yield from _rule(before[name], rule)
    for name in before:
        if name not in after:
            yield Change(f"{name} is no purpose any more: nothing may be recorded or read for it", loosens=False)


def _rule(old: PurposeRule, new: PurposeRule) -> Iterator[Change]:
    for what in ("sources", "fields"):
        had, has = set(getattr(old, what)), set(getattr(new, what))
        if has - had:
            yield Change(f"{new.name} may also use the {what} {_list(sorted(has - had))}", loosens=True)
        if had - has:
            yield Change(f"{new.name} may no longer use the {what} {_list(sorted(had - has))}", loosens=False)
    if old.retention_days != new.retention_days:
        longer = new.retention_days > old.retention_days
        yield Change(
            f"{new.name} is kept for {_days(new.retention_days)}, {'not just' if longer else 'not'} "
            f"{_days(old.retention_days)}",
            loosens=longer,
        )
    if old.description != new.description:
        yield Change(f'{new.name} now means "{new.description}", not "{old.description}"', loosens=True)


def _times(old: Policy, new: Policy) -> Iterator[Change]:
    if old.valid_until != new.valid_until:
        yield Change(
            f"it runs out on {_date(new.valid_until)}, not {_date(old.valid_until)}",
            loosens=new.valid_until > old.valid_until,
        )
    if old.valid_from != new.valid_from:
        yield Change(
            f"it begins on {_date(new.valid_from)}, not {_date(old.valid_from)}",
            loosens=new.valid_from < old.valid_from,
        )
    if old.lateness_ms != new.lateness_ms:
        yield Change(
            f"windows take events until {new.lateness_ms} ms after their end, not {old.lateness_ms} ms",
            loosens=new.lateness_ms > old.lateness_ms,
        )
    if old.future_tolerance_ms != new.future_tolerance_ms:
        yield Change(
            f"a device's clock may be {new.future_tolerance_ms} ms ahead, not {old.future_tolerance_ms} ms",
            loosens=new.future_tolerance_ms > old.future_tolerance_ms,
        )


def _detail(old: Policy, new: Policy) -> Iterator[Change]:
    if old.grid_px != new.grid_px:
        # A grid that is no multiple of the old one shows other detail, even where it is coarser.
        finer = new.grid_px % old.grid_px != 0
        yield Change(f"positions are put on a grid of {new.grid_px} px, not {old.grid_px} px", loosens=finer)
    if old.resolution_ms != new.resolution_ms:
        finer = new.resolution_ms % old.resolution_ms != 0
        yield Change(f"times are rounded to {new.resolution_ms} ms, not {old.resolution_ms} ms", loosens=finer)
    if _window(old) != _window(new):
        # Longer windows tie more together, shorter ones cut others: neither is certainly less.
        yield Change(f"windows are {_window(new)}, not {_window(old)}", loosens=True)


def _people(old: Policy, new: Policy) -> Iterator[Change]:
    if old.name != new.name:
        yield Change(f"it is called {new.name}, not {old.name}", loosens=False)
    if (old.notice, old.notice_text) != (new.notice, new.notice_text):
        yield Change(
            f"notice {new.notice} ({new.notice_digest[:12] or 'no text'}) is what people consent to, not {old.notice} "
            f"({old.notice_digest[:12] or 'no text'}): consents to others lapse, earlier ones to this one count again",
            loosens=True,
        )
    if set(old.approvers) != set(new.approvers):
        yield Change(
            f"{_list(_names(new.approvers))} may allow more, not {_list(_names(old.approvers))}: "
            "names, keys or their ends differ",
            loosens=True,
        )
    if set(old.teams) != set(new.teams):
        yield Change(f"the teams are {_list(new.teams)}, not {_list(old.teams)}", loosens=False)


def _window(policy: Policy) -> str:
    extra = {
        "hopping": f" every {policy.window_step_ms} ms",
        "session": f" ended by {policy.window_gap_ms} ms of silence",
    }
    return f"{policy.window_kind} of {policy.window_size_ms} ms{extra.get(policy.window_kind, '')}"


def _names(approvers: Iterable[Approver]) -> list[str]:
    return [approver.name for approver in approvers]


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


def _date(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
