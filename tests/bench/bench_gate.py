"""What the gates cost: the CPU time of the path with them and without, in pairs.

    python -m tests.bench gate        (BENCH_PAIRS sets how many pairs)

Each run is the inner path of `bench_path` on a stack of its own with the same
messages. Who goes first changes from pair to pair, so that a machine that grows
slower in the meantime favours neither. The figure is the CPU time of the two
workers, an event; the store's stands beside it and does not count. The broker's
is not measured here: what the readers cost it is by time and not by event.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from tests.bench.bench_path import BATCHES, EVENTS, SESSIONS, path_cpu, preload
from tests.path_stack import running

PAIRS = int(os.environ.get("BENCH_PAIRS", "5"))
GOAL = 1.05
MODULES = {"with": "tidegate", "without": "tests.bench.ungated"}


def main() -> int:
    """Print each pair and the median ratio; return 1 when it misses the goal."""
    # What is in sessions of its own does not end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{SESSIONS * BATCHES * EVENTS:,} events a run; CPU µs an event of minimiser + windower (store apart)")
    ratios = []
    for number in range(PAIRS):
        order = list(MODULES) if number % 2 == 0 else list(reversed(MODULES))
        cost = {which: _run(MODULES[which]) for which in order}
        ratios.append(_workers(cost["with"]) / _workers(cost["without"]))
        print(
            f"  pair {number + 1}: {_told('with', cost)}; {_told('without', cost)}; ratio {ratios[-1]:.3f}", flush=True
        )
    median = statistics.median(ratios)
    print(f"median ratio {median:.3f} of {PAIRS} pairs; goal {GOAL} {'MISSED' if median > GOAL else 'reached'}")
    return int(median > GOAL)


def _run(module: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as home, running(Path(home), sessions=True) as stack:
        preload(stack)
        return path_cpu(stack, module)


def _workers(cost: dict[str, float]) -> float:
    return cost["minimiser"] + cost["windower"]


def _told(which: str, cost: dict[str, dict[str, float]]) -> str:
    of = cost[which]
    return f"{which} {of['minimiser']:.2f} + {of['windower']:.2f} = {_workers(of):.2f} ({of['store']:.2f})"


if __name__ == "__main__":
    sys.exit(main())
