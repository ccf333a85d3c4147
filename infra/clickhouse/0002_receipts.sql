-- What happened to every raw message: the store's half of the books.

-- A repeated INSERT of a receipt is the same row, so the key alone makes it
-- idempotent; read with FINAL. It names no subject: who was refused is nobody's
-- business. It lives as long as the windows do, or the books would not balance.
CREATE TABLE IF NOT EXISTS batches
(
    log              LowCardinality(String) COMMENT 'Which life of the broker''s log the offsets belong to',
    partition        Int32 COMMENT 'Partition of interactions.raw',
    raw_offset       Int64 COMMENT 'Offset of the batch in interactions.raw; it identifies the batch for ever',
    block_offset     Int64 COMMENT 'Offset of its block in interactions.minimized',
    session          String COMMENT 'Session, as the producer named it',
    first_number     Int64 COMMENT 'Running number of the batch''s first event',
    count            Int64 COMMENT 'Events that the batch held when it was read',
    captured         Int64 COMMENT 'Events that the session had captured when the batch was cut, running',
    final            UInt8 COMMENT '1 where the session ended with this batch',
    kept             Int64 COMMENT 'Events that the minimiser let through',
    late             Int64 COMMENT 'Of these, events whose windows had all closed',
    producer_dropped Map(LowCardinality(String), UInt64) COMMENT 'Events the producer has dropped since the session began, by reason, running',
    dropped          Map(LowCardinality(String), UInt64) COMMENT 'Events of this batch that the minimiser dropped, by reason',
    append_time      Int64 COMMENT 'When the broker appended the batch, ms since 1970-01-01 UTC',
    stored_at        DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When the row was stored'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Milli(append_time, 'UTC'))
ORDER BY (log, partition, raw_offset)
TTL toDateTime(stored_at) + INTERVAL 90 DAY
COMMENT 'A receipt for every raw batch; read with FINAL';

CREATE TABLE IF NOT EXISTS deadletters
(
    log         LowCardinality(String) COMMENT 'Which life of the broker''s log the offset belongs to',
    partition   Int32 COMMENT 'Partition of interactions.raw',
    raw_offset  Int64 COMMENT 'Offset of the message in interactions.raw',
    reason      LowCardinality(String) COMMENT 'Why it could not be read',
    schema_id   Int32 COMMENT 'Schema identifier that it claimed; -1 where it claimed none',
    size        Int64 COMMENT 'Size of the message, bytes',
    digest      String COMMENT 'SHA-256 of its payload, hex; the payload itself is kept nowhere',
    append_time Int64 COMMENT 'When the broker appended the message, ms since 1970-01-01 UTC',
    stored_at   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When the row was stored'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Milli(append_time, 'UTC'))
ORDER BY (log, partition, raw_offset)
TTL toDateTime(stored_at) + INTERVAL 90 DAY
COMMENT 'Messages that could not be read: where they stood and why; read with FINAL';

-- No TTL: one row a partition and life of the log by construction (older rows
-- are replaced), and a row that vanished would send the windower back to the
-- beginning of the topic.
CREATE TABLE IF NOT EXISTS ledger
(
    log            LowCardinality(String) COMMENT 'Which life of the broker''s log the offsets belong to',
    partition      Int32 COMMENT 'Partition of interactions.minimized',
    closed_through Int64 COMMENT 'Watermark up to which every slot is stored, ms since 1970-01-01 UTC',
    replay_from    Int64 COMMENT 'Oldest minimised offset that is still needed; the next one where none is',
    watermark      Int64 COMMENT 'Watermark as it was before replay_from, ms since 1970-01-01 UTC',
    raw_through    Int64 COMMENT 'Highest raw offset seen before replay_from',
    stored_at      DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When the row was stored'
)
ENGINE = ReplacingMergeTree(replay_from)
ORDER BY (log, partition)
COMMENT 'Progress of the windower, the only truth about it; read with FINAL';

CREATE VIEW IF NOT EXISTS drops
(
    session String COMMENT 'Session, as the producer named it',
    stage   String COMMENT 'Who dropped: producer, minimiser or windower',
    reason  String COMMENT 'Why',
    count   UInt64 COMMENT 'How many events'
)
COMMENT 'Events that were captured and not stored, by session, stage and reason'
AS
-- A producer's counts run from the start of its session: the greatest is the sum.
SELECT session, 'producer' AS stage, counts.1 AS reason, counts.2 AS count
FROM (SELECT session, maxMap(producer_dropped) AS by_reason FROM batches FINAL GROUP BY session)
ARRAY JOIN CAST(by_reason, 'Array(Tuple(String, UInt64))') AS counts
UNION ALL
SELECT session, 'minimiser' AS stage, counts.1 AS reason, counts.2 AS count
FROM (SELECT session, sumMap(dropped) AS by_reason FROM batches FINAL GROUP BY session)
ARRAY JOIN CAST(by_reason, 'Array(Tuple(String, UInt64))') AS counts
UNION ALL
SELECT session, 'windower' AS stage, counts.1 AS reason, counts.2 AS count
FROM (SELECT session, sumMap(refused) AS by_reason FROM windows GROUP BY session)
ARRAY JOIN CAST(by_reason, 'Array(Tuple(String, UInt64))') AS counts;
