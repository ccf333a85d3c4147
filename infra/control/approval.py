"""Gathering the signatures that allowing more needs, from one person or from several, one after the other.

What lacks signatures waits on its control topic, ignored by every gate, for the
next approver to find: two people need not sit at one machine, nor pass files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from infra.control import signing
from infra.control.records import Approver, Consent, Policy, Switch, key_of, topic_of
from infra.control.signing import Signed
from infra.control.state import ControlState
from infra.errors import TidegateError


class Approval(NamedTuple):
    """How far a record has come."""

    names: tuple[str, ...]
    """The approvers who have signed it."""
    approvers: tuple[str, ...]
    """Those who may."""

    @property
    def enough(self) -> bool:
        """Whether every gate will take it."""
        return len(self.names) >= signing.APPROVALS

    @property
    def others(self) -> tuple[str, ...]:
        """Those who may still sign."""
        return tuple(name for name in self.approvers if name not in self.names)


def endorse(record: Signed, state: ControlState, seeds: Sequence[bytes], now_ms: int) -> tuple[Signed, Approval]:
    """Return the record with these keys' signatures, and those that wait on the topic for the same content.

    Raises TidegateError, naming the public key, for a key that is no approver's or has run out.
    """
    approvers = approvers_for(record, state)
    for seed in seeds:
        _check(signing.public_of(seed), approvers, now_ms)
    waiting = state.pending.get((topic_of(record), key_of(record)))
    if isinstance(waiting, type(record)) and _same(waiting, record, state.log):
        record = waiting  # with its signatures, and dated as they were given
    signed = signing.sign(record, state.log, *seeds)
    names = signing.approvals(signed, state.log, approvers, now_ms)
    return signed, Approval(names, tuple(approver.name for approver in approvers))


def approvers_for(record: Policy | Consent | Switch, state: ControlState) -> tuple[Approver, ...]:
    """Return who may allow this: the approvers of the last policy or, for the first one, its own."""
    if state.last_policy is not None:
        return state.last_policy.approvers
    return record.approvers if isinstance(record, Policy) else ()


def _same(waiting: Policy | Consent | Switch, record: Policy | Consent | Switch, log: str) -> bool:
    return signing.payload(waiting, log) == signing.payload(record, log)


def _check(public: str, approvers: Iterable[Approver], now_ms: int) -> None:
    known = {approver.key: approver for approver in approvers}
    if public not in known:
        names = ", ".join(approver.name for approver in known.values()) or "nobody: no policy was ever in force"
        raise TidegateError(
            f"the key {public[:16]}… is no approver's. The approvers are {names}. Nothing was written; "
            "`tidegate keys list` shows which of your keys is whose."
        )
    approver = known[public]
    if approver.until and now_ms >= approver.until:
        raise TidegateError(
            f"the key of {approver.name} has run out, so their signature no longer counts. Nothing was written; "
            "a policy signed by two others can name a new key."
        )
