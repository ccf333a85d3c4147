"""What is asked of the store to prove that a switch held.

Ordinary ClickHouse; `tidegate switch proof` prints every query with its parameters
filled in, and runs what it prints. The one exception are pseudonyms, which are
never printed: a query that needs them keeps the parameter `pseudonyms`.

Parameters: `engaged`, `begin` (the last acknowledgement), `end` (the release, or
now), `until` (`end`, less the policy's resolution, by which times of events are
rounded down), `apart` (how far the clocks may be from each other), all ms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from infra.control.proof import OTHER_KINDS, Column, Covers

CLOCK = "SELECT toUnixTimestamp64Milli(now64(3)) AS store"


class Query(NamedTuple):
    """A query that gives one row."""

    title: str
    sql: str
    columns: tuple[Column, ...]


class _Terms(NamedTuple):
    """What is covered, as expressions; empty where all is. `k` is an event's kind, `a` its application's index."""

    row: str = ""
    """Of a row of `windows`."""
    event: str = ""
    """Of an event of such a row."""
    unknown: str = ""
    """Of an event that is covered unless its application was withheld after the gate had seen it."""


def queries(covers: Covers, switch: str) -> list[Query]:
    """Return what to ask about a switch, with its own values filled in; `fill` fills in the times."""
    terms = _terms(covers)
    made = [_windows(terms), _captured(terms), *_rollups(covers), _manifests(covers), _batches(covers)]
    if terms.unknown:
        made.insert(1, _of_no_application(terms))
    values: dict[str, int | str | tuple[int, ...]] = {"value": covers.value, "kinds": covers.kinds, "switch": switch}
    return [query._replace(sql=fill(query.sql, values)) for query in made]


def fill(sql: str, values: Mapping[str, int | str | tuple[int, ...]]) -> str:
    """Return a query with `{name:Type}` replaced by the values that are given."""

    def literal(found: re.Match[str]) -> str:
        return _literal(values[found[1]]) if found[1] in values else found[0]

    return re.sub(r"\{(\w+):[\w()]+\}", literal, sql)


def _literal(value: int | str | tuple[int, ...]) -> str:
    match value:
        case int():
            return str(value)
        case str():
            return f"'{''.join(map(_escaped, value))}'"
        case _:
            return f"[{', '.join(map(str, value))}]"


def _escaped(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    # As bytes, so that what a terminal would not show as it stands can be pasted all the same.
    return letter if letter.isprintable() else "".join(f"\\x{byte:02X}" for byte in letter.encode(errors="replace"))


def _terms(covers: Covers) -> _Terms:
    match covers.scope:
        case "source":
            return _Terms(event="has({kinds:Array(UInt8)}, k)")
        case "purpose":
            return _Terms(row="has(purposes, {value:String})")
        case "application":
            unknown = f"applications[a + 1] = '' AND k IN ({', '.join(map(str, OTHER_KINDS))})"
            return _Terms(event="applications[a + 1] = {value:String}", unknown=unknown)
        case "subject":
            return _Terms(row="has({pseudonyms:Array(String)}, subject)")
        case "others":
            return _Terms(row="NOT has({pseudonyms:Array(String)}, subject)")
        case _:
            return _Terms()


def _held(row: str, event: str) -> str:
    """How many events of a row are covered, as an expression."""
    events = f"arrayCount((k, a) -> {event}, kind, application)" if event else "events"
    return f"if({row}, {events}, 0)" if row else events


def _and(*conditions: str, indent: int = 4) -> str:
    """Join conditions, those that are empty left out."""
    return f"\n{' ' * indent}AND ".join(condition for condition in conditions if condition)


def _windows(terms: _Terms) -> Query:
    sql = f"""SELECT
    countIf(held > 0 AND inside) AS stored,
    sumIf(held, inside) AS stored_events,
    countIf(held > 0 AND inside AND (at <= {{begin:Int64}} + {{apart:Int64}} OR at >= {{end:Int64}} - {{apart:Int64}}))
        AS stored_near,
    countIf(held > 0 AND NOT inside) AS stored_before,
    countIf(events = 0 AND inside) AS refused,
    sumIf(arraySum(mapValues(refused_by)), inside) AS refused_events,
    countIf(events > 0 AND held = 0 AND inside) AS others
FROM (
    SELECT
        toUnixTimestamp64Milli(stored_at) AS at,
        at > {{begin:Int64}} AS inside,
        events,
        refused AS refused_by,
        {_held(terms.row, terms.event)} AS held
    FROM windows
    WHERE stored_at > fromUnixTimestamp64Milli({{engaged:Int64}}, 'UTC')
        AND stored_at < fromUnixTimestamp64Milli({{end:Int64}}, 'UTC')
)"""  # noqa: S608 - constants of this file; values are filled in as literals
    return Query(
        "rows by when they were stored",
        sql,
        (
            Column("stored", "windows", "rows stored after the last acknowledgement", True, "stored_near"),
            Column("stored_events", "windows", "events in them", False),
            Column("stored_before", "windows", "rows stored between engaging and the last acknowledgement", False),
            Column("refused", "windows", "rows without events: counts of what was refused", False),
            Column("refused_events", "windows", "events refused there", False),
            Column("others", "windows", "rows of what it does not cover", False),
        ),
    )


def _of_no_application(terms: _Terms) -> Query:
    sql = f"""SELECT countIf(held > 0) AS unknown_stored
FROM (
    SELECT {_held(terms.row, terms.unknown)} AS held
    FROM windows
    WHERE stored_at > fromUnixTimestamp64Milli({{begin:Int64}}, 'UTC')
        AND stored_at < fromUnixTimestamp64Milli({{end:Int64}}, 'UTC')
)"""  # noqa: S608 - as above
    what = "rows stored with events of no known application"
    column = Column("unknown_stored", "windows", what, must_be_zero=True, sure=False)
    return Query("rows whose application is not known", sql, (column,))


# Steps of `_captured`:
# * dated: covered events whose own time lies in the interval, be they stored when they may.
# * appended: when the broker took the batch of each, 0 where no batch has its number.
# * slow: by session, how much later its other batches were appended than their last event
#   says; a device's clock is behind by no more than the least of that.
# An event that the broker had before the last acknowledgement was not captured after it: that
# clock is ahead. One that came after the release may have been captured after it, where the
# session shows elsewhere too that its clock is so far behind.
def _captured(terms: _Terms) -> Query:
    inside = ("time > {begin:Int64}", "time <= {until:Int64}")
    dated = _and(
        "window_end > {begin:Int64}", "window_start <= {until:Int64}", terms.row, *inside, terms.event, indent=8
    )
    sql = f"""WITH
dated AS (
    SELECT session, n, window_start + o AS time
    FROM windows
    ARRAY JOIN number AS n, offset_ms AS o, kind AS k, application AS a
    WHERE {dated}
),
receipts AS (
    SELECT session, first_number, count, append_time
    FROM batches FINAL
    WHERE count > 0 AND session IN (SELECT session FROM dated)
),
slow AS (
    SELECT session, min(behind) AS behind
    FROM (
        SELECT e.session AS session, r.append_time - max(e.time) AS behind
        FROM (
            SELECT session, n, window_start + o AS time
            FROM windows
            ARRAY JOIN number AS n, offset_ms AS o
            WHERE session IN (SELECT session FROM dated)
        ) AS e
        ASOF INNER JOIN receipts AS r ON e.session = r.session AND e.n >= r.first_number
        WHERE e.n < r.first_number + r.count
        GROUP BY e.session, r.first_number, r.append_time
        HAVING countIf(e.time > {{begin:Int64}} AND e.time <= {{until:Int64}}) = 0
    )
    GROUP BY session
)
SELECT
    countIf(NOT is_ahead AND NOT is_behind) AS captured,
    countIf(is_ahead) AS ahead,
    countIf(is_behind) AS behind
FROM (
    SELECT
        appended > 0 AND appended <= {{begin:Int64}} AS is_ahead,
        appended >= {{end:Int64}} AND time + slow.behind >= {{end:Int64}} AS is_behind
    FROM (
        SELECT
            d.session AS session,
            d.time AS time,
            if(d.n < r.first_number + r.count, r.append_time, 0) AS appended
        FROM dated AS d
        ASOF LEFT JOIN receipts AS r ON d.session = r.session AND d.n >= r.first_number
    ) AS found
    LEFT JOIN slow ON found.session = slow.session
)"""  # noqa: S608 - as above
    return Query(
        "events by their own time, whenever they were stored",
        sql,
        (
            Column("captured", "windows", "events captured after the last acknowledgement, by their own time", True),
            Column("ahead", "windows", "such events that the broker had before: their device's clock is ahead", False),
            Column("behind", "windows", "such events sent later by a device whose clock is behind", False),
        ),
    )


def _rollups(covers: Covers) -> list[Query]:
    """Roll-ups name no purpose and no subject. `stored_at` has whole seconds, and moves when a group grows again."""
    conditions = {
        "kinds_by_hour_state": {
            "everything": "",
            "source": "has({kinds:Array(UInt8)}, kind)",
            "application": "application = {value:String}",
        },
        "activity_by_hour_state": {"everything": "", "application": "application = {value:String}"},
    }
    made = []
    for table, by_scope in conditions.items():
        if covers.scope in by_scope:
            seconds = "toUnixTimestamp(stored_at)"
            inside = (f"{seconds} * 1000 > {{begin:Int64}}", f"({seconds} + 1) * 1000 <= {{end:Int64}}")
            where = _and(*inside, by_scope[covers.scope])
            sql = f"SELECT count() AS grown\nFROM {table}\nWHERE {where}"
            what = "groups that grew after the last acknowledgement"
            made.append(Query(f"groups of {table}", sql, (Column("grown", table, what, True),)))
    return made


def _manifests(covers: Covers) -> Query:
    # A sample lists the switches that it went by.
    stopped = {
        "purpose": "purpose = {value:String}",
        "source": "NOT has(JSONExtract(manifest, 'switches', 'Array(String)'), {switch:String})",
        "application": "NOT has(JSONExtract(manifest, 'switches', 'Array(String)'), {switch:String})",
        "subject": "hasAny(pseudonyms, {pseudonyms:Array(String)})",
        "others": "NOT hasAll({pseudonyms:Array(String)}, pseudonyms)",
    }.get(covers.scope, "1")
    sql = f"""SELECT
    countIf(stopped) AS taken,
    countIf(stopped AND (at <= {{begin:Int64}} + {{apart:Int64}} OR at >= {{end:Int64}} - {{apart:Int64}}))
        AS taken_near,
    countIf(NOT stopped) AS others
FROM (
    SELECT toUnixTimestamp64Milli(stored_at) AS at, {stopped} AS stopped
    FROM manifests FINAL
    WHERE stored_at > fromUnixTimestamp64Milli({{begin:Int64}}, 'UTC')
        AND stored_at < fromUnixTimestamp64Milli({{end:Int64}}, 'UTC')
)"""  # noqa: S608 - as above
    what = "samples taken that do not heed it" if "switch:String" in stopped else "samples taken of what it covers"
    return Query(
        "samples",
        sql,
        (
            Column("taken", "manifests", what, True, "taken_near"),
            Column("others", "manifests", "other samples", False),
        ),
    )


def _batches(covers: Covers) -> Query:
    sql = """SELECT
    count() AS batches,
    sum(held) AS events,
    sum(kept) AS kept,
    sum(dropped_by['switch']) AS minimiser_dropped,
    (
        SELECT sum(grown)
        FROM (
            SELECT session, max(captured) - maxIf(captured, append_time <= {begin:Int64}) AS grown
            FROM batches FINAL
            WHERE append_time < {end:Int64}
            GROUP BY session
            HAVING max(append_time) > {begin:Int64}
        )
    ) AS captured,
    (
        SELECT sum(grown)
        FROM (
            SELECT
                session,
                max(producer_dropped['switch'])
                    - maxIf(producer_dropped['switch'], append_time <= {begin:Int64}) AS grown
            FROM batches FINAL
            WHERE append_time < {end:Int64}
            GROUP BY session
            HAVING max(append_time) > {begin:Int64}
        )
    ) AS producer_dropped
FROM (
    SELECT count AS held, kept, dropped AS dropped_by
    FROM batches FINAL
    WHERE append_time > {begin:Int64} AND append_time < {end:Int64}
)"""
    everything = covers.scope == "everything"
    return Query(
        "batches by when the broker took them",
        sql,
        (
            Column("batches", "batches", "batches appended after the last acknowledgement", False),
            Column("events", "batches", "events in them", False),
            Column("kept", "batches", "events of them that the minimiser let through", everything),
            Column("minimiser_dropped", "batches", "events of them that it dropped for a switch", False),
            Column("captured", "batches", "events that producers counted meanwhile", False),
            Column("producer_dropped", "batches", "of them dropped by the producers for a switch", False),
        ),
    )
