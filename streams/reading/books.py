"""The books: captured = stored + dropped + late + in flight + lost with a log, for every session.

The numbers come from the store alone (`books_sql`), so anybody can count
again. This module only turns numbers into a verdict; it touches nothing.

The arithmetic of one session, in events:

* `gap` = captured - received - producer_dropped. What the producer counted but
  no receipt shows. Negative: something was received twice.
* By log and partition, `rest` = received - minimiser_dropped - late - stored -
  refused: what the windower took and has neither stored nor refused. Negative:
  more was stored than was kept. Blocks from the ledger's `replay_from` on may
  still hold it, as far as their batches reach.

A positive gap is in flight while the session is open, because a later batch
may say that the producer dropped those events; it is lost once the session has
ended. The rest is in flight as far as open blocks may hold it, and lost beyond that. In a log
that is no longer current, nothing is in flight any more: it died with its
broker and counts as `log_lost`. So does the part of a gap that lies between
two logs of a session, or before its first batch in a store that knows several
logs. Each session sums up without remainder:

    captured = stored + dropped + late + in_flight + log_lost + lost - twice
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

BALANCED, UNBALANCED, IN_FLIGHT = 0, 1, 3
"""Exit codes, as docs/ARCHITECTURE.md gives them."""
NAMED = 20
"""At most so many unbalanced sessions are named."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over every session, in events unless said otherwise."""

    sessions: int = 0
    """How many sessions the books know."""
    open_sessions: int = 0
    """How many of them have not sent their last batch, in the current log."""
    captured: int = 0
    stored: int = 0
    late: int = 0
    in_flight: int = 0
    awaited: int = 0
    """The part of `in_flight` that the store has not seen: a later batch of its open session may explain it."""
    log_lost: int = 0
    lost: int = 0
    """Neither stored nor explained."""
    twice: int = 0
    """Received or stored more often than once."""
    unbalanced: int = 0
    """How many sessions have something lost or twice."""
    deadletters: int = 0
    """Messages that could not be read. They name no session, so they stand beside the sum, not in it."""
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Events by stage (producer, minimiser, windower) and reason."""

    @property
    def dropped_events(self) -> int:
        """Everything dropped, all stages and reasons."""
        return sum(sum(reasons.values()) for reasons in self.dropped.values())

    @property
    def accounted(self) -> int:
        """The right-hand side of the balance."""
        return self.stored + self.dropped_events + self.late + self.in_flight + self.log_lost

    @property
    def remainder(self) -> int:
        """What the sum itself fails to explain; other than 0 only where the counting is wrong."""
        return self.captured - self.accounted - self.lost + self.twice


@dataclass(frozen=True, slots=True)
class Finding:
    """One session that does not balance. Session identifiers are random; they name no person."""

    session: str
    captured: int
    missing: int
    """Captured, but no receipt and no drop explains them, and the session has ended."""
    received_twice: int
    unstored: int
    """Received and kept, but neither stored nor refused, and no block still holds them."""
    stored_twice: int
    windows_twice: int
    """Rows of `windows` that stand there again; of hopping windows they may hold no event that counts."""

    @property
    def text(self) -> str:
        """What is off, in words."""
        said = (
            (self.missing, "never received"),
            (self.received_twice, "received twice, or counted as dropped and received all the same"),
            (self.unstored, "received but not stored"),
            (self.stored_twice, "stored more often than kept"),
        )
        parts = [f"{count:,} {what}" for count, what in said if count]
        parts += [f"{self.windows_twice:,} windows stored again"] if self.windows_twice else []
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Books:
    """The verdict."""

    log: str
    totals: Totals
    findings: tuple[Finding, ...] = ()
    """The first of the unbalanced sessions, by name."""
    expected: int = 0
    """How many captured events the producers told of; they may be on their way, unknown to the store."""

    @property
    def unknown(self) -> int:
        """How many expected events the store does not know of yet."""
        return max(0, self.expected - self.totals.captured)

    @property
    def code(self) -> int:
        """Exit code: 1 where anything is off, else 3 while events are in flight or not known yet, else 0."""
        if self.totals.unbalanced or self.totals.remainder:
            return UNBALANCED
        return IN_FLIGHT if self.totals.in_flight or self.unknown else BALANCED

    @property
    def verdict(self) -> str:
        """The same as a word."""
        return {BALANCED: "balanced", UNBALANCED: "unbalanced", IN_FLIGHT: "in flight"}[self.code]

    @property
    def line(self) -> str:
        """The balance in one line."""
        t = self.totals
        parts = [f"{t.stored:,} stored", f"{t.dropped_events:,} dropped", f"{t.late:,} late"]
        parts += [f"{t.in_flight:,} in flight"] if t.in_flight else []
        parts += [f"{t.log_lost:,} lost with an earlier log"] if t.log_lost else []
        wrong = [f"{count:,} {what}" for count, what in ((t.lost, "lost"), (t.twice, "twice")) if count]
        wrong += [f"{t.remainder:,} unexplained"] if t.remainder else []
        tail = f"; but {' and '.join(wrong)}" if wrong else ""
        more = f"; {self.unknown:,} more not known yet" if self.unknown else ""
        return f"{t.captured:,} captured = {' + '.join(parts)}{tail}{more}"

    def document(self) -> dict[str, Any]:
        """Return the books as `--json` prints them."""
        t = self.totals
        plain = {name: value for name, value in asdict(t).items() if name != "dropped"}
        return {
            "verdict": self.verdict,
            "balanced": self.code == BALANCED,
            "log": self.log,
            **plain,
            "unknown": self.unknown,
            "dropped": t.dropped_events,
            "dropped_by": {stage: dict(sorted(reasons.items())) for stage, reasons in t.dropped.items()},
            "remainder": t.remainder,
            "findings": [{**asdict(finding), "text": finding.text} for finding in self.findings],
        }


def totals_of(row: Mapping[str, Any]) -> Totals:
    """Make the totals of the one row that `books_sql.TOTALS` gives."""
    stages = {"producer": "producer_dropped", "minimiser": "minimiser_dropped", "windower": "refused"}
    dropped = {stage: {str(k): int(v) for k, v in row[name].items() if v} for stage, name in stages.items()}
    names = [name for name in Totals.__dataclass_fields__ if name != "dropped"]
    return Totals(**{name: int(row[name] or 0) for name in names}, dropped=dropped)


def finding_of(row: Mapping[str, Any]) -> Finding:
    """Make a finding of one row of `books_sql.UNBALANCED`."""
    numbers = ("captured", "missing", "received_twice", "unstored", "stored_twice", "windows_twice")
    return Finding(session=str(row["session"]), **{name: int(row[name]) for name in numbers})
