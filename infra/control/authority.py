"""The authority: says every 200 ms how far the control topics reach.

It writes a heartbeat with its time and the last offset of each control topic that it
has applied, and decides nothing. Two of them side by side do no harm: a gate takes
the highest offset that either has named. It says nothing until it has read every
topic to its end, or a gate that starts beside it could believe that there is nothing
to read.

    python -m infra.control.authority --home .tidegate
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import KafkaError, Message, Producer

from infra import telemetry
from infra.addresses import Addresses
from infra.control.alarms import Alarms
from infra.control.reader import ControlReader, wall_ms
from infra.control.records import HEARTBEAT_TOPIC, Heartbeat, encode, key_of
from infra.errors import TidegateError
from infra.metrics import AuthorityMetrics
from infra.progress import Progress

INTERVAL = 0.2
"""Seconds between heartbeats: a gate closes after missing five."""
_STALLED = 2.0
"""Seconds without a delivered heartbeat after which /healthz says so; every gate is closed by then."""


class Authority:
    """Reads the control topics and publishes heartbeats until told to stop.

    Raises TidegateError when the broker's address is not known.
    """

    def __init__(self, addresses: Addresses, metrics: AuthorityMetrics, progress: Progress) -> None:
        self._log, self._address = addresses.log, addresses.need("kafka")
        self._metrics, self._progress = metrics, progress
        self._alarms = Alarms(metrics)
        # A name for each start: its sequence begins anew, and gates must see that.
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._sequence = 0
        self._reader = ControlReader(addresses, "authority")
        self._producer = Producer(
            {
                "bootstrap.servers": self._address,
                "acks": "all",
                "linger.ms": 0,
                # A heartbeat that could not be delivered at once is worth nothing later.
                "message.timeout.ms": 1000,
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 1000,
                "log_level": 0,  # its own lines come dozens a second while the broker is away; `_tell` says it
            }
        )
        # The clock's steps must not show in the heartbeats: gates judge their age by it.
        self._started = (wall_ms(), time.monotonic())
        self._heard, self._away = time.monotonic(), False

    def run(self, stop: threading.Event) -> None:
        """Beat until `stop` is set. Raises TidegateError when the broker has lost its log."""
        due = time.monotonic()
        try:
            while not stop.is_set():
                if self._reader.log_lost:
                    # What it would go on naming is of a log that is no more.
                    raise TidegateError(
                        f"the broker at {self._address} has lost log {self._log} and begun again. Give it a new name "
                        "(TIDEGATE_LOG), start what reads it anew, and apply the policy again."
                    )
                if self._reader.read_to_end:
                    self._beat()
                    self._alarms.look(self._reader.view().state, wall_ms())
                self._tell()
                due = max(due + INTERVAL, time.monotonic())
                while (left := due - time.monotonic()) > 0 and not stop.is_set():
                    self._producer.poll(left)
        finally:
            self._producer.purge()
            self._producer.flush(1)
            self._reader.close()

    def _beat(self) -> None:
        self._sequence += 1
        applied = self._reader.applied
        at, since = self._started
        heartbeat = Heartbeat(
            authority=self.name,
            log=self._log,
            sequence=self._sequence,
            at=at + int((time.monotonic() - since) * 1000),
            applied=applied,
        )
        try:
            self._producer.produce(
                HEARTBEAT_TOPIC, key=key_of(heartbeat), value=encode(heartbeat), on_delivery=self._delivered
            )
        except BufferError:
            return  # the broker is away; heartbeats in the queue expire within a second
        for topic, offset in applied.items():
            self._metrics.applied.labels(topic).set(offset)

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self._heard = time.monotonic()
            self._metrics.heartbeats.inc()
            self._progress.beat()

    def _tell(self) -> None:
        """Log once that the broker takes no heartbeat, and once that it does again."""
        away = time.monotonic() - self._heard > _STALLED
        if away == self._away:
            return
        self._away = away
        log = telemetry.logger("infra.control.authority")
        if away:
            why = self._reader.trouble or "no answer"
            log.warning("the broker takes no heartbeat, every gate is closed", address=self._address, error=why)
        else:
            log.info("the broker takes heartbeats again", address=self._address)


def main(
    home: Annotated[Path | None, typer.Option(help="Where the stack keeps its state.")] = None,
    metrics_port: Annotated[int, typer.Option(help="Serve /metrics and /healthz here; 0 for any free port.")] = 0,
) -> None:
    """Publish heartbeats for the gates until stopped."""
    telemetry.configure("authority")
    progress = Progress("heartbeat", _STALLED)
    metrics = AuthorityMetrics()
    addresses = Addresses.load(home)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    authority = Authority(addresses, metrics, progress)
    server = telemetry.serve(metrics_port, progress)
    log = telemetry.logger("infra.control.authority")
    log.info("authority started", authority=authority.name, log=addresses.log, port=server.port)
    authority.run(stop)
    server.close()
    log.info("authority stopped", authority=authority.name)


if __name__ == "__main__":
    try:
        typer.run(main)
    except TidegateError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.code)
