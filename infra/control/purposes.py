"""What the schema allows each purpose: it outranks every policy."""

from __future__ import annotations

from functools import cache

from schemas.catalogue import POLICY_FIELDS, load

_STRUCTURAL = ("offset_ms", "kind")
"""Columns that an event is none without; a purpose that these do not serve has no events."""


@cache
def served_fields(purpose: str) -> frozenset[str]:
    """Return the event fields that may serve a purpose, as the schema says; empty for a purpose it does not know.

    The schema outranks the policy: a policy that lists more gives no more.
    """
    serves = {f["name"]: f["purposes"] for f in load("interaction_batch").definition["fields"]}
    if any(purpose not in serves[name] for name in _STRUCTURAL):
        return frozenset()
    return frozenset(name for name in POLICY_FIELDS if purpose in serves[name])


def known_purposes() -> tuple[str, ...]:
    """Return the purposes that the schema's fields may serve, sorted, `operations` not among them."""
    fields = load("interaction_batch").definition["fields"]
    return tuple(sorted({p for f in fields for p in f["purposes"]} - {"operations"}))
