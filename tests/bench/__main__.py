"""`python -m tests.bench [name …]`: run the benchmarks; each prints ratios from one run, never a bare time."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

NAMES = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
LONG = ("gate", "stop")
"""Those that take many minutes and run only when they are named."""


def main() -> int:
    """Run those named, or all short ones; return 1 when one of them was clearly short of its goal."""
    chosen = sys.argv[1:] or [name for name in NAMES if name not in LONG]
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        sys.exit(f"error: no benchmark called {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    short = False
    for name in chosen:
        print(f"\n== {name}", flush=True)
        sys.argv = [name]  # the benchmarks read their own options
        short |= bool(importlib.import_module(f"tests.bench.bench_{name}").main())
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
