"""How soon a stop is in force on the running path: 200 engagements under 20,000 events a second.

    python -m tests.bench stop        (or make bench-stop)

BENCH_ENGAGEMENTS sets how many (20 take about three minutes), BENCH_DEATHS how often
the authority is killed, BENCH_BROKERS on which brokers (`embedded,kafka`).

Each engagement waits for the last acknowledgement and a second longer, then is
released by two approvers, and the next begins when rows flow again. A producer
that obeys nobody goes on sending, so that windows which held events when the
switch was engaged go on closing, and only the gates keep them out.

Beside it the bare round trip of one record through the same broker: an
acknowledgement that is read here contains two of them, the switch's way to the
gate and the word's way back.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests import kafka_stack, path_stack
from tests.bench.stopping import GATES, PRODUCERS, RATE, Death, Shares, Stop
from tests.bench.stopping import Path as RunningPath

ENGAGEMENTS = int(os.environ.get("BENCH_ENGAGEMENTS", "200"))
DEATHS = int(os.environ.get("BENCH_DEATHS", str(min(10, max(2, ENGAGEMENTS // 20)))))
BROKERS = os.environ.get("BENCH_BROKERS", "embedded,kafka").split(",")
LAST_ROW_GOAL_MS = 250.0  # p99, from engaging to the last row
CLOSED_GOAL_MS = 1_000.0  # every time, from the authority's death to the last gate closed
ROLES = ("producer", "minimiser", "windower")


def main() -> int:
    """Run on each broker there is; return 1 when a goal was missed or a row came through."""
    # What is in sessions of its own does not end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    missed = False
    for name in BROKERS:
        if name == "kafka" and (lacks := kafka_stack.missing()):
            print(f"\nApache Kafka is left out: {lacks}")
            continue
        print(f"\n-- on {'Apache Kafka' if name == 'kafka' else 'the embedded broker'}", flush=True)
        running = kafka_stack.running if name == "kafka" else path_stack.running
        with tempfile.TemporaryDirectory(prefix="tidegate-stop-") as home, running(Path(home), sessions=True) as stack:
            missed |= _measure(stack)
    return int(missed)


def _measure(stack: path_stack.PathStack) -> bool:
    stops: list[Stop] = []
    trips: list[float] = []
    deaths: list[Death] = []
    began, shares = time.monotonic(), Shares()
    try:
        with RunningPath(stack) as path:
            rate = path.rate()
            print(f"{GATES} gates; {PRODUCERS} producers at {RATE:,} events a second each, {rate:,.0f} stored a second")
            began, shares = time.monotonic(), Shares()
            for number in range(ENGAGEMENTS):
                trips.append(path.trip.measure())
                stops.append(path.stop(number))
                if number % 10 == 9:
                    _progress(stops, time.monotonic() - began)
            for _ in range(DEATHS):
                deaths.append(path.death())
                print(f"  authority killed: last row after {deaths[-1].last_row:.0f} ms, "
                      f"last gate closed after {deaths[-1].closed:.0f} ms", flush=True)  # fmt: skip
    except AssertionError as trouble:
        print(f"GIVEN UP: {trouble}")
    print(f"meanwhile {shares}")
    return _print(stops, trips, deaths) or len(stops) < ENGAGEMENTS or len(deaths) < DEATHS if stops else True


def _progress(stops: Sequence[Stop], seconds: float) -> None:
    last = [stop.last for stop in stops]
    print(
        f"  {len(stops)} of {ENGAGEMENTS} in {seconds:.0f} s: last acknowledgement p50 {np.percentile(last, 50):.0f} ms, "
        f"max {max(last):.0f} ms",
        flush=True,
    )


def _print(stops: Sequence[Stop], trips: Sequence[float], deaths: Sequence[Death]) -> bool:
    base = np.percentile(trips, [50, 99])
    print(f"\nms from engaging, {len(stops)} engagements     p50    p99    max   beside the bare round trip (p50, p99)")
    _row("one record there and back", trips, base)
    for role in ROLES:
        _row(f"acknowledged: {role}", [took for stop in stops for took in stop.of(role)], base)
    _row("acknowledged: the last gate", [stop.last for stop in stops], base)
    rows = [stop.last_row for stop in stops]
    _row("last row with events", rows, base)
    after = sum(stop.rows_after for stop in stops)
    print(f"rows with events stored after the last acknowledgement: {after}")
    slowest = float(np.percentile(rows, 99))
    missed = _goal("last row, p99", slowest, LAST_ROW_GOAL_MS)
    if deaths:
        print(f"\nms from the authority's death, {len(deaths)} times     p50    p99    max")
        _row("last row with events", [death.last_row for death in deaths])
        _row("the last gate's word that it is closed", [death.closed for death in deaths])
        slowest = max(max(death.closed, death.last_row) for death in deaths)
        missed |= _goal("closed after the authority's death, each time", slowest, CLOSED_GOAL_MS)
    return missed or after > 0


def _row(what: str, took: Sequence[float], base: Sequence[float] | None = None) -> None:
    p50, p99 = np.percentile(took, [50, 99])
    beside = "" if base is None else f"  {p50 / base[0]:5.1f}×, {p99 / base[1]:.1f}×"
    print(f"  {what:38} {p50:6.0f} {p99:6.0f} {max(took):6.0f} {beside}")


def _goal(what: str, took: float, goal: float) -> bool:
    print(f"{what}: {took:.0f} ms; goal {goal:.0f} ms {'MISSED' if took > goal else 'reached'}")
    return took > goal


if __name__ == "__main__":
    sys.exit(main())
