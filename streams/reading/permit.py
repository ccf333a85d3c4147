"""What one purpose may read right now: the gate of `infra.control.gate`, asked about a single purpose."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from infra.control.reasons import PASS
from infra.control.records import Policy, PurposeRule, Switch
from infra.control.state import View
from infra.control.verdict import Verdict, judge, served_fields
from infra.errors import TidegateError
from schemas.catalogue import MINIMISED_EVENT_COLUMNS, SOURCE_OF_KIND, SOURCES, STRUCTURAL_COLUMNS

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Permit:
    """What may be read for one purpose. Equal permits allow the same; consents are asked for apart."""

    purpose: str
    policy: str
    policy_version: int
    notice: str
    retention_ms: int
    fields: tuple[str, ...]
    """Event columns that may stand in a file: the structural ones and those the policy lists, in schema order."""
    kinds: tuple[int, ...]
    """Codes of the event kinds: those of the purpose's sources that no engaged switch stops."""
    stopped: tuple[str, ...]
    """Applications that an engaged switch stops, sorted; with any, events of no known application stay out too."""
    switches: tuple[str, ...]
    """Identifiers of the engaged switches, sorted."""


def permit(view: View, purpose: str, now_ms: int) -> Permit:
    """Return what may be read for `purpose` at this moment.

    Raises TidegateError, in words for the person who asked, when nothing may
    be: the view is not fresh, no policy is in force or it lacks the purpose, or
    an engaged switch covers all of it.
    """
    policy = _in_force(view, now_ms)
    rule = _rule(policy, purpose)
    engaged = view.state.stopping(now_ms)
    _refuse_if_stopped(engaged, purpose)
    values = {scope: {s.value for s in engaged if s.scope == scope} for scope in ("source", "application")}
    sources = set(rule.sources) - values["source"]
    kinds = tuple(code for code, source in enumerate(SOURCE_OF_KIND) if source in sources)
    fields = served_fields(purpose).intersection(rule.fields)
    if not kinds:
        raise TidegateError(
            f"every source of the purpose {purpose} is stopped by an engaged switch. See `tidegate switch list`."
        )
    return Permit(
        purpose=purpose,
        policy=policy.name,
        policy_version=policy.version,
        notice=policy.notice,
        retention_ms=rule.retention_days * DAY_MS,
        fields=tuple(name for name in MINIMISED_EVENT_COLUMNS if name in fields.union(STRUCTURAL_COLUMNS)),
        kinds=kinds,
        stopped=tuple(sorted(values["application"])),
        switches=tuple(sorted(switch.id for switch in engaged)),
    )


def verdicts(view: View, allowed: Permit, subjects: Iterable[str], now_ms: int) -> Mapping[str, Verdict]:
    """Return the gate's verdict on those of the pseudonyms `subjects` whose windows may be read; nobody else's.

    The gate is asked under the policy as it would be with this purpose alone,
    so a verdict allows what this purpose may use and nothing that another may.
    """
    policy = view.state.policy
    rule = policy.purpose(allowed.purpose) if policy is not None else None
    if policy is None or rule is None:
        return {}
    alone = View(replace(view.state, policy=replace(policy, purposes=(rule,))), view.fresh, view.why)
    judged = ((subject, judge(alone, subject, now_ms, view.state.epoch)) for subject in subjects)
    return {subject: verdict for subject, verdict in judged if verdict.purposes and PASS in verdict.refusal}


class Gate:
    """The sampler's gate at successive moments: the reader's view and the clock, asked anew each time."""

    def __init__(
        self,
        view: Callable[[], View],
        now_ms: Callable[[], int],
        passage: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._view = view
        self.now_ms = now_ms
        self.passage = passage
        """Enter it to act on a verdict: until it is left, no later change is acknowledged."""

    def permit(self, purpose: str) -> Permit:
        """Return what may be read now; raises as `permit.permit`."""
        return permit(self._view(), purpose, self.now_ms())

    def verdicts(self, allowed: Permit, subjects: set[str]) -> Mapping[str, Verdict]:
        """Judge subjects now; see `permit.verdicts`."""
        return verdicts(self._view(), allowed, subjects, self.now_ms())

    def still(self, allowed: Permit, subjects: set[str]) -> Mapping[str, Verdict]:
        """Return the verdicts on these subjects, by one view.

        Raises TidegateError unless the permit and every one of the consents hold.
        """
        view, now = self._view(), self.now_ms()
        changed = permit(view, allowed.purpose, now) != allowed
        found = verdicts(view, allowed, subjects, now)
        if changed or len(found) != len(subjects):
            what = "the policy or a switch has" if changed else "consents have"
            raise TidegateError(
                f"{what} changed while the sample was taken, so it is refused and no file is left. Take it again."
            )
        return found


def _in_force(view: View, now_ms: int) -> Policy:
    if not view.fresh:
        raise TidegateError(
            f"what is allowed right now is not known ({view.why or 'the control state is not fresh'}), so no sample "
            "is taken. Check that the broker, the authority and a minimiser run (`tidegate status`), then try again."
        )
    policy = view.state.policy
    if policy is None:
        raise TidegateError("no policy is in force, so nothing may be read. See `tidegate policy apply --help`.")
    if not policy.valid_from <= now_ms < policy.valid_until:
        raise TidegateError(
            f"the policy {policy.name} version {policy.version} has run out or has not begun, so nothing may be read. "
            "See `tidegate policy show`."
        )
    return policy


def _rule(policy: Policy, purpose: str) -> PurposeRule:
    rule = policy.purpose(purpose)
    if rule is not None:
        return rule
    names = [each.name for each in policy.purposes]
    near = difflib.get_close_matches(purpose, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}."
    raise TidegateError(
        f"the policy in force ({policy.name} version {policy.version}) has no purpose {purpose!r}; {hint}"
    )


def _refuse_if_stopped(engaged: Iterable[Switch], purpose: str) -> None:
    for switch in engaged:
        # As for the gate: a source that is not known here may be any, so such a switch stops
        # every sample. One over a subject or a team reaches the verdicts by control.standing.
        unknown_source = switch.scope == "source" and switch.value not in SOURCES
        this_purpose = switch.scope == "purpose" and switch.value == purpose
        if switch.scope == "everything" or unknown_source or this_purpose:
            raise TidegateError(
                f"the switch {switch.id} is engaged and stops this sample (scope {switch.scope}). "
                "Nothing can be taken until it is released; see `tidegate switch list`."
            )
