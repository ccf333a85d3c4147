"""No path from capture to row goes round the gate: by type, and by the list of all places where data can leave.

By type: encoders of blocks and writers of rows take an `Admitted`, and only
`infra.control.gate.admit` makes one. By source: every place that can put something
onto a topic or into a table stands in ALLOWED, with what stands before it. A place
that is new, or gone, fails here until somebody has looked.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from infra.control import reasons
from infra.control.gate import Admitted, admit, judge
from schemas.catalogue import KINDS
from schemas.events import Events
from tests.streams_support import ANN, NOW, TRAINING, policy, view_of

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "infra", "producers", "streams", "tidegate.py")

SENDERS = frozenset(
    {"produce", "send", "send_and_wait", "send_batch", "submit", "insert", "insert_arrow", "insert_df", "raw_insert"}
)
"""Names by which clients, and our own layers above them, send or store. Any mention counts, not only a call."""
MAKERS = frozenset(
    {"Admitted", "Batch", "Message", "BlockOut", "WindowRows", "ClosedSlot", "AIOKafkaProducer", "get_client"}
)
"""What is sent or stored, and what sends it. Calls count: these names stand in annotations too."""
FORGERS = frozenset({"_TOKEN", "with_columns", "__new__"})
"""By which an `Admitted` could be made, or what it holds be replaced, without `admit`."""
ALL = SENDERS | MAKERS | FORGERS
STATEMENT = re.compile(r"\bINSERT\s+INTO\b", re.IGNORECASE)

# Place: what it mentions, in order; and what stands before it, or why no event can pass there.
ALLOWED = {
    # The gate itself.
    "infra.control.gate:Admitted.take": ("Admitted", "the gate: removes events"),
    "infra.control.gate:Admitted.with_columns": ("Admitted", "the gate: events stay, and so does their kind"),
    "infra.control.gate:Admitted.without": ("Admitted", "the gate: removes columns"),
    "infra.control.gate:admit": ("Admitted Admitted Admitted", "the gate: the only way to an Admitted"),
    # From capture to interactions.raw.
    "producers.batcher:Session._batch": (
        "Batch",
        "`cut` passes what is pending through `pass_gate`; `end` has no events",
    ),
    "producers.producer:Producer._hand_on": ("Message submit", "a Batch, which only a Session makes"),
    "producers.message:from_spool": ("Message", "what `to_spool` wrote was a Message; the minimiser judges its epoch"),
    "producers.publisher:Publisher._produce": ("produce", "a Message, submitted or from the spool"),
    # From interactions.raw to interactions.minimized.
    "streams.minimise:withhold": ("with_columns", "sets fields to 0"),
    "streams.minimise:own_applications": ("with_columns", "the same applications, numbered anew"),
    "streams.minimise:coarsen": ("with_columns", "rounds times and positions down"),
    "streams.pipeline_minimise:MinimisePipeline.process": ("BlockOut", "`write_block` takes an Admitted"),
    "streams.pipeline_minimise:MinimisePipeline.tick": ("BlockOut", "a header without columns: no events"),
    "streams.agents_minimise:MinimisedPartition._attempt": ("send", "dead letters: reason, size and digest, no events"),
    "streams.agents_minimise:MinimisedPartition._send_block": ("send", "a BlockOut"),
    # From interactions.minimized to the tables.
    "streams.rows:judged_rows": ("WindowRows with_columns", "an Admitted; its applications numbered by row"),
    "streams.pipeline_window:WindowPipeline.close": ("ClosedSlot", "`judged_rows`"),
    "streams.agents_window:WindowedPartition._attempt": ("insert", "Unsettled.insert: says when `store_slot` is over"),
    "streams.agents_window:WindowedPartition._bury": ("send", "a dead letter: no events"),
    "streams.sink:store_slot": ("insert_arrow", "a ClosedSlot: its WindowRows hold an Admitted"),
    "streams.sink:store_receipts": ("insert_arrow insert_arrow", "receipts and dead letters: counts, no events"),
    "streams.ledger:write": ("insert_arrow", "progress: no events"),
    # The workers' one way to the broker.
    "streams.app:Worker.send": ("send_and_wait", "the `send` of the two agents above and of the standing below"),
    "streams.workers:run_minimiser.prepare.body": ("send send", "hands Worker.send on"),
    "streams.workers:run_windower.prepare.body": ("send", "hands Worker.send on"),
    # Control records, and records of what was done: no events.
    "streams.agents_minimise:keep_standing": ("send", "who consents to what, by pseudonym"),
    "streams.agents_minimise:_publish": ("send", "the same"),
    "streams.reading.sampling:_record": ("insert_arrow", "a sample's manifest"),
    "infra.control.authority:Authority._beat": ("produce", "heartbeats"),
    "infra.control.keeper:GateKeeper._say": ("produce", "acknowledgements"),
    "infra.control.writer:ControlWriter._enqueue": ("produce", "policies, consents, switches"),
    "infra.migrations:migrate": ("INSERT", "which migrations have run"),
    # The adapter, and the embedded store behind it: what they are given has come through a place above.
    "infra.store:Store.insert_arrow": ("raw_insert", "the adapter"),
    "infra.store:Store._client_for": ("get_client", "the adapter"),
    "infra.stack.store_answers:answer": ("insert", "the embedded store does what it is asked"),
    "infra.stack.store_engine:Handle.insert_external": ("insert INSERT", "the same, a table that comes with a query"),
    "infra.stack.store_errors:StoreRefusal.from_engine": ("__new__", "an exception"),
    "infra.stack.store_server:StoreServer.__call__": ("send send", "HTTP answers"),
    "infra.stack.store_server:StoreServer._query": ("send send send submit", "HTTP answers; a thread"),
}


KNOWN = {place: mentions for place, (mentions, _) in ALLOWED.items()}


def places(source: str, module: str) -> dict[str, str]:
    """Return where a module can send, store or forge, by `module:function`, and what it mentions there."""
    found: dict[str, list[str]] = {}
    for function, mention in _mentions(ast.parse(source), ()):
        found.setdefault(f"{module}:{function}", []).append(mention)
    return {place: " ".join(mentions) for place, mentions in found.items()}


def _mentions(node: ast.AST, inside: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    mention = _mention(node)
    if mention:
        yield ".".join(inside), mention
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        inside = (*inside, node.name)
    match node:
        case ast.Call(func=ast.Attribute(attr="insert", value=value), args=[ast.Constant(value=int()), *rest]):
            children = [value, *rest]  # of a list
        case _:
            children = [child for child in ast.iter_child_nodes(node) if not _is_text(child)]
    for child in children:
        yield from _mentions(child, inside)


def _mention(node: ast.AST) -> str:
    name = ""
    match node:
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in SENDERS | FORGERS:
            pass
        case ast.Name(id=name, ctx=ast.Load()) if name in SENDERS:
            pass
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in MAKERS:
            pass
        # An alias would hide any of them: `from infra.control.gate import Admitted as A`.
        case ast.alias(name=name, asname=alias) if name in FORGERS or (alias and name in SENDERS | MAKERS):
            pass
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]) if name in ALL:
            pass
        case ast.Constant(value=str(text)) if STATEMENT.search(text):
            name = "INSERT"
        case _:
            name = ""
    return name


def _is_text(node: ast.AST) -> bool:
    """Whether it is a docstring, or a string that stands for itself."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@cache
def all_places() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        path = ROOT / package
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found |= places(file.read_text(), module)
    return found


def complaints(found: Mapping[str, str]) -> list[str]:
    """Say of each place that is not as ALLOWED has it what to do."""
    told = []
    for place in sorted(found.keys() | ALLOWED.keys()):
        now, (before, _) = found.get(place, ""), ALLOWED.get(place, ("", ""))
        if now == before:
            continue
        if not now:
            told.append(f"{place} no longer mentions {before}: take it out of ALLOWED.")
        else:
            told.append(
                f"{place} mentions {now}" + (f", where it was {before}" if before else "") + ": data may leave there. "
                "If an event can be in it, let it take an Admitted (infra/control/gate.py), or something that holds "
                "one. Then say in ALLOWED what stands before it."
            )
    return told


def test_every_place_that_can_send_or_store_is_known() -> None:
    """Whoever adds one says which gate stands before it, or why no event passes there."""
    told = complaints(all_places())
    assert not told, "\n".join(told)


BYPASS = '''
"""A shortcut, by INSERT INTO windows."""
from infra.control.gate import Admitted as Kind, _TOKEN
from confluent_kafka import Producer

SQL = "insert into windows SELECT 1"

def flush(client, rows):
    """Says INSERT INTO, and does not."""
    rows.insert(0, rows.pop())
    client.produce("interactions.raw", rows)

class Sink:
    async def store(self, store, rows):
        write = store.insert_arrow
        write("windows", rows, None)
        store.command(f"INSERT INTO windows FORMAT {rows}")

    def later(self, publisher, rows):
        return [lambda row=row: getattr(publisher, "submit")(Message(b"", row)) for row in rows]

def forge(events):
    made = gate.Admitted(gate._TOKEN, events, ())
    object.__new__(Kind)
    return made.with_columns(events)
'''


def test_a_way_round_is_found() -> None:
    """In a made-up module, however it is written: called, kept, aliased, looked up by name, as a statement."""
    found = places(BYPASS, "streams.shortcut")
    assert found == {
        "streams.shortcut:": "Admitted _TOKEN INSERT",
        "streams.shortcut:flush": "produce",
        "streams.shortcut:Sink.store": "insert_arrow INSERT",
        "streams.shortcut:Sink.later": "submit Message",
        "streams.shortcut:forge": "Admitted _TOKEN __new__ with_columns",
    }
    told = complaints(KNOWN | found)
    assert len(told) == len(found)
    assert all("let it take an Admitted" in line for line in told)


def test_one_more_call_in_a_known_place_is_found_and_so_is_one_that_is_gone() -> None:
    """The list says how often, not only where."""
    sink = (ROOT / "streams" / "sink.py").read_text()
    known = '    store.insert_arrow("windows", windows_table(slot.rows), token=slot.token)\n'
    more = sink.replace(known, known + '    store.insert_arrow("windows", raw, token=None)\n')
    (line,) = complaints(KNOWN | places(more, "streams.sink"))
    assert line.startswith("streams.sink:store_slot mentions insert_arrow insert_arrow, where it was insert_arrow:")
    elsewhere = {place: found for place, found in KNOWN.items() if not place.startswith("streams.sink:")}
    (line,) = complaints(elsewhere | places(sink.replace(known, ""), "streams.sink"))
    assert line == "streams.sink:store_slot no longer mentions insert_arrow: take it out of ALLOWED."


SNIPPETS = """
from dataclasses import replace
from collections.abc import Mapping, Sequence

from infra.control.gate import Admitted, Drops, Verdict, admit
from infra.store import Store
from schemas.codec import Codec
from schemas.events import Column, Events
from streams.blocks import BatchRows, Cover, write_block
from streams.data import ClosedSlot, WindowRows
from streams.sink import store_slot, windows_table


def fair(codec: Codec, cover: Cover, events: Events, rows: BatchRows, verdicts: Sequence[Verdict]) -> bytes:
    admitted, drops = admit(events, verdicts)
    return write_block(codec, cover, admitted, [""], rows, drops, [])


def block(codec: Codec, cover: Cover, events: Events, rows: BatchRows) -> None:
    write_block(codec, cover, events, [""], rows, Drops.none(), [])  # wrong
    write_block(codec, cover, events.columns, [""], rows, Drops.none(), [])  # wrong


def row(rows: WindowRows, admitted: Admitted, events: Events, columns: Mapping[str, Column]) -> None:
    replace(rows, admitted=admitted)
    replace(rows, admitted=events)  # wrong
    replace(rows, admitted=columns)  # wrong
    rows.admitted = admitted  # wrong
    rows.events = columns  # wrong
    windows_table(columns)  # wrong


def slot(store: Store, slot: ClosedSlot, events: Events) -> None:
    store_slot(store, slot)
    store_slot(store, events)  # wrong
    replace(slot, rows=events)  # wrong


def forged(admitted: Admitted, events: Events) -> None:
    Admitted(events)  # wrong
    admitted.events = events  # wrong
    admitted.verdicts = ()  # wrong
"""


def test_the_types_let_nothing_but_an_admitted_be_written(tmp_path: Path) -> None:
    """mypy, as the project runs it, refuses each line that hands on something else, and no other line."""
    (tmp_path / "snippets.py").write_text(SNIPPETS)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", str(tmp_path / "snippets.py")],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    refused = {int(line) for line in re.findall(r"snippets\.py:(\d+): error", done.stdout)}
    wrong = {number for number, line in enumerate(SNIPPETS.splitlines(), 1) if line.endswith("# wrong")}
    assert refused == wrong, done.stdout


def test_nobody_else_makes_an_admitted() -> None:
    """Without the gate's token there is none; and of one that was made, kinds and events cannot be put in."""
    events = Events(np.zeros(2, np.int32), {"kind": np.full(2, KINDS["key"]), "x": np.zeros(2, np.int64)})
    verdict = judge(view_of(policy(), {ANN: [TRAINING]}), ANN, NOW, 0)
    for token in (None, object(), "", Admitted):
        with pytest.raises(TypeError, match=r"only infra\.control\.gate\.admit"):
            Admitted(token, events, (verdict,))
    admitted, _ = admit(events, [verdict])
    with pytest.raises(ValueError, match="kind cannot be set"):
        admitted.with_columns({"kind": events.columns["kind"]})
    with pytest.raises(ValueError, match="the events are 2"):
        admitted.with_columns({"x": np.zeros(3, np.int64)})
    with pytest.raises(ValueError, match="read-only"):
        admitted.events.columns["x"][0] = 1
    with pytest.raises(AttributeError):
        admitted.events = events
    nobody = judge(view_of(policy(), {}), ANN, NOW, 0)
    assert len(admit(events, [nobody])[0]) == 0
    assert reasons.NO_CONSENT in nobody.refusal
