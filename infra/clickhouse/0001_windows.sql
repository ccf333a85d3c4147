-- Closed windows. One row a session and window; the events are arrays, so an
-- event costs no row, no subject and no session of its own.
--
-- Times are Int64, ms since 1970-01-01 UTC, as everywhere between the workers;
-- the views that people read show DateTime64.
--
-- non_replicated_deduplication_window: an INSERT that is repeated with the same
-- insert_deduplication_token stores nothing. After a crash the windower repeats
-- the slots of at most one ledger step a partition: minutes, so some hundred
-- INSERTs. 10,000 tokens a table cover 64 partitions that close a slot every
-- 10 s for 26 minutes, at about 100 bytes of memory each.
--
-- TTL counts from storing, not from the device's clock, which may be wrong. A
-- window is stored within its lateness, and topics keep messages for days at
-- most, so the two differ little. 90 days is the ceiling; a policy may ask for
-- less.
CREATE TABLE IF NOT EXISTS windows
(
    log            LowCardinality(String) COMMENT 'Which life of the broker''s log the partition belongs to',
    partition      Int32 COMMENT 'Partition of interactions.minimized',
    slot           Int64 COMMENT 'Start of the slot that was stored in one INSERT, ms since 1970-01-01 UTC',
    window_kind    LowCardinality(String) COMMENT 'tumbling, hopping or session',
    window_start   Int64 COMMENT 'Start of the window, ms since 1970-01-01 UTC; offset_ms counts from here',
    window_end     Int64 COMMENT 'End of the window, exclusive, ms since 1970-01-01 UTC',
    step_ms        Int64 COMMENT 'From the start of one window to the start of the next, ms; the size where windows tumble',
    session        String COMMENT 'Session, as the producer named it',
    subject        String COMMENT 'Keyed pseudonym of the person recorded, 32 hex digits',
    policy         LowCardinality(String) COMMENT 'Policy applied, by name',
    policy_version Int32 COMMENT 'Policy applied, by version',
    notice         LowCardinality(String) COMMENT 'Version of the notice that the consents refer to',
    purposes       Array(LowCardinality(String)) COMMENT 'Purposes that the subject had consented to',
    screen_width   Int32 COMMENT 'Width of the screen, px; 0 where unknown',
    screen_height  Int32 COMMENT 'Height of the screen, px; 0 where unknown',
    applications   Array(String) COMMENT 'Applications that `application` refers to, the first empty: applications[application + 1]',
    number         Array(Int64) COMMENT 'By event: running number in its session' CODEC(Delta, LZ4),
    offset_ms      Array(UInt32) COMMENT 'By event: time after window_start, ms',
    kind           Array(UInt8) COMMENT 'By event: what happened, a code of Kind in the schema',
    application    Array(UInt16) COMMENT 'By event: the application in front, an index into applications; 0 where unknown or withheld',
    x              Array(Int32) COMMENT 'By event: pointer position from the left, px on the policy''s grid',
    y              Array(Int32) COMMENT 'By event: pointer position from the top, px on the policy''s grid',
    button         Array(UInt8) COMMENT 'By event: pointer button, a code of Button in the schema',
    pressed        Array(UInt8) COMMENT 'By event: 1 where a button or key went down',
    wheel_x        Array(Int32) COMMENT 'By event: horizontal wheel movement, notches',
    wheel_y        Array(Int32) COMMENT 'By event: vertical wheel movement, notches',
    key_class      Array(UInt8) COMMENT 'By event: class of the key, a code of KeyClass in the schema',
    role           Array(UInt8) COMMENT 'By event: role of the element, a code of Role in the schema',
    events         UInt32 COMMENT 'How many events the arrays hold',
    stored         UInt32 COMMENT 'How many of them have this as their primary window, so that an event of hopping windows counts once',
    refused        Map(LowCardinality(String), UInt64) COMMENT 'Events that the gate refused right before the INSERT, by reason; the arrays are empty then',
    stored_at      DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When the row was stored',
    -- Columns of unequal length would shift every event after them: refuse the INSERT.
    -- least and greatest, because AND is evaluated lazily and would copy every array.
    CONSTRAINT no_column_is_shorter CHECK events = least(
        length(number), length(offset_ms), length(kind), length(application), length(x), length(y),
        length(button), length(pressed), length(wheel_x), length(wheel_y), length(key_class), length(role)),
    CONSTRAINT no_column_is_longer CHECK events = greatest(
        length(number), length(offset_ms), length(kind), length(application), length(x), length(y),
        length(button), length(pressed), length(wheel_x), length(wheel_y), length(key_class), length(role)),
    CONSTRAINT stored_is_a_part_of_events CHECK stored <= events
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(fromUnixTimestamp64Milli(slot, 'UTC'))
ORDER BY (slot, session, window_start)
TTL toDateTime(stored_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1
COMMENT 'Closed windows: one row a session and window, the events as arrays';
