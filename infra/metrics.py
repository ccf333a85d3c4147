"""Every metric that a Tidegate process exposes: names, units and meaning, in this one place.

One class a role; a process makes those of its roles once, in `main`, and passes
them down. Base units (seconds, bytes), counters end in `_total`. Labels come
from small fixed sets (reason, partition, part, topic): never a subject, session,
application or label text, so that a metric can tell about nobody.

A process that does not have a role does not expose that role's metrics, so a
zero always means "none yet" and never "not mine".
"""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

# A flush of 20 to 50 ms up to a store that retries for a minute.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Messages a take: powers of four up to Faust's largest.
_TAKE = (1, 4, 16, 64, 256, 1024, 4096)


class ProducerMetrics:
    """From a captured event to a delivered batch, on the device."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.captured = Counter(
            "tidegate_producer_events_captured_total",
            "Events that the recorder was given, those it dropped among them.",
            registry=registry,
        )
        self.dropped = Counter(
            "tidegate_producer_events_dropped_total",
            "Events that the producer dropped itself, by reason; those that may tell of a person are one: refused.",
            ["reason"],
            registry=registry,
        )
        self.batches = Counter(
            "tidegate_producer_batches_delivered_total",
            "Batches that the broker has acknowledged.",
            registry=registry,
        )
        self.sent_bytes = Counter(
            "tidegate_producer_delivered_bytes_total",
            "Bytes of the batches that the broker has acknowledged.",
            registry=registry,
        )
        self.failures = Counter(
            "tidegate_producer_delivery_failures_total",
            "Batches that the broker did not take; they go to the spool or are counted as dropped.",
            registry=registry,
        )
        self.queue_events = Gauge(
            "tidegate_producer_queue_events", "Events in memory that are in no batch yet.", registry=registry
        )
        self.queue_batches = Gauge(
            "tidegate_producer_queue_batches",
            "Batches handed to the Kafka client, not acknowledged.",
            registry=registry,
        )
        self.spool_bytes = Gauge(
            "tidegate_producer_spool_bytes", "Bytes of batches waiting on disk for Kafka.", registry=registry
        )
        self.spool_batches = Gauge(
            "tidegate_producer_spool_batches", "Batches waiting on disk for Kafka.", registry=registry
        )


class MinimiserMetrics:
    """From a raw batch to a minimised block."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.batches = Counter("tidegate_minimiser_batches_total", "Raw batches read and decoded.", registry=registry)
        self.events = Counter(
            "tidegate_minimiser_events_total", "Events of the batches read: kept + dropped.", registry=registry
        )
        self.kept = Counter("tidegate_minimiser_events_kept_total", "Events that passed the gate.", registry=registry)
        self.dropped = Counter(
            "tidegate_minimiser_events_dropped_total",
            "Events that the gate refused, by reason.",
            ["reason"],
            registry=registry,
        )
        self.blocks = Counter(
            "tidegate_minimiser_blocks_total", "Blocks sent and acknowledged, ticks not among them.", registry=registry
        )
        self.ticks = Counter(
            "tidegate_minimiser_ticks_total", "Ticks sent into partitions that have gone quiet.", registry=registry
        )
        self.dead_letters = Counter(
            "tidegate_minimiser_dead_letters_total",
            "Messages that could not be read, by reason.",
            ["reason"],
            registry=registry,
        )
        self.repeats = Counter(
            "tidegate_minimiser_repeats_total", "Raw batches met again after a restart and skipped.", registry=registry
        )
        self.take = Histogram(
            "tidegate_minimiser_take_batches", "Raw batches worked on in one pass.", buckets=_TAKE, registry=registry
        )
        self.append_age = Gauge(
            "tidegate_minimiser_append_age_seconds",
            "Age of the newest raw batch when it was read, by the broker's append time.",
            ["partition"],
            registry=registry,
        )


class WindowerMetrics:
    """From a minimised block to stored windows."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.blocks = Counter("tidegate_windower_blocks_total", "Blocks read, ticks among them.", registry=registry)
        self.events = Counter("tidegate_windower_events_total", "Events of the blocks read.", registry=registry)
        self.repeats = Counter(
            "tidegate_windower_repeats_total",
            "Batches met a second time, recognised by their raw offset or their event numbers, and skipped.",
            registry=registry,
        )
        self.late = Counter(
            "tidegate_windower_events_late_total", "Events whose windows had all closed.", registry=registry
        )
        self.stored = Counter(
            "tidegate_windower_events_stored_total",
            "Events stored, each counted in its primary window.",
            registry=registry,
        )
        self.refused = Counter(
            "tidegate_windower_events_refused_total",
            "Events that the gate right before the INSERT refused, by reason.",
            ["reason"],
            registry=registry,
        )
        self.inserts = Counter("tidegate_windower_inserts_total", "Slots closed: one INSERT each.", registry=registry)
        self.insert_retries = Counter(
            "tidegate_windower_insert_retries_total",
            "INSERTs tried again because the store did not take them.",
            registry=registry,
        )
        self.insert_seconds = Histogram(
            "tidegate_windower_insert_seconds",
            "How long an INSERT took, its retries included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.open_events = Gauge(
            "tidegate_windower_open_events", "Events held in windows that are still open.", registry=registry
        )
        self.watermark_lag = Gauge(
            "tidegate_windower_watermark_lag_seconds",
            "Wall clock minus watermark, by partition.",
            ["partition"],
            registry=registry,
        )
        self.ledger_age = Gauge(
            "tidegate_windower_ledger_age_seconds",
            "Wall clock minus the ledger's closed_through, by partition.",
            ["partition"],
            registry=registry,
        )


class GateMetrics:
    """What a gate knows of the control plane; every process that has a gate exposes it."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.open = Gauge("tidegate_gate_open", "1 while the control state is fresh, else 0.", registry=registry)
        self.heartbeat_age = Gauge(
            "tidegate_gate_heartbeat_age_seconds", "Since the last heartbeat, on the local clock.", registry=registry
        )
        self.applied = Gauge(
            "tidegate_gate_applied_offset",
            "Last offset applied of a control topic; -1 for none.",
            ["topic"],
            registry=registry,
        )
        self.refused_records = Counter(
            "tidegate_gate_control_records_refused_total",
            "Control records that could not be read, by topic.",
            ["topic"],
            registry=registry,
        )


class AuthorityMetrics:
    """The service that says how far the control topics reach."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.heartbeats = Counter("tidegate_authority_heartbeats_total", "Heartbeats delivered.", registry=registry)
        self.applied = Gauge(
            "tidegate_authority_applied_offset",
            "Last offset applied of a control topic; -1 for none.",
            ["topic"],
            registry=registry,
        )
        self.policy_left = Gauge(
            "tidegate_policy_left_seconds",
            "Until the policy in force runs out and every gate closes; 0 without one.",
            registry=registry,
        )
        self.engaged = Gauge("tidegate_switches_engaged", "Switches that stop something now.", registry=registry)
        self.overdue = Gauge(
            "tidegate_switches_overdue", "Engaged switches that are past their expiry; they go on stopping.",
            registry=registry,
        )  # fmt: skip
        self.pending = Gauge(
            "tidegate_control_pending", "Records that would allow more and wait for signatures.", registry=registry
        )
        self.ignored = Counter(
            "tidegate_control_ignored_total",
            "Control records that were not taken at their word: unsigned, replayed, unreadable ...",
            ["topic", "reason"],
            registry=registry,
        )


class StoreMetrics:
    """The embedded store, as an HTTP server. Neither a query nor a table is in a label."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.queries = Counter(
            "tidegate_store_queries_total",
            "Queries that ended, by outcome: answered, refused (an exception for the client) or abandoned by it.",
            ["outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            "tidegate_store_query_seconds",
            "From the request to the end of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.running = Gauge("tidegate_store_queries_running", "Queries under way.", registry=registry)


class SupervisorMetrics:
    """The embedded stack's parts, as their supervisor sees them."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.up = Gauge("tidegate_part_up", "1 while the part is ready, else 0.", ["part"], registry=registry)
        self.restarts = Counter(
            "tidegate_part_restarts_total",
            "Times that a part died and was started again.",
            ["part"],
            registry=registry,
        )
