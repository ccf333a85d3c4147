-- Who said no is nobody's business. The view `drops` named sessions, `interactions`
-- names their subjects, and a join listed the pseudonyms that had withdrawn. Reasons
-- by session stand in `batches` and `windows` alone now, which the books are counted
-- from and analysts do not read.
--
-- What remains is counted by day, stage and reason. Reasons that speak of machines
-- and rules are shown as they are. Any other may tell what a person said (a switch
-- may be over one subject; a source may be refused because of what was allowed), so
-- they are shown only
--   * of at least five sessions: a receipt does not say whose its session is, so
--     sessions stand in for people;
--   * when the day is over: a figure that grows in the second in which a pseudonym
--     falls silent would name it;
--   * and what a person said, in one word, whether they never allowed it, took it
--     back, paused, or agreed to an older notice.
-- A reason that is new here is hidden in the same way, until somebody has thought
-- about it.
CREATE OR REPLACE VIEW drops
(
    day      Date COMMENT 'The day, UTC',
    stage    String COMMENT 'Who dropped: producer, minimiser or windower',
    reason   String COMMENT 'Why; not_consented for all that a person said',
    count    UInt64 COMMENT 'How many events',
    sessions UInt64 COMMENT 'In how many sessions; never fewer than five where the reason may tell of a person'
)
COMMENT 'Events that were captured and not stored, by day, stage and reason'
AS
SELECT day, stage, reason, sum(events) AS count, uniqExact(session) AS sessions
FROM
(
    SELECT
        day,
        stage,
        session,
        if(counts.1 IN ('no_consent', 'notice_changed', 'paused'), 'not_consented', counts.1) AS reason,
        counts.2 AS events
    FROM
    (
        -- A producer's counts run from the start of its session: a day's are what they grew by.
        SELECT
            session,
            'producer' AS stage,
            day,
            mapSubtract(running, lagInFrame(running, 1, CAST(map(), 'Map(String, UInt64)'))
                OVER (PARTITION BY session ORDER BY day ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)) AS by_reason
        FROM
        (
            SELECT
                session,
                toDate(fromUnixTimestamp64Milli(append_time, 'UTC')) AS day,
                CAST(maxMap(producer_dropped), 'Map(String, UInt64)') AS running
            FROM batches FINAL
            GROUP BY session, day
        )
        UNION ALL
        SELECT
            session,
            'minimiser' AS stage,
            toDate(fromUnixTimestamp64Milli(append_time, 'UTC')) AS day,
            CAST(sumMap(dropped), 'Map(String, UInt64)') AS by_reason
        FROM batches FINAL
        GROUP BY session, day
        UNION ALL
        SELECT
            session,
            'windower' AS stage,
            toDate(windows.stored_at, 'UTC') AS day,
            CAST(sumMap(refused), 'Map(String, UInt64)') AS by_reason
        FROM windows
        GROUP BY session, day
    )
    ARRAY JOIN CAST(by_reason, 'Array(Tuple(String, UInt64))') AS counts
    WHERE counts.2 > 0
)
GROUP BY day, stage, reason
HAVING reason IN ('stale', 'no_policy', 'policy_expired', 'policy_not_yet', 'epoch', 'future', 'malformed',
                  'buffer_full', 'spool_full', 'undeliverable')
    OR (sessions >= 5 AND day < toDate(now('UTC')));

-- The arrays, for those who would rather not unfold them: as in `windows`, without the
-- rows of what was refused and the figures that only the books need.
CREATE VIEW IF NOT EXISTS window_arrays
(
    window_kind    LowCardinality(String) COMMENT 'tumbling, hopping or session',
    window_start   Int64 COMMENT 'Start of the window, ms since 1970-01-01 UTC; offset_ms counts from here',
    window_end     Int64 COMMENT 'End of the window, exclusive, ms since 1970-01-01 UTC',
    step_ms        Int64 COMMENT 'From the start of one window to the start of the next, ms; the size where windows tumble',
    session        String COMMENT 'Session, as the producer named it',
    subject        String COMMENT 'Keyed pseudonym of the person recorded',
    purposes       Array(LowCardinality(String)) COMMENT 'Purposes that the subject had consented to',
    screen_width   Int32 COMMENT 'Width of the screen, px; 0 where unknown',
    screen_height  Int32 COMMENT 'Height of the screen, px; 0 where unknown',
    applications   Array(String) COMMENT 'Applications that `application` refers to: applications[application + 1]',
    number         Array(Int64) COMMENT 'By event: running number in its session',
    offset_ms      Array(UInt32) COMMENT 'By event: time after window_start, ms',
    kind           Array(UInt8) COMMENT 'By event: what happened, a code of Kind in the schema',
    application    Array(UInt16) COMMENT 'By event: the application in front, an index into applications',
    x              Array(Int32) COMMENT 'By event: pointer position from the left, px',
    y              Array(Int32) COMMENT 'By event: pointer position from the top, px',
    button         Array(UInt8) COMMENT 'By event: pointer button, a code of Button in the schema',
    pressed        Array(UInt8) COMMENT 'By event: 1 where a button or key went down',
    wheel_x        Array(Int32) COMMENT 'By event: horizontal wheel movement, notches',
    wheel_y        Array(Int32) COMMENT 'By event: vertical wheel movement, notches',
    key_class      Array(UInt8) COMMENT 'By event: class of the key, a code of KeyClass in the schema',
    role           Array(UInt8) COMMENT 'By event: role of the element, a code of Role in the schema',
    events         UInt32 COMMENT 'How many events the arrays hold',
    stored         UInt32 COMMENT 'How many of them have this as their primary window'
)
COMMENT 'Closed windows with the events as arrays; nothing of what was refused'
AS
SELECT
    window_kind, window_start, window_end, step_ms, session, subject, purposes, screen_width, screen_height,
    applications, number, offset_ms, kind, application, x, y, button, pressed, wheel_x, wheel_y, key_class, role,
    events, stored
FROM windows
WHERE events > 0;
