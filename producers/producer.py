"""One producing process: its gate, its sessions, its publisher.

A ticker thread looks at the gate every 50 ms, collects what the recorders have
captured, and cuts batches that are full or old. Sources that come in bulk
(`feed`) cut their own as they go. There is no thread for each person: a
session is some columns and a few counters.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from infra.addresses import Addresses
from infra.control.passages import Passage
from infra.control.reasons import OF_A_PERSON, REFUSED
from infra.control.state import View
from infra.progress import Progress
from producers.batcher import Batch, Capture, Session
from producers.message import Message
from producers.permit import Holder, Permit, closed
from producers.publisher import Publisher
from producers.report import Report
from producers.settings import SCHEMA, TOPIC, ProducerSettings, spool_root
from producers.spool import Spool
from schemas.catalogue import load, subject_of
from schemas.codec import Codec

if TYPE_CHECKING:
    from infra.metrics import GateMetrics, ProducerMetrics

_log = logging.getLogger("tidegate.producer")

_FINAL_SHARE = 0.5
"""Of the time to close, what is left to Kafka before the rest goes to the spool, where the last batches follow."""


class Gate(Protocol):
    """What a producer needs of `infra.control.keeper.GateKeeper`."""

    def view(self) -> View:
        """Return what the gate may go by now."""

    def enter(self) -> Passage:
        """Begin to judge by the view of this moment."""

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since the freshest heartbeat; None without one."""

    @property
    def trouble(self) -> str:
        """What the broker last answered amiss, or "" since the last heartbeat."""

    def close(self) -> None:
        """Stop reading."""


@dataclass(slots=True)
class _Open:
    session: Session
    holder: Holder
    collect: Callable[[Permit], None] | None = None
    ending: bool = False


class Producer:
    """Everything that the sessions of one process share. Make one, `open` sessions, and `close` it."""

    def __init__(
        self,
        addresses: Addresses,
        settings: ProducerSettings | None = None,
        *,
        subjects: Iterable[str] | None = None,
        gate: Gate | None = None,
        metrics: tuple[ProducerMetrics, GateMetrics] | None = None,
    ) -> None:
        """Connect to the stack at `addresses`, in the background.

        `subjects` limits which consents the gate keeps in memory; None keeps all.
        Raises TidegateError when no broker or registry is known, or the spool cannot be opened.
        """
        self.settings = settings = settings or ProducerSettings()
        kafka, registry = addresses.need("kafka"), addresses.need("registry")
        self.progress = Progress("producer", 10.0)
        schema = load(SCHEMA)
        self._codec = Codec(schema)
        self._spool = Spool.open_free(spool_root(addresses.home), max_bytes=settings.spool_bytes)
        if self._spool.damage.bytes:
            damage = self._spool.damage
            _log.warning("spool was damaged", extra={"bytes": damage.bytes, "batches": damage.records})
        self._woken = threading.Event()
        self._gate = gate if gate is not None else _gate_keeper(addresses, subjects, self.wake)
        self._publisher = Publisher(
            kafka, partial(_schema_id, registry), schema.fingerprint,
            self._spool, settings, metrics[0] if metrics is not None else None,
        )  # fmt: skip
        self._metrics = metrics
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._done_captured = 0
        self._done_dropped: Counter[str] = Counter()
        self._published: tuple[int, Counter[str]] = (0, Counter())
        # What was captured under a view is over when the next look has renewed every permit.
        self._passage = self._gate.enter()
        self._view = self._passage.view
        self._stopping = self._hurried = False
        self._closed: Report | None = None
        self._thread = threading.Thread(target=self._run, name="tidegate-producer", daemon=True)
        self._thread.start()

    def open(
        self,
        subject: str,
        *,
        screen: tuple[int, int] = (0, 0),
        collect: Callable[[Permit], None] | None = None,
    ) -> Session:
        """Begin a session. `collect` is called by the ticker, with the permit that holds from then on."""
        session = Session(subject, screen=screen, batch_events=self.settings.batch_events)
        entry = _Open(session, Holder(subject, self.settings.gate_valid_s), collect=collect)
        entry.holder.renew(self._view)
        with self._lock:
            self._open[session.id] = entry
        return session

    def permit(self, session: Session) -> Permit:
        """Return what the gate lets this session capture now."""
        entry = self._open.get(session.id)
        return entry.holder.current() if entry is not None else closed("stale")

    def feed(self, session: Session, capture: Capture) -> None:
        """Add many events at once. With `when_full="wait"` this waits until there is room for them."""
        if self.settings.when_full == "wait":
            while not self._publisher.wait_for_room(0.2) and not self._hurried:
                pass
        session.add(capture, self.permit(session), time.monotonic())
        if session.pending >= self.settings.batch_events:
            self._cut(session)

    def finish(self, session: Session) -> None:
        """End a session: its last batch follows as soon as the fate of all the others is known."""
        entry = self._open.get(session.id)
        if entry is not None:
            entry.ending = True
            self.wake()

    def hurry(self) -> None:
        """Let no source wait any longer, because the process is to end."""
        self._hurried = True

    def wake(self) -> None:
        """Have the ticker look now rather than at its next tick."""
        self._woken.set()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the control state is fresh; False when it was not within `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while not self._view.fresh:
            if time.monotonic() >= deadline or self._hurried:
                return False
            time.sleep(0.02)
        return True

    def wait_registry(self, timeout_s: float) -> bool:
        """Wait until it is known whether the registry answers: what ends before that leaves all it has in the spool."""
        return self._publisher.wait_registry(timeout_s)

    @property
    def loops(self) -> tuple[Progress, Progress]:
        """The loops whose going round is this producer's health."""
        return self.progress, self._publisher.progress

    @property
    def why_closed(self) -> str:
        """Why the control state is not fresh, for a person; empty while it is."""
        return "" if self._view.fresh else self._view.why

    @property
    def trouble(self) -> str:
        """What the broker of the control state last answered amiss, or "" since its last heartbeat."""
        return self._gate.trouble

    def report(self) -> Report:
        """Return the running totals."""
        captured, dropped = self._totals()
        counts = self._publisher.counts
        return Report(
            captured=captured, sent=counts.delivered_events, batches=counts.delivered_batches,
            dropped=dict(dropped), spooled=self._publisher.spooled, unsent=self._publisher.waiting,
            spool_damage_bytes=self._spool.damage.bytes,
        )  # fmt: skip

    def close(self, timeout_s: float = 5.0) -> Report:
        """End all sessions, send what is left for at most `timeout_s` seconds, and say what could not be sent.

        Kafka gets half the time; what it has not taken by then goes to the spool.
        Closing again returns the same report.
        """
        if self._closed is not None:
            return self._closed
        deadline = time.monotonic() + timeout_s
        self.hurry()
        for entry in self._entries():
            entry.ending = True
        self.wake()
        if not self._wait_until_idle(deadline - timeout_s * _FINAL_SHARE):
            self._publisher.give_up()
            self._wait_until_idle(deadline - 0.1 * timeout_s)
        self._stopping = True
        self.wake()
        self._thread.join(max(0.1, deadline - time.monotonic()))
        self._publisher.close(max(0.5, deadline - time.monotonic()))
        self._passage.leave()
        self._gate.close()
        self._publish_metrics()
        self._closed = self.report()
        return self._closed

    def _wait_until_idle(self, deadline: float) -> bool:
        while time.monotonic() < deadline:
            if not self._entries() and not self._publisher.waiting and not self._publisher.spooled:
                return True
            if self._publisher.gave_up and not self._entries() and not self._publisher.waiting:
                return True
            time.sleep(0.01)
        return False

    def _entries(self) -> list[_Open]:
        with self._lock:
            return list(self._open.values())

    def _run(self) -> None:
        while not self._stopping:
            self._woken.wait(self.settings.gate_tick_s)
            self._woken.clear()
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        self._refresh_all()
        for entry in self._entries():
            session = entry.session
            if session.due(now, self.settings.batch_age_s) or (entry.ending and session.pending):
                self._cut(session)
            if entry.ending and not session.unsettled and not session.pending:
                self._end(entry)
        self.progress.beat()
        self._publish_metrics()

    def _refresh_all(self) -> None:
        """Renew every permit, and let go of what was captured under the one before."""
        passage = self._gate.enter()
        for entry in self._entries():
            entry.holder.renew(passage.view)
            if entry.collect is not None:
                entry.collect(entry.holder.permit)
        before, self._passage = self._passage, passage
        before.leave()
        self._view = passage.view

    def _cut(self, session: Session) -> None:
        with session.order:
            for batch in session.cut(self.permit(session)):
                self._hand_on(session, batch)

    def _end(self, entry: _Open) -> None:
        session = entry.session
        with session.order:
            final = session.end(entry.holder.permit, int(time.time() * 1000))
            self._hand_on(session, final)
        with self._lock:
            self._done_captured += session.captured
            self._done_dropped += session.dropped
            del self._open[session.id]

    def _hand_on(self, session: Session, batch: Batch) -> None:
        session.hand_on()
        body = self._codec.encode(batch.header, batch.columns)
        settled = partial(session.settle, batch.events)
        message = Message(session.id.encode(), body, batch.events, settled)
        if not self._publisher.submit(message, force=self.settings.when_full == "wait"):
            settled("buffer_full")

    def _totals(self) -> tuple[int, Counter[str]]:
        with self._lock:
            captured, dropped = self._done_captured, self._done_dropped.copy()
            sessions = [entry.session for entry in self._open.values()]
        for session in sessions:
            captured += session.captured
            dropped += session.dropped
        return captured, dropped

    def _publish_metrics(self) -> None:
        if self._metrics is None:
            return
        captured, dropped = self._totals()
        before_captured, before_dropped = self._published
        ours, gate = self._metrics
        ours.captured.inc(max(0, captured - before_captured))
        for reason, count in dropped.items():
            # Others may read metrics, and what one producer counts may be one person's.
            label = REFUSED if reason in OF_A_PERSON else reason
            ours.dropped.labels(label).inc(max(0, count - before_dropped[reason]))
        ours.queue_events.set(sum(entry.session.pending for entry in self._entries()))
        gate.open.set(self._view.fresh)
        gate.heartbeat_age.set(self._gate.heartbeat_age or 0)
        for topic, offset in self._view.state.applied.items():
            gate.applied.labels(topic).set(offset)
        self._published = captured, dropped


def _gate_keeper(addresses: Addresses, subjects: Iterable[str] | None, wake: Callable[[], None]) -> Gate:
    from infra.control.keeper import GateKeeper

    only = None if subjects is None else frozenset(subjects)
    teams: Mapping[str, str] = {}
    if only and os.environ.get("TIDEGATE_TEAM"):
        from infra.control.teams import own_team

        teams = own_team(only)
    # A producer outlives the embedded broker: it follows it into its next life.
    keeper = GateKeeper(addresses, "producer", "consent", subjects=only, adopt_log=True, teams=teams)
    # A stop does not wait for the next tick.
    keeper.on_change(lambda _state, _entries: wake())
    return keeper


def _schema_id(registry: str) -> int:
    from schemas.registry import resolve_in_child

    return resolve_in_child(registry, subject_of(TOPIC), deadline_s=5.0)
