"""How the books are counted: queries over `batches`, `windows`, `ledger` and `deadletters`.

Set-wise in ClickHouse, because there may be millions of sessions. The text is
ordinary ClickHouse with parameters; `tidegate books --explain` prints it. What
the terms mean stands in `streams.reading.books`.

Parameters: `log` (the current one), `since` (ms; sessions that began earlier
are left out, because the tables' TTL may have taken a part of them), `named`.

The steps, each a row for what it groups by:

* receipts (session, log, partition): `taken` is what the windower took, `open`
  the part of it in blocks that are still needed. A partition without a ledger
  row reads replay_from = 0: all its blocks are open. Between the batches of one
  log nothing is missing exactly when log_after - log_before events came.
* stored_windows (session, window): rows that begin with the same event are one
  row stored again. Refused rows have no event to tell them apart by; they are
  added up.
* parts (session, log, partition): receipts and windows side by side; `rest` is
  what is left of what was taken.
* sessions: `gap` is what no receipt and no drop explains, `between` the part of
  it that lies before or between the session's logs.
"""

from __future__ import annotations

_STEPS = """WITH
receipts AS (
    SELECT
        session, log, partition,
        min(r.append_time) AS began,
        max(r.captured) AS captured,
        max(r.final) AS ended,
        sum(r.count) AS received,
        sum(r.late) AS late,
        maxMap(r.producer_dropped) AS producer_dropped,
        sumMap(r.dropped) AS minimiser_dropped,
        sum(r.taken) AS taken,
        sumIf(r.taken, r.block_offset >= progress.replay_from) AS open,
        argMin(r.captured - r.count - r.explained, r.raw_offset) AS log_before,
        max(r.captured) - max(r.explained) AS log_after
    FROM (
        SELECT
            *,
            toInt64(arraySum(mapValues(producer_dropped))) AS explained,
            count - toInt64(arraySum(mapValues(dropped))) - late AS taken
        FROM batches FINAL
    ) AS r
    LEFT JOIN (SELECT log, partition, replay_from FROM ledger FINAL) AS progress USING (log, partition)
    GROUP BY session, log, partition
),
stored_windows AS (
    SELECT
        session, log, partition,
        min(toUnixTimestamp64Milli(w.stored_at)) AS first_stored_at,
        toInt64(sum(w.stored)) AS stored,
        if(w.events > 0, toInt64(count()) - 1, 0) AS again,
        if(w.events > 0, toInt64(sum(w.stored)) - any(w.stored), 0) AS stored_again,
        if(w.events > 0, any(w.refused), sumMap(w.refused)) AS refused
    FROM windows AS w
    GROUP BY session, log, partition, window_kind, window_start, window_end, step_ms, w.events > 0, number[1]
),
parts AS (
    SELECT
        *,
        taken - stored - toInt64(arraySum(mapValues(refused))) + stored_again AS rest,
        least(greatest(rest, 0), greatest(open, 0)) AS held,
        greatest(rest, 0) - held AS unstored,
        greatest(-rest, 0) + stored_again AS stored_twice
    FROM receipts
    FULL OUTER JOIN (
        SELECT
            session, log, partition,
            min(s.first_stored_at) AS first_stored_at,
            sum(s.stored) AS stored,
            sumMap(s.refused) AS refused,
            sum(s.again) AS windows_twice,
            sum(s.stored_again) AS stored_again
        FROM stored_windows AS s
        GROUP BY session, log, partition
    ) AS all_windows USING (session, log, partition)
),
sessions AS (
    SELECT
        session,
        max(p.captured) AS captured,
        max(p.ended) AS ended,
        max(log = {log:String}) AS current,
        sum(p.received) AS received,
        sum(p.stored) AS stored,
        sum(p.late) AS late,
        maxMap(p.producer_dropped) AS producer_dropped,
        sumMap(p.minimiser_dropped) AS minimiser_dropped,
        sumMap(p.refused) AS refused,
        captured - received - toInt64(arraySum(mapValues(producer_dropped))) AS gap,
        gap - sum(p.log_after - p.log_before - p.received) AS between,
        if((SELECT count() FROM batches WHERE log != {log:String}) > 0,
           least(greatest(gap, 0), greatest(between, 0)), 0) AS gap_of_logs,
        greatest(gap, 0) - gap_of_logs AS gap_left,
        if(current AND NOT ended, gap_left, 0) AS awaited,
        if(NOT current AND NOT ended, gap_left, 0) AS gap_of_old_log,
        if(ended, gap_left, 0) AS missing,
        greatest(-gap, 0) AS received_twice,
        sum(p.unstored) AS unstored,
        sum(p.stored_twice) AS stored_twice,
        sum(p.windows_twice) AS windows_twice,
        sumIf(p.held, log = {log:String}) + awaited AS in_flight,
        sumIf(p.held, log != {log:String}) + gap_of_logs + gap_of_old_log AS log_lost,
        missing + unstored AS lost,
        received_twice + stored_twice AS twice,
        lost > 0 OR twice > 0 OR windows_twice > 0 AS unbalanced
    FROM parts AS p
    GROUP BY session
    HAVING min(if(p.began = 0, p.first_stored_at, p.began)) >= {since:Int64}
)
"""

TOTALS = (
    _STEPS  # noqa: S608 - constants of this file; values go in as parameters
    + """SELECT
    count() AS sessions,
    countIf(current AND NOT ended) AS open_sessions,
    sum(s.captured) AS captured,
    sum(s.stored) AS stored,
    sum(s.late) AS late,
    sum(s.in_flight) AS in_flight,
    sum(s.awaited) AS awaited,
    sum(s.log_lost) AS log_lost,
    sum(s.lost) AS lost,
    sum(s.twice) AS twice,
    countIf(s.unbalanced) AS unbalanced,
    (SELECT count() FROM deadletters FINAL WHERE append_time >= {since:Int64}) AS deadletters,
    sumMap(s.producer_dropped) AS producer_dropped,
    sumMap(s.minimiser_dropped) AS minimiser_dropped,
    sumMap(s.refused) AS refused
FROM sessions AS s"""
)

UNBALANCED = (
    _STEPS
    + """SELECT session, captured, missing, received_twice, unstored, stored_twice, windows_twice
FROM sessions
WHERE unbalanced
ORDER BY session
LIMIT {named:UInt32}"""
)
