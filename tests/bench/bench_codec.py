"""How fast the codec is, beside fastavro on the same bytes.

Run it with `make bench` or `python tests/bench/bench_codec.py`. Every figure is
CPU time, the least of several rounds, and the rounds of all contenders take
turns, so that a busy machine slows each of them alike.

fastavro reads enum columns as symbols. The bytes of an enum and of an int are
the same, so it is given a schema with ints in their place as well, and is then
spared the strings. That is the fair comparison, and the goals are held
against it: decoding 4x at 200 messages a pass, encoding no slower. A goal
counts as missed from a tenth below it, so that noise alone fails no build.

The messages of a pass come from 50 sessions in turn, as in a take of the
minimiser. The codec remembers what headers of a session repeat.
"""

from __future__ import annotations

import copy
import io
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import fastavro
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from schemas.catalogue import EVENT_COLUMNS, KINDS, Schema, load
from schemas.codec import Codec

EVENTS = 64
MESSAGES = 200
SESSIONS = 50
ROUNDS = 15
PASSES = (MESSAGES, 50, 20)
GOALS = {"decode": 4.0, "encode": 1.0}

Columns = dict[str, NDArray[np.int64]]
HEADER = {
    "session": "0f" * 16, "subject": "a7" * 16, "producer": "desktop/0.1.0", "epoch": 3, "first_number": 6_400,
    "captured": 6_500, "dropped": {"buffer_full": 3}, "final": False, "base_time": 1_790_000_000_000,
    "screen_width": 1920, "screen_height": 1080, "applications": ["", "org.example.editor", "org.example.browser"],
    "labels": [""],
}  # fmt: skip


def header(number: int) -> dict[str, Any]:
    """The header of the batch with this number: sessions take turns, and count their events."""
    session, turn = number % SESSIONS, number // SESSIONS
    own = {"session": f"{session * 2654435761:032x}"[::-1], "subject": f"{session * 40503:032x}"[::-1]}
    first = 6_400 + turn * EVENTS
    return (
        HEADER | own | {"first_number": first, "captured": first + EVENTS + 3, "base_time": HEADER["base_time"] + turn}
    )


def pointer_heavy(random: np.random.Generator) -> Columns:
    """What a desktop sends most: moves, one in twenty a click; five columns filled, two nearly, five empty."""
    clicks = random.random(EVENTS) < 0.05
    return {
        "offset_ms": np.cumsum(random.integers(5, 20, EVENTS)),
        "kind": np.where(clicks, KINDS["pointer_button"], KINDS["pointer_move"]),
        "application": np.ones(EVENTS, np.int64),
        "x": np.abs(np.cumsum(random.integers(-9, 10, EVENTS)) + 800),
        "y": np.abs(np.cumsum(random.integers(-9, 10, EVENTS)) + 400),
        "button": clicks.astype(np.int64),
        "pressed": clicks * (np.arange(EVENTS) % 2),
    }


def dense(random: np.random.Generator) -> Columns:
    """Every column filled: the most that a batch can hold."""
    columns = pointer_heavy(random)
    return columns | {name: random.integers(0, 3, EVENTS) for name in EVENT_COLUMNS if name not in columns}


def enums_as_ints(schema: Schema) -> Any:
    """The same schema with ints for the enum columns, for fastavro; the bytes are the same."""
    definition = copy.deepcopy(dict(schema.definition))
    for field in definition["fields"]:
        if "column" in field and isinstance(field["type"]["items"], dict):
            field["type"]["items"] = "int"
    return fastavro.parse_schema(definition, named_schemas={})


def fastavro_to_numpy(bodies: Sequence[bytes], parsed: Any, symbols: dict[str, dict[str, int]]) -> Columns:
    """Read with fastavro and join each column of all messages: one list and one array a column."""
    records: list[Any] = [fastavro.schemaless_reader(io.BytesIO(body), parsed, None) for body in bodies]
    columns = {}
    for name in EVENT_COLUMNS:
        joined: list[Any] = []
        for record in records:
            joined += record[name] or [0] * len(record["kind"])
        codes = symbols.get(name)
        columns[name] = np.array(joined if codes is None else [codes.get(value, 0) for value in joined], np.int64)
    return columns


def fastavro_from_numpy(parsed: Any, head: dict[str, Any], columns: Columns) -> bytes:
    """Write a batch with fastavro: lists out of the arrays, all-zero columns left empty as well."""
    out = io.BytesIO()
    lists = {name: columns[name].tolist() if name in columns and columns[name].any() else [] for name in EVENT_COLUMNS}
    fastavro.schemaless_writer(out, parsed, head | lists)
    return out.getvalue()


def least_cpu(contenders: Sequence[Callable[[], object]]) -> list[float]:
    """Return the least CPU seconds of each, over rounds in which they take turns."""
    best = [float("inf")] * len(contenders)
    for _ in range(ROUNDS):
        for number, contender in enumerate(contenders):
            began = time.process_time()
            contender()
            best[number] = min(best[number], time.process_time() - began)
    return best


def in_passes(codec: Codec, bodies: list[bytes], size: int) -> Callable[[], object]:
    return lambda: [codec.decode(bodies[at : at + size]) for at in range(0, len(bodies), size)]


def measure(table: Table, name: str, batches: list[Columns]) -> dict[str, float]:
    """Add the rows of one kind of batch; return the fair ratios of decoding and encoding."""
    schema = load("interaction_batch")
    codec, ints = Codec(schema), enums_as_ints(schema)
    symbols = {c.name: {s: i for i, s in enumerate(c.symbols)} for c in schema.columns if c.symbols}
    headed = [(header(number), columns) for number, columns in enumerate(batches)]
    bodies = [codec.encode(head, columns) for head, columns in headed]
    ours = codec.decode(bodies)
    for theirs in (fastavro_to_numpy(bodies, ints, {}), fastavro_to_numpy(bodies, schema.parsed, symbols)):
        assert all((ours.columns[column] == theirs[column]).all() for column in EVENT_COLUMNS)

    fair, strings, *decode = least_cpu([
        lambda: fastavro_to_numpy(bodies, ints, {}),
        lambda: fastavro_to_numpy(bodies, schema.parsed, symbols),
        *(in_passes(codec, bodies, size) for size in PASSES),
    ])  # fmt: skip
    encode, fair_encode = least_cpu([
        lambda: [codec.encode(head, columns) for head, columns in headed],
        lambda: [fastavro_from_numpy(ints, head, columns) for head, columns in headed],
    ])  # fmt: skip
    size = f"{sum(map(len, bodies)) / EVENTS / len(bodies):.1f}"
    rows = [
        *(
            ("decode", f"codec, {n} messages a pass", spent, fair / spent)
            for n, spent in zip(PASSES, decode, strict=True)
        ),
        ("decode", "fastavro, enums as ints (fair)", fair, 1.0),
        ("decode", "fastavro, enums as symbols", strings, fair / strings),
        ("encode", "codec", encode, fair_encode / encode),
        ("encode", "fastavro, enums as ints (fair)", fair_encode, 1.0),
    ]
    for what, who, seconds, ratio in rows:
        rate = MESSAGES * EVENTS / seconds / 1e6
        table.add_row(name, size, what, who, f"{rate:.2f}", f"{seconds / MESSAGES * 1e6:.1f}", f"{ratio:.1f}x")
    table.add_section()
    return {"decode": fair / decode[0], "encode": fair_encode / encode}


def main() -> int:
    """Print one table and the goals; return 1 when a ratio is more than a tenth below its goal."""
    random = np.random.default_rng(20261121)
    table = Table(title=f"codec beside fastavro, {EVENTS} events a message, CPU time, same bytes, to and from numpy")
    for heading in ("batch", "bytes an event", "", "by", "M events/s", "us a message", "fair ratio"):
        table.add_column(heading, justify="left" if heading in ("batch", "", "by") else "right")
    kinds = (("pointer-heavy", pointer_heavy), ("dense", dense))
    ratios = {name: measure(table, name, [make(random) for _ in range(MESSAGES)]) for name, make in kinds}
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    failed = False
    for what, goal in GOALS.items():
        each = ", ".join(f"{name} {of[what]:.1f}x" for name, of in ratios.items())
        least = min(of[what] for of in ratios.values())
        failed |= least < 0.9 * goal
        console.print(
            f"{what} beside fastavro with ints: {each}; goal {goal:.0f}x {'reached' if least >= goal else 'MISSED'}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
