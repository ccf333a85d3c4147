"""When a policy needs somebody: before it runs out, or before too few can sign the next one. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from infra.control.readable import moment
from infra.control.records import Approver, Policy
from infra.control.signing import APPROVALS

WARN_DAYS = (14, 3)
"""Days before an end at which it is said: once in good time, and once when it presses."""
DAY_MS = 86_400_000


def days_left(until_ms: int, now_ms: int) -> float:
    """Return the days from now to a moment (both UTC epoch ms); negative once it has passed."""
    return (until_ms - now_ms) / DAY_MS


def pressing(until_ms: int, now_ms: int) -> int | None:
    """Return the last of WARN_DAYS that has been reached before a moment, 0 once it has passed, None before the first.

    A caller that logs does so whenever this changes.
    """
    left = days_left(until_ms, now_ms)
    return 0 if left <= 0 else min((days for days in WARN_DAYS if left <= days), default=None)


def signable_until(approvers: Iterable[Approver]) -> int:
    """Return from when on fewer than two keys are good, UTC epoch ms; 0 for never."""
    ends = sorted((approver.until for approver in approvers), key=lambda until: (until == 0, until))
    return ends[-APPROVALS] if len(ends) >= APPROVALS else 1


def warnings(policy: Policy, now_ms: int) -> list[str]:
    """Return what somebody must do something about soon, a sentence each; the most pressing first."""
    said: list[tuple[int, str]] = []
    if pressing(policy.valid_until, now_ms) is not None:
        end = f"the policy {_ends(policy.valid_until, now_ms)}: nothing passes from then on"
        said.append((policy.valid_until, f"{end}. Put one in force that holds for longer."))
    last = signable_until(policy.approvers)
    if last and pressing(last, now_ms) is not None:
        said.append(
            (
                last,
                f"the keys of all approvers but one at most {_ends(last, now_ms, many=True)}: nobody can allow more "
                "from then on, nor name new keys. Put a policy in force that names new ones before that.",
            )
        )
    for approver in policy.approvers:
        if approver.until and approver.until != last and pressing(approver.until, now_ms) is not None:
            said.append((approver.until, f"the key of {approver.name} {_ends(approver.until, now_ms)}."))
    return [text for _, text in sorted(said)]


def foresight(policy: Policy, now_ms: int) -> list[str]:
    """Return `warnings`, and what may surprise later: that it has not begun, or outlives the keys for the next one."""
    said = warnings(policy, now_ms)
    if policy.valid_from > now_ms:
        begins = f"{in_days(policy.valid_from, now_ms)}, on {_day(policy.valid_from)}"
        said.insert(0, f"the policy begins {begins}: until then nothing passes.")
    last = signable_until(policy.approvers)
    if last and last < policy.valid_until and pressing(last, now_ms) is None:
        said.append(
            f"it holds until {_day(policy.valid_until)}, but only until {_day(last)} two approvers have keys that are "
            "good: from then on nobody can allow more, nor name new keys."
        )
    return said


def in_days(until_ms: int, now_ms: int) -> str:
    """Return how far away a moment is, as people say it."""
    left = days_left(until_ms, now_ms)
    if left <= 0:
        return f"{_count(int(-left))} ago" if left <= -1 else "today"
    return f"in {_count(int(left))}" if left >= 1 else f"in {_count(round(left * 24), 'hour')}"


def _ends(until_ms: int, now_ms: int, *, many: bool = False) -> str:
    day = _day(until_ms)
    if until_ms <= now_ms:
        return f"{'have' if many else 'has'} run out, on {day}"
    return f"{'run' if many else 'runs'} out {in_days(until_ms, now_ms)}, on {day}"


def _day(ms: int) -> str:
    return moment(ms, "%Y-%m-%d %H:%M UTC")


def _count(number: int, unit: str = "day") -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
