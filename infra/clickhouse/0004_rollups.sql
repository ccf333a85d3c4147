-- What an analyst asks first, kept up to date by materialised views: what people
-- do in which application, and how much of their time it takes.
--
-- Roll-ups keep the state of a count of distinct subjects, never the subjects.
-- The views that people read show a group only when at least five subjects are
-- in it: any smaller and a figure would speak of a person.
--
-- A repeated INSERT into `windows` (same insert_deduplication_token) adds
-- nothing here either: every INSERT runs with
-- deduplicate_blocks_in_dependent_materialized_views = 1, which hands the token
-- on, and the targets keep a deduplication window as long as that of `windows`.
-- That also completes an INSERT that died between `windows` and a roll-up.

CREATE TABLE IF NOT EXISTS kinds_by_hour_state
(
    hour        DateTime('UTC') COMMENT 'Start of the hour',
    application LowCardinality(String) COMMENT 'The application in front; empty where unknown or withheld',
    kind        UInt8 COMMENT 'What happened, a code of Kind in the schema',
    events      SimpleAggregateFunction(sum, UInt64) COMMENT 'Events, each counted once',
    subjects    AggregateFunction(uniq, String) COMMENT 'State of the count of distinct subjects',
    stored_at   SimpleAggregateFunction(max, DateTime('UTC')) DEFAULT now('UTC') COMMENT 'When the group last grew'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, application, kind)
TTL stored_at + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'Events by hour, application and kind, as states; read kinds_by_hour';

CREATE MATERIALIZED VIEW IF NOT EXISTS kinds_by_hour_feed TO kinds_by_hour_state
COMMENT 'Feeds kinds_by_hour_state from every INSERT into windows'
AS
SELECT
    toDateTime(intDiv(window_start + event_offset, 3600000) * 3600, 'UTC') AS hour,
    applications[event_application + 1] AS application,
    event_kind AS kind,
    count() AS events,
    uniqState(subject) AS subjects
FROM windows AS w
ARRAY JOIN w.offset_ms AS event_offset, w.kind AS event_kind, w.application AS event_application
WHERE window_kind != 'hopping' OR event_offset < step_ms
GROUP BY hour, application, kind;

CREATE VIEW IF NOT EXISTS kinds_by_hour
(
    hour        DateTime('UTC') COMMENT 'Start of the hour',
    application LowCardinality(String) COMMENT 'The application in front; empty where unknown or withheld',
    kind        LowCardinality(String) COMMENT 'What happened',
    events      UInt64 COMMENT 'Events, each counted once',
    subjects    UInt64 COMMENT 'Distinct subjects; never fewer than five'
)
COMMENT 'Events by hour, application and kind, only where at least five subjects took part'
AS
SELECT
    hour,
    application,
    ['unknown', 'session_start', 'session_pause', 'session_resume', 'session_end', 'pointer_move',
     'pointer_button', 'wheel', 'key', 'focus', 'element'][state.kind + 1] AS kind,
    sum(state.events) AS events,
    uniqMerge(state.subjects) AS subjects
FROM kinds_by_hour_state AS state
GROUP BY hour, application, state.kind
HAVING subjects >= 5;

CREATE TABLE IF NOT EXISTS activity_by_hour_state
(
    hour           DateTime('UTC') COMMENT 'Start of the hour',
    application    LowCardinality(String) COMMENT 'The application in front; empty where unknown or withheld',
    active_seconds SimpleAggregateFunction(sum, UInt64) COMMENT 'Seconds in which a session did something there, summed over sessions',
    subjects       AggregateFunction(uniq, String) COMMENT 'State of the count of distinct subjects',
    stored_at      SimpleAggregateFunction(max, DateTime('UTC')) DEFAULT now('UTC') COMMENT 'When the group last grew'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, application)
TTL stored_at + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'Active time by hour and application, as states; read activity_by_hour';

-- A cell is a second of the window and an application. It counts once, however
-- many events it holds: cells are made distinct within the row, before any join,
-- which costs half of grouping events. Primary windows share no second when
-- window and step are whole seconds; otherwise the second that they cut may
-- count twice.
CREATE MATERIALIZED VIEW IF NOT EXISTS activity_by_hour_feed TO activity_by_hour_state
COMMENT 'Feeds activity_by_hour_state from every INSERT into windows'
AS
SELECT
    toDateTime(intDiv(window_start + intDiv(cell, 65536) * 1000, 3600000) * 3600, 'UTC') AS hour,
    applications[cell % 65536 + 1] AS application,
    count() AS active_seconds,
    uniqState(subject) AS subjects
FROM
(
    SELECT
        subject,
        applications,
        window_kind,
        window_start,
        step_ms,
        arrayDistinct(arrayMap((o, a) -> intDiv(o, 1000) * 65536 + a, offset_ms, application)) AS cells
    FROM windows
)
ARRAY JOIN cells AS cell
WHERE window_kind != 'hopping' OR intDiv(cell, 65536) * 1000 < step_ms
GROUP BY hour, application;

CREATE VIEW IF NOT EXISTS activity_by_hour
(
    hour           DateTime('UTC') COMMENT 'Start of the hour',
    application    LowCardinality(String) COMMENT 'The application in front; empty where unknown or withheld',
    active_seconds UInt64 COMMENT 'Seconds in which a session did something there, summed over sessions',
    subjects       UInt64 COMMENT 'Distinct subjects; never fewer than five'
)
COMMENT 'Active time by hour and application, only where at least five subjects took part'
AS
SELECT
    hour,
    application,
    sum(state.active_seconds) AS active_seconds,
    uniqMerge(state.subjects) AS subjects
FROM activity_by_hour_state AS state
GROUP BY hour, application
HAVING subjects >= 5;
