"""What a policy file must keep to beyond its shape: names of the schema, times, and approvers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from infra.control.policy_shape import File, Named, Place, Problem, Purpose, Window
from infra.control.purposes import known_purposes, served_fields
from infra.control.records import window_faults
from infra.control.signing import APPROVALS
from infra.control.suggest import unknown
from schemas.catalogue import POLICY_FIELDS, SOURCES

_INT = 2**31 - 1
"""What the record's int fields hold."""


def check(file: File, keys: Mapping[str, str], now_ms: int) -> Iterator[Problem]:
    """Yield what is wrong with a file of the right shape; `keys` are the approvers' public keys that could be read."""
    yield from _check_window(file.window)
    yield from _check_purposes(file.purposes)
    yield from _check_rest(file, now_ms)
    yield from _check_approvers(file.approvers, keys, now_ms)


def _check_window(window: Window) -> Iterator[Problem]:
    if window.kind == "hopping" and window.step is None:
        yield ("window",), "a hopping window needs a step"
    for part, what in window_faults(window.kind, window.size, window.step_or_size, window.gap or 0, window.lateness):
        yield ("window",) if getattr(window, part) is None else ("window", part), what


def _check_purposes(purposes: Mapping[str, Purpose]) -> Iterator[Problem]:
    if not purposes:
        yield ("purposes",), "is empty: nothing could be recorded"
    for name, rule in purposes.items():
        at: Place = ("purposes", name)
        if name not in known_purposes():
            yield at, unknown("purpose", name, known_purposes()) + " No field of the schema serves it."
            continue
        for place, source in enumerate(rule.sources):
            if source not in SOURCES:
                yield (*at, "sources", place), unknown("source", source, SOURCES)
        for place, listed in enumerate(rule.fields_):
            if listed not in POLICY_FIELDS:
                yield (*at, "fields", place), unknown("field", listed, POLICY_FIELDS)
            elif listed not in served_fields(name):
                yield (*at, "fields", place), f"`{listed}` may not serve {name}: the schema does not list that purpose"
        if rule.retention_days < 1:
            yield (*at, "retention_days"), "must be at least 1"


def _check_rest(file: File, now_ms: int) -> Iterator[Problem]:
    if file.version < 1:
        yield ("version",), "must be at least 1"
    if file.valid.until <= file.valid.begin:
        yield ("valid", "until"), "must come after from"
    elif file.valid.until <= now_ms:
        yield ("valid", "until"), "has passed: this policy has run out"
    if file.minimise.grid < 1:
        yield ("minimise", "grid"), "must be at least 1px"
    if file.minimise.resolution < 1:
        yield ("minimise", "resolution"), "must be at least 1ms"
    sizes: dict[Place, int] = {
        ("version",): file.version,
        ("window", "lateness"): file.window.lateness,
        ("minimise", "grid"): file.minimise.grid,
        ("minimise", "resolution"): file.minimise.resolution,
        ("future_tolerance",): file.future_tolerance,
    }
    sizes |= {("purposes", name, "retention_days"): rule.retention_days for name, rule in file.purposes.items()}
    yield from ((at, "is too large") for at, size in sizes.items() if size > _INT)
    for place, team in enumerate(file.teams):
        if team in file.teams[:place]:
            yield ("teams", place), f"`{team}` stands twice"


def _check_approvers(approvers: Mapping[str, Named], keys: Mapping[str, str], now_ms: int) -> Iterator[Problem]:
    if len(approvers) < APPROVALS:
        yield (
            ("approvers",),
            "needs two people or more, or nobody could ever allow anything; "
            "`tidegate keys new NAME` makes the key of one and prints the line for here",
        )
    owners: dict[str, str] = {}
    for name, said in approvers.items():
        if not name.strip():
            yield ("approvers", name), "an approver has no name"
        if said.until is not None and said.until <= now_ms:
            yield ("approvers", name, "until"), f"has passed: the signature of {name} no longer counts"
        if name in keys and owners.setdefault(keys[name], name) != name:
            yield ("approvers", name, "key"), f"is the key of {owners[keys[name]]} too: two people need two keys"
