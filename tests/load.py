"""A producer under load: a steady stream of pointer moves of many sessions, through the SDK's gate.

    python -m tests.load --rate 20000 --seconds 60

It captures what its permits allow and nothing else, and on SIGTERM ends its sessions
and prints its own counts as one JSON line. Subjects are `subjects(n)`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from dataclasses import asdict

import numpy as np

from infra.addresses import Addresses
from producers.batcher import Capture
from producers.producer import Producer
from producers.settings import ProducerSettings
from schemas.catalogue import KINDS

SESSIONS = 64
SLICE_S = 0.1


def subjects(count: int = SESSIONS) -> list[str]:
    """Whom the load is recorded of; let them consent before it starts."""
    return [f"{n:032x}" for n in range(count)]


def main() -> None:
    """Feed until SIGTERM or the time is over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    chosen = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    producer = Producer(Addresses.load(), ProducerSettings())
    if not producer.wait_ready(20):
        sys.exit(f"error: {producer.why_closed}")
    producer.wait_registry(20)
    sessions = [producer.open(subject, screen=(1920, 1080)) for subject in subjects()]
    print("ready", flush=True)
    each = round(chosen.rate * SLICE_S / SESSIONS)
    step = np.arange(each)
    x, y = 300 + step % 1500, 200 + step % 800
    kind = np.full(each, KINDS["pointer_move"], np.int64)
    end = time.monotonic() + chosen.seconds
    due = time.monotonic()
    while not stop.is_set() and time.monotonic() < end:
        # All of one moment: an event dated before it is captured would look as if a stop had let it through.
        times = np.full(each, time.time_ns() // 1_000_000)
        for session in sessions:
            producer.feed(session, Capture({"time": times, "kind": kind, "x": x, "y": y}))
        due = max(due + SLICE_S, time.monotonic() - SLICE_S)
        stop.wait(max(0.0, due - time.monotonic()))
    print(json.dumps(asdict(producer.close(20))), flush=True)


if __name__ == "__main__":
    main()
