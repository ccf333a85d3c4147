-- Who took which sample for what. The pseudonyms stand here so that a withdrawal
-- can name the data sets that it touches. The record of a read outlives the data:
-- five years.
CREATE TABLE IF NOT EXISTS manifests
(
    id             String COMMENT 'Identifier of the sample',
    taken_at       DateTime64(3, 'UTC') COMMENT 'When it was taken',
    purpose        LowCardinality(String) COMMENT 'What it was taken for',
    query          String COMMENT 'The query that chose the windows',
    seed           UInt64 COMMENT 'Seed of the choice',
    policy         LowCardinality(String) COMMENT 'Policy in force, by name',
    policy_version Int32 COMMENT 'Policy in force, by version',
    notice         LowCardinality(String) COMMENT 'Version of the notice that the consents refer to',
    schema_version String COMMENT 'Version of the schema of the files',
    windows        UInt64 COMMENT 'Windows taken',
    events         UInt64 COMMENT 'Events in them',
    subjects       UInt64 COMMENT 'Distinct subjects in them',
    pseudonyms     Array(String) COMMENT 'Whose windows they are, keyed pseudonyms',
    files          Array(String) COMMENT 'Names of the files',
    sha256         Array(String) COMMENT 'By file: SHA-256, hex',
    manifest       String COMMENT 'The manifest as written beside the files, JSON',
    stored_at      DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When the row was stored'
)
ENGINE = ReplacingMergeTree
ORDER BY id
TTL toDateTime(taken_at) + INTERVAL 1825 DAY
COMMENT 'One row a sample taken; read with FINAL';
