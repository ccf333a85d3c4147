"""How fast the columnar core is on one core, beside plain decoding of the same bytes. No I/O.

    python -m tests.bench.bench_kernels [--messages 20000] [--events 64]

Prints events a second of CPU time for: decoding the raw messages to numpy, the
minimiser's `process`, decoding the blocks, and the windower's `add` and `close`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from infra.control.state import View
from schemas import wire
from schemas.catalogue import KINDS
from streams.data import RawMessage
from streams.pipeline_minimise import MinimisePipeline
from streams.pipeline_window import WindowPipeline
from streams.received import Received
from tests.streams_support import (
    BLOCK_CODEC,
    BLOCK_ID,
    KEY,
    RAW_CODEC,
    T0,
    TRAINING,
    codec_for,
    policy,
    raw_message,
    view_of,
)

TAKE = 256  # messages: 64 events of 12 bytes each are below MAX_TAKE_BYTES
SESSIONS = 200
MINIMISE_GOAL = 1.2  # M events a second of CPU time


def workforce(messages: int, events: int) -> list[RawMessage]:
    """Batches of many sessions in turn: mostly pointer moves, some keys and wheels, a change of application now and then."""
    rng = np.random.default_rng(1)
    made = []
    for offset in range(messages):
        session, turn = offset % SESSIONS, offset // SESSIONS
        kinds = rng.choice([KINDS["pointer_move"], KINDS["key"], KINDS["wheel"]], events, p=[0.8, 0.15, 0.05])
        moves, keys = kinds == KINDS["pointer_move"], kinds == KINDS["key"]
        begin = T0 + turn * 1_000 + session
        times = (begin + np.sort(rng.integers(0, 1_000, events))).tolist()
        made.append(
            raw_message(
                offset, times, append=T0 + turn * 1_000 + 1_000 + session, session=f"{session:032x}",
                subject=f"{session:032x}", first_number=turn * events, kinds=kinds,
                application=1 + turn % 2, x=rng.integers(0, 1920, events) * moves,
                y=rng.integers(0, 1080, events) * moves, pressed=rng.integers(0, 2, events) * keys,
                key_class=rng.integers(1, 11, events) * keys, wheel_y=(kinds == KINDS["wheel"]) * -1,
            )
        )  # fmt: skip
    return made


def measure(what: Callable[[], object], times: int = 3) -> float:
    """Return the least CPU time of several runs, in seconds: what else the machine does only ever adds."""
    best = float("inf")
    for _ in range(times):
        began = time.process_time()
        what()
        best = min(best, time.process_time() - began)
    return best


def minimise(takes: list[list[RawMessage]], view: View) -> list[bytes]:
    """Run a fresh minimiser over all takes."""
    pipeline = MinimisePipeline("bench/1", KEY, codec_for, tick_after_ms=1_000)
    return [wire.frame(BLOCK_ID, pipeline.process(0, take, view, T0 + 10**9).body) for take in takes]


def window(blocks: list[bytes], view: View) -> int:
    """Run a fresh windower over all blocks, closing what is due after each; return how many events were stored."""
    pipeline = WindowPipeline("1", 0, codec_for, None, Received())
    stored = 0
    for offset, block in enumerate(blocks):
        pipeline.add(offset, block, 0)
        receipts = pipeline.receipts()
        if receipts is not None:
            pipeline.confirm_receipts(receipts)
        for key in pipeline.due():
            stored += pipeline.close(key, view, T0 + 10**9).split.kept
            pipeline.confirm(key)
        pipeline.ledger_row(offset + 1)
    return stored


def main() -> None:
    """Print the rates and what they are beside plain decoding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    messages = workforce(args.messages, args.events)
    total = args.messages * args.events
    takes = [messages[at : at + TAKE] for at in range(0, len(messages), TAKE)]
    in_force = policy(grid_px=8, resolution_ms=10)
    subjects = {f"{number:032x}": [TRAINING] for number in range(SESSIONS)}
    view = view_of(in_force, subjects)
    bodies = [[message.value[wire.FRAME_SIZE :] for message in take] for take in takes]
    blocks = minimise(takes, view)
    pseudonyms = {name for block in blocks for name in BLOCK_CODEC.decode([block[5:]]).headers[0]["batch_subject"]}
    standing = view_of(in_force, {name: [TRAINING] for name in pseudonyms})
    rates = {
        "decode raw": total / measure(lambda: [RAW_CODEC.decode(take) for take in bodies]),
        "minimise": total / measure(lambda: minimise(takes, view)),
        "decode blocks": total / measure(lambda: [BLOCK_CODEC.decode([block[5:]]) for block in blocks]),
        "window": total / measure(lambda: window(blocks, standing)),
    }
    if args.json:
        print(json.dumps({name.replace(" ", "_"): round(rate) for name, rate in rates.items()}))
        return
    print(f"{total:,} events, {args.events} a message, {TAKE} messages a take, {SESSIONS} sessions; per second of CPU:")
    for name, rate, beside in (
        ("decode raw", rates["decode raw"], ""),
        (
            "minimise",
            rates["minimise"],
            f"{rates['minimise'] / rates['decode raw']:.2f} of decode raw; goal {MINIMISE_GOAL} M",
        ),
        ("decode blocks", rates["decode blocks"], ""),
        ("window", rates["window"], f"{rates['window'] / rates['decode blocks']:.2f} of decode blocks"),
    ):
        print(f"  {name:14} {rate / 1e6:6.2f} M events  {beside}")


if __name__ == "__main__":
    main()
