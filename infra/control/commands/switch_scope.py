"""What a switch covers: read as people write it, checked against the names that there are, and said in words."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from infra.control.identity import is_subject
from infra.control.purposes import known_purposes
from infra.control.readable import printable
from infra.control.records import CONSENT_TOPIC, POLICY_TOPIC, SCOPES, SWITCH_TOPIC, Switch
from infra.control.state import ControlState
from infra.control.suggest import unknown
from infra.errors import TidegateError
from schemas.catalogue import SOURCES

_NEAR = 0.85
"""How much of a subject identifier must be right for it to be suggested: nobody may find others by guessing."""
_NOTHING = "Nothing was changed."


def parse_scope(text: str) -> tuple[str, str]:
    """Return scope and value of `everything` or `KIND:VALUE`, checked as far as that needs no broker.

    Raises TidegateError, with the nearest known name.
    """
    kind, _, value = (part.strip() for part in text.partition(":"))
    if kind not in SCOPES:
        raise TidegateError(f"{unknown('scope', kind, SCOPES)} {_NOTHING}", code=2)
    if kind == "everything" and value:
        raise TidegateError(f"the scope everything has no value. {_NOTHING}", code=2)
    if kind != "everything" and not value:
        raise TidegateError(
            f"the scope {kind} needs a value, as in `--scope {kind}:{_EXAMPLES[kind]}`. {_NOTHING}", code=2
        )
    if kind == "source" and value not in SOURCES:
        raise TidegateError(f"{unknown(kind, value, SOURCES)} {_NOTHING}", code=2)
    if kind == "subject" and not is_subject(value):
        raise TidegateError(f"the scope subject needs a subject identifier: 32 hex digits. {_NOTHING}", code=2)
    return kind, value


_EXAMPLES = {
    "source": "keys",
    "purpose": "assistant-training",
    "application": "mail",
    "team": "support",
    "subject": "0123456789abcdef0123456789abcdef",
}


def topics_for(kind: str) -> tuple[str, ...]:
    """Return the control topics that must have been read before a scope of this kind can be checked."""
    return (POLICY_TOPIC, SWITCH_TOPIC, CONSENT_TOPIC) if kind == "subject" else (POLICY_TOPIC, SWITCH_TOPIC)


def needs_state(kind: str, value: str) -> bool:
    """Whether only the control topics can tell if there is such a thing."""
    return kind in ("team", "subject") or (kind == "purpose" and value not in known_purposes())


def check_value(kind: str, value: str, state: ControlState) -> None:
    """Raise TidegateError, with the nearest known name, where nothing in the control topics goes by this name."""
    policy = state.policy or state.last_policy
    if kind == "purpose":
        named = [] if policy is None else [rule.name for rule in policy.purposes]
        _need(kind, value, sorted({*known_purposes(), *named}))
    elif kind == "team":
        _need(kind, value, () if policy is None else policy.teams)
    elif kind == "subject" and value not in state.consents:
        near = difflib.get_close_matches(value, state.consents, n=1, cutoff=_NEAR)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise TidegateError(
            f"unknown subject: nobody with this identifier has ever said anything.{meant} {_NOTHING}", code=2
        )


def _need(kind: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise TidegateError(printable(f"{unknown(kind, value, known)} {_NOTHING}"), code=2)


def covers(one: Switch) -> str:
    """Return what a switch stops, in words; of a subject only that it is one."""
    if one.scope == "everything":
        return "everything"
    return "one subject" if one.scope == "subject" else f"{one.scope} {one.value}"
