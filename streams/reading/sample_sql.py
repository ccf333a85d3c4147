"""The queries of a sample: which windows may be chosen, and the chosen ones in batches.

The rank is computed in ClickHouse, so that only 64 bits of a window travel for
the choice and not its identity. It hashes what a window is, by SipHash-2-4
keyed with the seed, and neither where nor when it was stored.
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.catalogue import KIND_NAMES

STRATA = ("app", "hour", "kind")
NO_APPLICATION = "(none)"

RANK = (
    "sipHash64Keyed((toUInt64({seed:UInt64}), toUInt64(0)), "
    "log, partition, session, window_kind, window_start, window_end, step_ms, policy_version)"
)

# Which events (k: kind, a: application) the gate would let through. While an
# application is stopped, events of no known one stay out too, but for the
# session's own.
_PASSES = "has({kinds:Array(UInt8)}, k)"
_PASSES_UNSTOPPED = f"{_PASSES} AND (has({{session_kinds:Array(UInt8)}}, k) OR NOT has(blocked, a + 1))"
_BLOCKED = """arrayFilter(
        i -> applications[i] = '' OR has({stopped:Array(String)}, applications[i]), arrayEnumerate(applications)
    ) AS blocked"""

# The application, or the kind, of most events; of two with as many, the one
# listed first. Pointer moves drown all else, so they count where they are alone.
_APPLICATION = """arrayMap(i -> countEqual(passing_applications, i - 1), arrayEnumerate(applications))
        AS by_application,
    applications[indexOf(by_application, arrayMax(by_application))] AS application_name"""
_KIND = """arrayMap(c -> if(c = {pointer_move:UInt8}, 1, 1000000) * countEqual(passing_kinds, c), {kinds:Array(UInt8)})
        AS by_kind,
    {kinds:Array(UInt8)}[indexOf(by_kind, arrayMax(by_kind))] AS kind_code"""
_NAMES = ", ".join(f"'{name}'" for name in KIND_NAMES)
_STRATUM = {
    "": "''",
    "hour": "leftPad(toString(intDiv(window_start, 3600000) % 24), 2, '0')",
    "app": f"if(application_name = '', '{NO_APPLICATION}', application_name)",
    "kind": f"[{_NAMES}][kind_code + 1]",
}


_MAY_BE = "has(purposes, {purpose:String}) AND window_start >= {since:Int64} AND window_start < {until:Int64}"

SLOTS = f"""SELECT slot, count() AS rows
FROM windows
WHERE {_MAY_BE}
GROUP BY slot
ORDER BY slot"""  # noqa: S608 - constants of this file; values go in as parameters
"""How many windows there are at most in each slot: what the keys are read in pages by."""


def choose_sql(stratify: str, stopping: bool) -> str:
    """Return the query for the keys of the windows that may be chosen, of some slots.

    `stratify` is one of STRATA or empty; `stopping` says whether any application
    is stopped. Who consents is not in it: the gate judges each subject.
    """
    passes = _PASSES_UNSTOPPED if stopping else _PASSES
    terms = [_BLOCKED] if stopping else []
    terms += [f"arrayFilter((k, a) -> {passes}, kind, application) AS passing_kinds"]
    if stratify == "app":
        terms += [f"arrayFilter((a, k) -> {passes}, application, kind) AS passing_applications", _APPLICATION]
    if stratify == "kind":
        terms += [_KIND]
    return f"""WITH
    {_lines(terms)}
SELECT slot, {RANK} AS rank, subject, {_STRATUM[stratify]} AS stratum, length(passing_kinds) AS passing
FROM windows
WHERE {_MAY_BE} AND slot >= {{first_slot:Int64}} AND slot <= {{last_slot:Int64}} AND passing > 0
LIMIT 1 BY slot, rank"""  # noqa: S608 - constants of this file; values go in as parameters


def read_sql(columns: Iterable[str]) -> str:
    """Return the query for a batch of chosen windows, in the order of a sample's files."""
    return f"""SELECT {", ".join(columns)}, slot, {RANK} AS rank
FROM windows
WHERE {_MAY_BE} AND slot >= {{first_slot:Int64}} AND slot <= {{last_slot:Int64}}
    AND rank IN {{ranks:Array(UInt64)}}
ORDER BY slot, rank
LIMIT 1 BY slot, rank"""  # noqa: S608 - names of columns; values go in as parameters


def _lines(terms: Iterable[str]) -> str:
    return ",\n    ".join(terms)
