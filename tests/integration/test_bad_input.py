"""Bad input on the real stack: a clear error or a counted refusal, and nothing stops.

What is proved elsewhere is not repeated here:

* an empty file, an unknown format, a file that is no recording: tests/unit/producers/test_replay.py
* unknown fields, sources and keys of a policy, one that has run out, a file that is no
  policy: tests/unit/infra/control/test_policy_file.py
* a consent to a purpose that the policy does not have, a broker that is away for a
  reader of the control topics: tests/integration/test_control.py
* a second `up`, an `up` that is pointed at nothing, a broken home: tests/integration/test_stack.py
* a worker whose broker or store is away: tests/integration/streams/test_path.py
* a producer whose broker or registry is away: tests/integration/producers/test_producers.py
* a kill -9 of any one process: tests/integration/test_end_to_end.py
* hostile bytes of every sort: tests/properties/test_codec_hostile.py
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import fastavro
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from infra.control.identity import pseudonym_of
from infra.control.reader import ControlReader, wall_ms
from infra.control.writer import ControlWriter
from infra.store import Store
from infra.topics import DEAD_LETTER, RAW
from schemas.catalogue import load, subject_of
from schemas.registry import Registry
from schemas.wire import frame, unframe
from tests.approvers import demo_policy, policy_file
from tests.streams_support import raw_body
from tests.support import Stack, wait_until

ROOT = Path(__file__).parents[2]
PURPOSE = "assistant-training"
HEADER = "record timestamp,client timestamp,button,state,x,y"
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
SECRET = b"what-nobody-may-ever-read"


class Device:
    """A device that sends what it likes, past the SDK and its gate."""

    def __init__(self, stack: Stack) -> None:
        self.addresses = stack.addresses
        self.schema_id = Registry(self.addresses.registry).schema_id(subject_of(RAW), load("interaction_batch"))
        self._producer = Producer({"bootstrap.servers": self.addresses.kafka, "log_level": 0})

    def send(self, value: bytes, *, stamp: int | None = None) -> None:
        """Append to partition 0; `stamp` is what the device says the time is, UTC epoch ms."""
        self._producer.produce(RAW, value, partition=0, timestamp=wall_ms() if stamp is None else stamp)
        assert self._producer.flush(10) == 0

    def batch(self, session: str, subject: str, times: Sequence[int], *, first: int = 0, stamp: int | None = None):
        """Send one batch of pointer moves at these times, stamped with its last one unless told otherwise."""
        body = raw_body(times, session=session, subject=subject, first_number=first, x=8, y=8)
        self.send(frame(self.schema_id, body), stamp=times[-1] if stamp is None else stamp)


@pytest.fixture(scope="module")
def device(stack) -> Device:
    return Device(stack)


@pytest.fixture(scope="module")
def subject(stack) -> str:
    """A subject whose consent every gate knows of."""
    who = secrets.token_hex(16)
    stack.grant([who])
    pseudonym = pseudonym_of((stack.home / "keys" / "pseudonym.key").read_bytes(), who)
    with ControlReader(stack.addresses, "standing") as reader:
        assert reader.wait_for(lambda view: view.fresh and pseudonym in view.state.consents, 20).fresh
    return who


Ask = Callable[[str], list[dict]]


@pytest.fixture(scope="module")
def ask(stack) -> Ask:
    """Ask the store; a command for each question would cost a second."""
    store = Store(stack.addresses)
    return lambda sql: store.query_rows(sql).dicts()


def _fate(ask: Ask, session: str) -> dict:
    """What became of a session's events, by name; only what is not nothing."""
    receipts = (
        "sum(count) AS events, sum(late) AS late, sumMap(dropped) AS dropped, maxMap(producer_dropped) AS produced"
    )
    (sums,) = ask(f"SELECT {receipts} FROM batches FINAL WHERE session = '{session}'")
    (refused,) = ask(f"SELECT sumMap(refused) AS reasons FROM windows WHERE session = '{session}'")
    (stored,) = ask(f"SELECT count() AS n FROM interactions WHERE session = '{session}'")
    found = Counter({"events": sums["events"], "late": sums["late"], "stored": stored["n"]})
    for reasons in (sums["dropped"], sums["produced"], refused["reasons"]):
        found.update(reasons)
    return {name: int(n) for name, n in found.items() if int(n)}


def _closes(ask: Ask, session: str, events: int) -> None:
    wait_until(lambda: _fate(ask, session).get("stored") == events, 40, f"{events} events of {session} are stored")


def test_rows_that_are_no_rows_are_left_out_and_named(stack, tmp_path):
    """A CSV with broken rows plays without them and names their lines; what it sent is in the books."""
    rows = [f"{n}.0,{n}.0,NoButton,Move,{n},{n}" for n in range(1, 5)]
    (tmp_path / "ann").mkdir()
    good = tmp_path / "ann" / "session.csv"
    good.write_text("\n".join([HEADER, rows[0], "not a row", rows[1], "1,2,3", rows[2], rows[3]]) + "\n")
    _, before = stack.books()
    done = stack.run("produce", "replay", str(good), "--speed", "max", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert told["bad_rows"] == {str(good): [3, 5]}
    assert "2 lines are no rows (3, 5)" in done.stderr
    assert told["captured"] == len(rows) + 2  # and the session's start and end

    wait_until(lambda: stack.books()[1]["captured"] - before["captured"] == told["captured"], 30, "all is in the books")


def test_what_cannot_be_read_is_a_dead_letter_and_the_next_batch_is_stored(stack, ask, device, subject):
    """Random bytes, an unknown id, unequal columns: reason, id, size and digest in topic and table, never the payload."""
    uneven = {f["name"]: _empty(f) for f in load("interaction_batch").definition["fields"]}
    uneven |= {"session": SECRET.decode(), "x": [1, 2, 3], "y": [1], "offset_ms": [0, 1]}
    body = BytesIO()
    fastavro.schemaless_writer(body, load("interaction_batch").parsed, uneven)
    bad = {
        "not_framed": (-1, b"\x7f" + SECRET + secrets.token_bytes(40)),
        "unknown_schema": (9_999, frame(9_999, SECRET)),
        "unequal_columns": (device.schema_id, frame(device.schema_id, body.getvalue())),
    }
    for _, value in bad.values():
        device.send(value)
    session = f"bad-{secrets.token_hex(8)}"
    device.batch(session, subject, [wall_ms() + n for n in range(10)])
    _closes(ask, session, 10)

    expected = {(why, number, len(value), hashlib.sha256(value).hexdigest()) for why, (number, value) in bad.items()}
    rows = ask("SELECT reason, schema_id, size, digest FROM deadletters FINAL")
    assert expected <= {(row["reason"], row["schema_id"], row["size"], row["digest"]) for row in rows}
    letters = _values(stack, DEAD_LETTER)
    assert expected <= {(row["reason"], row["schema_id"], row["size"], row["digest"]) for row in map(_letter, letters)}
    assert not any(SECRET in letter for letter in letters)
    assert not any(SECRET in log.read_bytes() for log in (stack.home / "logs").iterdir())
    assert stack.books()[1]["deadletters"] >= len(bad)


def _empty(field: dict) -> object:
    match field["type"]:
        case "string":
            return ""
        case "boolean":
            return False
        case {"type": "array"}:
            return []
        case {"type": "map"}:
            return {}
    return 0


def _values(stack, topic: str) -> list[bytes]:
    """Everything on a topic, once there has been nothing new for a second."""
    consumer = Consumer({"bootstrap.servers": stack.addresses.kafka, "group.id": "test", "log_level": 0})
    partitions = consumer.list_topics(topic, timeout=5).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    found: list[bytes] = []
    while messages := consumer.consume(100, 1.0):
        found += [message.value() for message in messages if message.error() is None]
    consumer.close()
    return found


def _letter(value: bytes) -> dict:
    schema = load("dead_letter").parsed
    return fastavro.schemaless_reader(BytesIO(unframe(value).body), schema, None)


def test_wrong_clocks_concern_nobody_else(stack, ask, device, subject):
    """A day ahead is future, an hour behind is late, backwards is kept; an honest session beside them is stored whole."""
    name = secrets.token_hex(8)
    honest, ahead, behind, backwards = (f"{which}-{name}" for which in ("honest", "ahead", "behind", "backwards"))
    now = wall_ms() // 100 * 100
    device.batch(honest, subject, [now, now + 1, now + 2])
    # What the device says of the message is as wrong as what it says of the events.
    device.batch(ahead, subject, [now + DAY_MS, now + DAY_MS + 1])
    device.batch(behind, subject, [now - HOUR_MS, now - HOUR_MS + 1, now - HOUR_MS + 2, now - HOUR_MS + 3])
    device.batch(backwards, subject, [now + 5, now - 400, now + 1, now - 800, now + 5])
    device.batch(honest, subject, [now + 3, now + 4], first=3)
    _closes(ask, honest, 5)
    _closes(ask, backwards, 5)
    stack.settled()
    assert _fate(ask, honest) == {"events": 5, "stored": 5}
    assert _fate(ask, ahead) == {"events": 2, "future": 2}
    assert _fate(ask, behind) == {"events": 4, "late": 4}
    assert _fate(ask, backwards) == {"events": 5, "stored": 5}
    order = ask(f"SELECT number FROM interactions WHERE session = '{backwards}' ORDER BY time, number")
    # At 10 ms resolution the first, third and last fall into one moment.
    assert [int(row["number"]) for row in order] == [3, 1, 0, 2, 4]
    (last,) = ask("SELECT max(watermark) AS ms FROM ledger FINAL")
    assert last["ms"] < wall_ms() + 1_000


def test_a_policy_that_runs_out_closes_the_gate_by_itself(stack, ask):
    """Nobody does anything: at its end the producer refuses by policy_expired, nothing later is stored, the books balance."""
    people = ("produce", "simulate", "--people", "20", "--seed", "77")
    subjects = stack.ok(*people, "--subjects-only")
    stack.grant(subjects.split())
    _, before = stack.books()
    process = stack.start(*people, "--minutes", "3", "--speed", "1", "--json")
    count = "SELECT count() AS n FROM interactions"
    wait_until(lambda: ask(count)[0]["n"] > before["stored"], 60, "events are stored while the policy holds")
    try:
        ends = _put_in_force(stack, version=900, holds_ms=2_000)
        wait_until(lambda: wall_ms() > ends + 3_000, 10, "the policy has run out")
        process.send_signal(signal.SIGINT)
        told = json.loads(process.communicate(timeout=60)[0])
        after = stack.settled(expect=before["captured"] + told["captured"])
        assert told["dropped"]["policy_expired"] > 0
        # On a machine under load a heartbeat may come late: that closes the gate too.
        assert set(told["dropped"]) <= {"policy_expired", "stale"}
        assert after["captured"] - before["captured"] == told["captured"]
        (last,) = ask("SELECT toUnixTimestamp64Milli(max(time)) AS ms FROM interactions")
        assert last["ms"] <= ends
    finally:
        process.kill()
        process.wait()
        _put_in_force(stack, version=901, holds_ms=365 * DAY_MS)


def _put_in_force(stack, *, version: int, holds_ms: int) -> int:
    """Put the demo's policy in force for so long from now and return its end: a command would take part of that."""
    until = wall_ms() + holds_ms
    policy = demo_policy(stack.home / "policy", stack.addresses.log, version=version, valid_until=until)
    with ControlWriter(stack.addresses) as writer:
        writer.write(policy)
    return policy.valid_until


KAFKA = f"""
    policy plan POLICY --json
    policy apply POLICY --key ANNA --key BEN
    policy show --json
    consent grant --purpose {PURPOSE} --subject {"0" * 32} --key ANNA --key BEN --json
    consent notice --json
    consent withdraw --subject {"0" * 32} --json
    consent show --json
    switch engage --scope everything --reason testing --json
    switch release all --reason tested --key ANNA --key BEN --json
    switch list --json
    switch show all --json
    switch proof all --json
    gates list --json
    topics plan --json
    topics apply --json
    produce simulate --people 1 --minutes 0.01 --json
    sample take --purpose {PURPOSE} --windows 1 --seed 1 --out sample --json
"""
REGISTRY = "topics apply --json"
STORE = f"""
    books --json
    store migrate
    store migrate --plan
    store tables --json
    store query "SELECT 1" --json
    sample take --purpose {PURPOSE} --windows 1 --seed 1 --out sample --json
"""


@pytest.mark.parametrize(("setting", "commands"), [("KAFKA", KAFKA), ("REGISTRY", REGISTRY), ("STORE", STORE)])
def test_what_is_not_there_is_named_in_time(stack, tmp_path, setting, commands):
    """Each command that needs a service says in seconds that it is away, and where; exit 1, no traceback, no output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{probe.getsockname()[1]}"  # bound, and nobody listens
        env = stack.env(**{f"TIDEGATE_{setting}": nowhere if setting == "KAFKA" else f"http://{nowhere}"})

        def run(line: str) -> tuple[str, subprocess.CompletedProcess[str], float]:
            begun = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "tidegate", *shlex.split(line)],
                env={**env, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            return line, done, time.monotonic() - begun

        policy = policy_file(stack.home / "policy")
        files = {"POLICY": policy, "ANNA": policy.parent / "anna.key", "BEN": policy.parent / "ben.key"}
        for word, path in files.items():
            commands = commands.replace(word, str(path))
        with ThreadPoolExecutor(6) as pool:
            for line, done, seconds in pool.map(run, filter(None, map(str.strip, commands.splitlines()))):
                assert (done.returncode, done.stdout) == (1, ""), f"{line}\n{done.stdout}{done.stderr}"
                assert done.stderr.startswith("error: "), f"{line}\n{done.stderr}"
                assert done.stderr.count("\n") == 1, f"{line} says more than one line:\n{done.stderr}"
                assert nowhere in done.stderr, f"{line} does not name the address:\n{done.stderr}"
                # 5 s of patience at most; the rest is six Pythons that start at once.
                assert seconds < 30, f"{line} took {seconds:.0f} s"
    assert not list(tmp_path.iterdir())
