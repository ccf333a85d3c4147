"""`tidegate switch proof` on a running stack: it holds where a switch held, and finds what was planted by hand."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from infra.control import proof_sql
from infra.control.identity import load_key, pseudonym_of
from infra.control.proof import HELD, OPEN, VIOLATED, Covers, Proof, figures_of
from infra.control.proving import prove
from infra.store import Store
from schemas.catalogue import KINDS
from tests.support import PURPOSE, Stack, start_stack, wait_until

PEOPLE, SEED = 20, 71
OTHER_PURPOSE = "usability-research"
MINUTE = 60_000


@pytest.fixture(scope="module")
def streaming(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Stack, Store, list[str], subprocess.Popen[str]]]:
    """A stack of these tests' own, its store, and people who stream all the while, by what process."""
    stack = start_stack(tmp_path_factory.mktemp("proof"))
    stack.allow()
    subjects = stack.people(PEOPLE, SEED)
    stack.grant(subjects)
    stream = stack.start("produce", "simulate", "--people", str(PEOPLE), "--seed", str(SEED), "--minutes", "60")
    store = Store(stack.addresses)
    flows(store)
    yield stack, store, subjects, stream
    stream.send_signal(signal.SIGINT)
    stream.wait(60)
    stack.run("down")


@pytest.fixture(scope="module")
def people(streaming) -> tuple[Stack, Store, list[str]]:
    """The stack, its store, and who streams."""
    return streaming[:3]


def flows(store: Store, kind: str = "pointer_move") -> None:
    """Wait until events of a kind are stored that were captured from now on."""
    since = int(time.time() * 1000)
    query = f"SELECT countIf(has(kind, {KINDS[kind]})) FROM windows WHERE events > 0 AND window_start > {since}"
    wait_until(lambda: store.command(query), 60, f"{kind} is stored")


def engage(stack: Stack, name: str, scope: str) -> None:
    stack.ok("switch", "engage", "--scope", scope, "--reason", "test", "--id", name, "--wait", "20")


def run(stack: Stack, *words: str, code: int, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its user does, with a changed environment."""
    command = [sys.executable, "-m", "tidegate", "switch", "proof", *words]
    done = subprocess.run(command, env=stack.env(**env), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


def plant(store: Store, at: int, *, dated: int = 0, session: str = "planted", number: int = 0, **values) -> None:
    """Store a row of one event by hand, as if it had been stored `at` (ms) and dated `dated`, an hour before if 0."""
    time_of = dated or at - 60 * MINUTE
    row = {
        "log": "'planted'", "partition": 0, "slot": time_of, "window_kind": "'tumbling'", "window_start": time_of,
        "window_end": time_of + 5000, "step_ms": 5000, "session": f"'{session}'", "subject": "'planted'",
        "policy": "'demo'", "policy_version": 1, "notice": "'1'", "purposes": [PURPOSE], "applications": ["", "editor"],
        "number": [number], "offset_ms": [0], "kind": [KINDS["pointer_move"]], "application": [1],
        **{name: [0] for name in ("x", "y", "button", "pressed", "wheel_x", "wheel_y", "key_class", "role")},
        "events": 1, "stored": 1, "stored_at": f"fromUnixTimestamp64Milli({at}, 'UTC')", **values,
    }  # fmt: skip
    store.command(f"INSERT INTO windows ({', '.join(row)}) VALUES ({', '.join(map(str, row.values()))})")


def receipt(store: Store, session: str, first: int, appended: int) -> None:
    """Store a receipt by hand: a batch of one event."""
    store.command(
        "INSERT INTO batches (log, partition, raw_offset, session, first_number, count, kept, append_time)"
        f" VALUES ('planted', 0, {appended}, '{session}', {first}, 1, 1, {appended})"
    )


def middle(found: Proof) -> int:
    """A moment amid the interval."""
    assert found.begin is not None
    return (found.begin + found.end) // 2


def figure(found: Proof, where: str, column: str) -> int:
    return next(each.count for each in found.figures if (each.where, each.column) == (where, column))


def violated(found: Proof) -> set[tuple[str, str]]:
    return {(each.where, each.column) for each in found.violations}


def test_everything_is_stopped_and_a_planted_row_is_found(people):
    """It holds while engaged and after the release; one row planted into the interval is named, with exit code 1."""
    stack, store, _ = people
    engage(stack, "all", "everything")
    time.sleep(7)  # rows that waited in windows are judged, and refused
    during = json.loads(run(stack, "all", "--json", code=HELD).stdout)
    assert {gate["role"] for gate in during["gates"]} == {"producer", "minimiser", "windower"}
    assert all(gate["how"] == "acknowledged" for gate in during["gates"])
    assert during["released"] is None
    stack.release("all")
    flows(store)
    after = run(stack, "all", code=HELD).stdout
    assert "VIOLATED" not in after
    assert after.splitlines()[-1].startswith("all held: from the last acknowledgement to the release")

    begin, end = json.loads(run(stack, "all", "--json", code=HELD).stdout)["interval"].values()
    plant(store, (begin + end) // 2)
    told = run(stack, "all", code=VIOLATED).stdout
    assert told.splitlines()[-1] == "all did NOT hold: windows, rows stored after the last acknowledgement: 1."
    assert [line.split()[:3] for line in told.splitlines() if "VIOLATED" in line] == [["1", "0", "VIOLATED"]]


def test_the_printed_queries_give_the_printed_figures(people):
    """Pasted into any client, each gives one row that holds the figures said to come from it."""
    stack, store, _ = people
    document = json.loads(run(stack, "all", "--json", code=VIOLATED).stdout)
    printed = run(stack, "all", code=VIOLATED).stdout
    queries = dict(re.findall(r"^-- (\d+)\. .*\n((?:.*\n)*?.*);$", printed, re.MULTILINE))
    for listed in ({str(query["number"]): query["sql"] for query in document["queries"]}, queries):
        rows = {number: store.query_rows(sql).dicts()[0] for number, sql in listed.items()}
        from_store = [each for each in document["figures"] if each["query"]]
        assert len(from_store) > 10
        for each in from_store:
            assert int(rows[str(each["query"])][each["column"]]) == each["figure"], each


def test_a_name_is_asked_for_as_it_is_written(people):
    """Quotes, backslashes, parameters and what a terminal would obey reach the store as the name that they are."""
    _, store, _ = people
    name = "it's \\ {value:String} \x1b[31m \u202e ü 日"
    assert store.query_rows(proof_sql.fill("SELECT {value:String}", {"value": name})).rows == [(name,)]


def test_a_source_is_stopped_while_others_flow(people):
    """Rows of other sources are stored meanwhile, and change nothing; a row that holds one event of it does."""
    stack, store, _ = people
    engage(stack, "pointer", "source:pointer")
    flows(store, "focus")
    found = prove(stack.addresses, "pointer")
    assert found.code == HELD, found.sentence
    assert figure(found, "windows", "others") > 0
    assert figure(found, "interactions.minimized", "messages") > 0
    inside = middle(found)
    plant(store, inside, kind=[KINDS["key"]])
    assert prove(stack.addresses, "pointer").code == HELD
    plant(store, inside, kind=[KINDS["pointer_button"]], session="planted-too")
    told = run(stack, "pointer", code=VIOLATED).stdout
    assert "windows, rows stored after the last acknowledgement: 1" in told.splitlines()[-1]
    stack.release("pointer")


def test_an_event_of_the_interval_is_found_whenever_it_was_stored(people):
    """A row stored after the release, with an event dated before it, is what was captured while stopped."""
    stack, store, _ = people
    engage(stack, "dated", "everything")
    time.sleep(2)
    stack.release("dated")
    found = prove(stack.addresses, "dated")
    assert found.code == HELD, found.sentence
    plant(store, int(time.time() * 1000), dated=middle(found))
    assert violated(prove(stack.addresses, "dated")) == {("windows", "captured")}


def test_purpose_and_application(people):
    """A row that names a stopped purpose beside another is found, as is one event of a stopped application."""
    stack, store, _ = people
    engage(stack, "purpose", f"purpose:{OTHER_PURPOSE}")
    engage(stack, "application", "application:mail")
    time.sleep(3)
    purpose, application = (prove(stack.addresses, name) for name in ("purpose", "application"))
    assert (purpose.code, application.code) == (HELD, HELD), (purpose.sentence, application.sentence)
    plant(store, middle(application), purposes=[OTHER_PURPOSE, PURPOSE])
    assert violated(prove(stack.addresses, "purpose")) == {("windows", "stored")}
    unknown = prove(stack.addresses, "application")
    assert unknown.code == HELD, unknown.sentence
    plant(store, middle(application), application=[0], session="withheld")
    unknown = prove(stack.addresses, "application")
    assert (unknown.code, unknown.undecided[0].column) == (OPEN, "unknown_stored"), "its application may be any"
    plant(store, middle(application), applications=["", "mail"], session="in-mail")
    store.command(
        "INSERT INTO manifests (id, taken_at, purpose, manifest, stored_at) VALUES "
        f"""('m', now64(3), '{OTHER_PURPOSE}', '{{"switches": []}}', fromUnixTimestamp64Milli({middle(purpose)}))"""
    )
    assert ("manifests", "taken") in violated(prove(stack.addresses, "purpose"))
    assert ("windows", "stored") in violated(prove(stack.addresses, "application"))
    for name in ("purpose", "application"):
        stack.release(name)


def test_a_subject_is_looked_for_and_named_nowhere(people):
    """Their row is found; neither identifier nor pseudonym is printed; without the key it says so and exits 3."""
    stack, store, subjects = people
    engage(stack, "one", f"subject:{subjects[0]}")
    flows(store, "focus")
    pseudonym = pseudonym_of(load_key(stack.home / "keys" / "pseudonym.key"), subjects[0])
    held = run(stack, "one", code=HELD).stdout
    plant(store, middle(prove(stack.addresses, "one")), subject=f"'{pseudonym}'")
    told = run(stack, "one", code=VIOLATED).stdout
    document = run(stack, "one", "--json", code=VIOLATED).stdout
    away = run(stack, "one", code=OPEN, TIDEGATE_PSEUDONYM_KEY=str(stack.home / "none")).stdout
    assert "pseudonym key" in away
    for text in (held, told, document, away):
        assert pseudonym not in text
        assert subjects[0] not in text
    stack.release("one")


def test_a_gate_that_does_not_answer_is_named_and_nothing_is_claimed(streaming):
    """With a stopped producer it exits 3 and names the gate; once that has answered, it holds."""
    stack, store, _, stream = streaming
    # Not a worker: on a busy machine its lease of 10 s may have run out before the proof is there to look.
    stream.send_signal(signal.SIGSTOP)
    try:
        assert stack.run("switch", "engage", "--scope", "everything", "--reason", "t", "--id", "mute").returncode == 3
        told = run(stack, "mute", code=OPEN).stdout
        assert "NOT YET" in told
        assert "gates had applied it, not producer-" in told.splitlines()[-1]
    finally:
        stream.send_signal(signal.SIGCONT)
    wait_until(lambda: prove(stack.addresses, "mute").code == HELD, 30, "the producer answers")
    stack.release("mute")
    flows(store)


def test_a_block_that_slips_into_the_topic_is_found(people):
    """A minimised block with events, written into the topic while everything is stopped, is a violation."""
    stack, _, _ = people
    block = a_block(stack.addresses.kafka)
    engage(stack, "topic", "everything")
    assert prove(stack.addresses, "topic").code == HELD
    time.sleep(0.2)
    producer = Producer({"bootstrap.servers": stack.addresses.kafka})
    producer.produce("interactions.minimized", block, partition=0)
    assert producer.flush(10) == 0
    time.sleep(0.5)
    found = prove(stack.addresses, "topic")
    assert violated(found) == {("interactions.minimized", "held")}
    assert found.code == VIOLATED
    stack.release("topic")


def a_block(broker: str) -> bytes:
    """The largest minimised block of partition 0."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "t", "enable.partition.eof": True})
    consumer.assign([TopicPartition("interactions.minimized", 0, 0)])
    values: list[bytes] = []
    while True:
        message = consumer.poll(5)
        assert message is not None
        if message.error():
            break
        values.append(message.value() or b"")
    consumer.close()
    return max(values, key=len)


def test_what_cannot_be_looked_at_is_said(people):
    """A store that is away gives exit code 3 and no figure of its own; an unknown switch the nearest name."""
    stack, _, _ = people
    away = json.loads(run(stack, "dated", "--json", code=OPEN, TIDEGATE_STORE="http://127.0.0.1:1").stdout)
    assert "does not answer" in away["unseen"][0]
    assert {each["where"] for each in away["figures"]} <= {"interactions.raw", "interactions.minimized"}
    assert "did you mean `pointer`?" in run(stack, "pointr", code=1).stderr
    silent = run(stack, "pointer", code=1, TIDEGATE_KAFKA="127.0.0.1:1").stderr
    assert "did not answer within" in silent
    assert "Traceback" not in silent


class TestDeviceClocks:
    """Events dated inside the interval: which of them the queries take for a device's wrong clock."""

    BEGIN = int(time.time() * 1000) - 180 * MINUTE
    END = BEGIN + MINUTE

    def count(self, store: Store, session: str) -> dict[str, int]:
        """What the query over dates says, of one session that is stopped as a subject of its own."""
        query = next(q for q in proof_sql.queries(Covers("subject"), "s") if q.columns[0].name == "captured")
        times = {"engaged": self.BEGIN, "begin": self.BEGIN, "end": self.END, "until": self.END - 10}
        row = store.query_rows(proof_sql.fill(query.sql, times), {"pseudonyms": [session]}).dicts()[0]
        figures = figures_of(query.columns, row)
        return {each.column: each.count for each in figures if each.count}

    def put(self, store: Store, session: str, number: int, dated: int, appended: int | None) -> None:
        plant(store, self.END + MINUTE, dated=dated, session=session, number=number, subject=f"'{session}'")
        if appended is not None:
            receipt(store, session, number, appended)

    def test_what_the_broker_had_before_is_a_clock_ahead(self, people):
        """No event is captured after the broker has it."""
        _, store, _ = people
        self.put(store, "ahead", 0, self.BEGIN + 5_000, self.BEGIN - 100)
        assert self.count(store, "ahead") == {"ahead": 1}

    def test_what_came_later_is_a_clock_behind_where_the_session_shows_it_elsewhere(self, people):
        """Two seconds behind in every other batch too, an event dated a second before the release came after it."""
        _, store, _ = people
        self.put(store, "behind", 0, self.END - 1_000, self.END + 1_000)
        self.put(store, "behind", 1, self.END + 3_000, self.END + 5_000)
        assert self.count(store, "behind") == {"behind": 1}

    def test_what_came_later_was_captured_while_stopped_where_the_clock_is_right(self, people):
        """The same event in a session whose other batches came at once was kept back and let in."""
        _, store, _ = people
        self.put(store, "kept-back", 0, self.END - 1_000, self.END + 1_000)
        self.put(store, "kept-back", 1, self.END + 3_000, self.END + 3_050)
        assert self.count(store, "kept-back") == {"captured": 1}

    def test_without_another_batch_nothing_speaks_for_a_clock_behind(self, people):
        """Alone, it is taken for what it says; so is one that no receipt covers."""
        _, store, _ = people
        self.put(store, "alone", 0, self.END - 1_000, self.END + 1_000)
        self.put(store, "unknown", 0, self.END - 1_000, None)
        assert self.count(store, "alone") == {"captured": 1}
        assert self.count(store, "unknown") == {"captured": 1}

    def test_an_event_rounded_down_across_the_release_is_after_it(self, people):
        """Times are rounded down to the resolution, so the last of them before the release says nothing."""
        _, store, _ = people
        self.put(store, "rounded", 0, self.END - 5, self.END + 50)
        assert self.count(store, "rounded") == {}
