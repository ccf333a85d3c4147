"""Who said no is nobody's business: four people use a running stack, and then everything that others may read is read.

Mira consents; Teodor never does; Aylin withdraws half-way; Yuki pauses. Their names
stand in their homes, key files and machines' host names. Read are: every topic that
its catalogue entry lets a producer read; everything in the store that is no table,
which is what analysts may read; control.ack; the logs and metrics of every process.

What is checked is that none of this names a person, that identifiers stay on
control.consent and pseudonyms in the tables, that without the minimiser's key the one
does not give the other, and that no view shows a refusal, or a person's word, beside a
session or a pseudonym. Not checked, because it is not so: that nobody can tell when a
pseudonym has fallen silent (that shows, as it does when somebody goes home), or that
one allows fewer purposes than before (the rows say for which they may be used).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from infra import topics
from infra.control import reasons
from infra.control.identity import load_key, pseudonym_of, subject_of
from infra.control.reader import wall_ms
from infra.control.records import ACK_TOPIC, CONSENT_TOPIC, STANDING_TOPIC, Ack, decode
from infra.control.signing import public_of
from infra.store import Store
from producers.replay import to_csv
from producers.simulate import Person as Simulated
from tests.support import PURPOSE, Stack, start_stack, wait_until

pytestmark = pytest.mark.timeout(600)  # a stack, and a minute of work, on a machine that may be busy

NAMES = ("mira.okonjo", "teodor.lindqvist", "aylin.castellanos", "yuki.abramowicz")
NO_WORDS = frozenset(reason for reason in reasons.REASONS if reason) | {"not_consented", "withdrawn", "refused"}
"""What a cell must not say beside a session or a pseudonym."""
OLD_DROPS = """
    CREATE VIEW {name} AS SELECT session, counts.1 AS reason, counts.2 AS count
    FROM (SELECT session, maxMap(producer_dropped) AS by_reason FROM batches FINAL GROUP BY session)
    ARRAY JOIN CAST(by_reason, 'Array(Tuple(String, UInt64))') AS counts
"""


@dataclass
class Human:
    """One person, at a machine of their own that knows the stack's addresses and nothing else of it."""

    name: str
    folder: Path
    stack: Stack
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home = self.folder / "home" / self.name
        self.keys = self.home / "keys"
        recordings = self.home / "recordings" / self.name
        recordings.mkdir(parents=True)
        self.recording = recordings / "today.csv"
        self.recording.write_text(to_csv(Simulated(5, NAMES.index(self.name)).chunks(15.0), 900))
        self.key = self.keys / f"{self.name}.key"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def host(self) -> str:
        return f"{self.name.replace('.', '-')}-laptop"

    @cached_property
    def subject(self) -> str:
        return subject_of(load_key(self.key))

    @cached_property
    def pseudonym(self) -> str:
        return pseudonym_of(load_key(self.stack.home / "keys" / "pseudonym.key"), self.subject)

    def env(self) -> dict[str, str]:
        at, clean = self.stack.addresses, {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
        own = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, "TIDEGATE_HOME": str(self.home / "t")}
        return {**clean, **own, "TIDEGATE_KAFKA": at.kafka, "TIDEGATE_REGISTRY": at.registry, "TIDEGATE_LOG": at.log}

    def says(self, *words: str) -> dict:
        """Run a consent command with this person's own key."""
        done = subprocess.run(
            [*self.machine, sys.executable, "-m", "tidegate", "consent", *words, "--subject-key", str(self.key), "--json"],
            env=self.env(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def works(self) -> None:
        """Be recorded, from now until `stops`."""
        words = ("produce", "replay", str(self.recording), "--subject-key", str(self.keys), "--speed", "3")
        self.children.append(
            subprocess.Popen(
                [*self.machine, sys.executable, "-m", "tidegate", *words, "--metrics-port", str(self.port), "--json"],
                env=self.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip

    def stops(self) -> tuple[dict, str]:
        """End the recording; returns what the producer counted, and its log."""
        child = self.children.pop()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 130, err
        return json.loads(out), err

    @cached_property
    def machine(self) -> list[str]:
        """What gives a command this person's host name; nothing where the machine lets nobody do that."""
        for flags in (["--uts"], ["--uts", "--map-root-user"]):
            prefix = ["unshare", *flags, "sh", "-c", 'hostname "$0" && exec "$@"', self.host]
            if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
                return prefix
        return []

    @property
    def names(self) -> list[str]:
        """What names this person, in small letters: no process but their own may know it."""
        return [self.name, *self.name.split("."), str(self.home), *([self.host] if self.machine else [])]

    @property
    def secrets(self) -> list[bytes]:
        key = load_key(self.key)
        return [key, key.hex().encode()]


@dataclass
class Read:
    """What others may read, as bytes and, of the views, as rows."""

    people: dict[str, Human]
    topics: Mapping[str, list[tuple[bytes, bytes]]]
    views: Mapping[str, tuple[list[dict], bytes]]
    acks: list[tuple[bytes, bytes]]
    logs: Mapping[str, bytes]
    metrics: Mapping[str, bytes]
    producers: Mapping[str, dict]

    def all(self) -> Iterator[tuple[str, bytes]]:
        yield from ((topic, b"\n".join(b" ".join(each) for each in told)) for topic, told in self.topics.items())
        yield from self.beside_topics()

    def beside_topics(self) -> Iterator[tuple[str, bytes]]:
        """All but the topics that a producer reads."""
        yield from ((f"view {name}", raw) for name, (_, raw) in self.views.items())
        yield from self.of_operation()

    def of_operation(self) -> Iterator[tuple[str, bytes]]:
        """Acknowledgements, logs and metrics."""
        yield ACK_TOPIC, b"\n".join(b" ".join(each) for each in self.acks)
        yield from ((f"log of {name}", log) for name, log in self.logs.items())
        yield from ((f"metrics of {name}", told) for name, told in self.metrics.items())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    started = start_stack(tmp_path_factory.mktemp("stack") / "home")
    started.allow()
    yield started
    started.run("down")


@pytest.fixture(scope="module")
def read(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Half a minute of four people's work, and everything that others may read of it."""
    people = {name: Human(name, tmp_path_factory.mktemp("machine"), stack) for name in NAMES}
    mira, _, aylin, yuki = people.values()
    store = Store(stack.addresses)
    try:
        for willing in (mira, aylin, yuki):
            willing.says("grant", "--purpose", PURPOSE, "--create-key")
        for each in people.values():
            each.works()
        wait_until(
            lambda: set(_rows(store)) == {mira.pseudonym, aylin.pseudonym, yuki.pseudonym}, 120, "three are stored"
        )
        assert aylin.says("withdraw")["complete"]
        assert yuki.says("pause", "--for", "1h")["complete"]
        before = _rows(store)[mira.pseudonym]
        wait_until(lambda: _rows(store)[mira.pseudonym] > before + 100, 60, "Mira goes on")
        metrics = {name: _get(port) for name, port in _ports(stack).items()}
        metrics |= {f"{each.name}'s producer": _get(each.port) for each in people.values()}
        ended = {name: each.stops() for name, each in people.items()}
    finally:
        for each in people.values():
            for child in each.children:
                child.kill()
    stack.settled(60, expect=sum(told["captured"] for told, _ in ended.values()))
    logs = {path.name: path.read_bytes() for path in (stack.home / "logs").iterdir()}
    logs |= {f"{name}'s producer": err.encode() for name, (_, err) in ended.items()}
    readable = [topic.name for topic in topics.load() if "producer" in topic.readers]
    return Read(
        people,
        {name: _messages(stack, name) for name in readable},
        _views(stack),
        _messages(stack, ACK_TOPIC),
        logs,
        metrics,
        {name: told for name, (told, _) in ended.items()},
    )


def _rows(store: Store) -> dict[str, int]:
    """By pseudonym, how many events are stored."""
    return dict(store.query_rows("SELECT subject, count() FROM interactions GROUP BY subject").rows)


def _ports(stack: Stack) -> dict[str, int]:
    """The parts that serve metrics; the broker is not ours."""
    return {name: part["port"] for name, part in stack.parts().items() if part.get("port") and name != "broker"}


def _get(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read()


def _messages(stack: Stack, topic: str) -> list[tuple[bytes, bytes]]:
    """Every message that a topic holds now, key and value, with its headers in the value."""
    begun = wall_ms()
    reader = Consumer(
        {"bootstrap.servers": stack.addresses.kafka, "group.id": "test", "enable.partition.eof": True, "log_level": 0}
    )
    left = set(reader.list_topics(topic, timeout=10).topics[topic].partitions)
    reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in left])
    found = []
    while left:
        message = reader.poll(10)
        assert message is not None, f"{topic} cannot be read to its end"
        if message.error() is None:
            found.append((message.key() or b"", (message.value() or b"") + _headers(message)))
            if message.timestamp()[1] > begun:
                left.discard(message.partition())  # heartbeats have no end
        elif message.error().code() == KafkaError._PARTITION_EOF:
            left.discard(message.partition())
    reader.close()
    return found


def _headers(message: Message) -> bytes:
    return b"".join(name.encode() + (value or b"") for name, value in message.headers() or ())


def _views(stack: Stack) -> dict[str, tuple[list[dict], bytes]]:
    """Everything that is no table, as rows and as the store sends it."""
    store = Store(stack.addresses)
    named = store.query_rows(
        "SELECT name, engine FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%View'"
    )
    return {
        name: (store.query_rows(f"SELECT * FROM {name}").dicts() if engine == "View" else [], _raw(stack, name))
        for name, engine in named.rows
    }


def _raw(stack: Stack, name: str) -> bytes:
    at = stack.addresses
    query = f"SELECT * FROM {at.database}.{name} FORMAT RowBinary".encode()
    with urllib.request.urlopen(urllib.request.Request(at.store, data=query), timeout=30) as answer:
        return answer.read()


def _shows_refusals(views: Mapping[str, tuple[list[dict], bytes]], whose: set[str]) -> set[str]:
    """The views that show, in one row, a session or pseudonym and why something was refused or not allowed."""
    return {
        name
        for name, (rows, _) in views.items()
        for row in rows
        if whose & {str(cell) for cell in row.values()}
        and NO_WORDS & set(re.findall(r"\w+", json.dumps(list(row.values()), default=str)))
    }


def test_the_four_did_what_they_were_to_do(stack, read):
    """Without refusals of every sort nothing below would mean anything: the tables, which analysts do not read, hold them."""
    store = Store(stack.addresses)
    found = store.query_rows(
        "SELECT arrayJoin(mapKeys(producer_dropped)) AS reason, uniqExact(session) FROM batches GROUP BY reason"
    )
    assert dict(found.rows).keys() >= {reasons.NO_CONSENT, reasons.PAUSED}
    mira, teodor, aylin, yuki = (read.producers[name] for name in NAMES)
    assert mira["dropped"].keys() <= {reasons.SOURCE_NOT_ALLOWED}
    assert set(teodor["dropped"]) == {reasons.NO_CONSENT}
    assert teodor["dropped"][reasons.NO_CONSENT] == teodor["captured"] > 0
    assert aylin["dropped"][reasons.NO_CONSENT] > 0 < aylin["sent"]
    assert yuki["dropped"][reasons.PAUSED] > 0 < yuki["sent"]


def test_nothing_names_a_person(read):
    """No name, home, host name or key on any topic that a producer reads, in any view, acknowledgement, log or metric."""
    assert {CONSENT_TOPIC, "control.policy", "control.switch", "control.heartbeat"} <= set(read.topics)
    for where, told in read.all():
        small = told.lower()
        for person in read.people.values():
            assert not [name for name in person.names if name.encode() in small], where
            assert not [1 for secret in person.secrets if secret in told], where


def test_identifiers_stay_on_control_consent(stack, read):
    """They are there, and in no view, acknowledgement, log or metric; nor is a public key, which gives the identifier."""
    (consents,) = [told for where, told in read.all() if where == CONSENT_TOPIC]
    for name, person in read.people.items():
        assert (person.subject.encode() in consents) == (name != "teodor.lindqvist"), "only who said something"
        known = (person.subject.encode(), bytes.fromhex(person.subject), public_of(load_key(person.key)).encode())
        for where, told in read.beside_topics():
            assert not [1 for each in known if each in told], where
        for topic, messages in read.topics.items():
            assert topic == CONSENT_TOPIC or not any(known[0] in key + value for key, value in messages), topic


def test_pseudonyms_stay_out_of_what_a_producer_reads(stack, read):
    """They are in the tables and on control.standing, and on no topic that a producer reads, nor in any log or metric."""
    standing = b"".join(key for key, _ in _messages(stack, STANDING_TOPIC))
    for name, person in read.people.items():
        said_something = name != "teodor.lindqvist"
        assert (person.pseudonym.encode() in standing) == said_something
        assert (person.pseudonym.encode() in read.views["interactions"][1]) == said_something
        for topic, messages in read.topics.items():
            assert not any(person.pseudonym.encode() in key + value for key, value in messages), topic
        for where, told in read.of_operation():
            assert person.pseudonym.encode() not in told, where


def test_an_identifier_does_not_give_the_pseudonym(stack, read):
    """Not without the minimiser's key, which its file alone holds: no derivation that needs none gives any in the store."""
    key_file = stack.home / "keys" / "pseudonym.key"
    key = load_key(key_file)
    assert key_file.stat().st_mode & 0o077 == 0
    for where, told in read.all():
        assert key not in told, where
        assert key.hex().encode() not in told, where
    stored = {row["subject"] for row in read.views["interactions"][0]}
    assert len(stored) == 3
    for person in read.people.values():
        said, public = person.subject.encode(), bytes.fromhex(public_of(load_key(person.key)))
        guesses = {
            pseudonym_of(guess, person.subject) for guess in (b"", bytes(32), public, said, secrets.token_bytes(32))
        }
        for text in (said, bytes.fromhex(person.subject), public):
            digests = [hashlib.new(kind, text).hexdigest() for kind in ("sha256", "sha1", "md5", "blake2b")]
            digests += [hashlib.blake2b(text, digest_size=16, person=b"tidegate-subj").hexdigest()]
            digests += [hmac.new(b"tidegate", text, "sha256").hexdigest(), text.hex(), text[::-1].hex()]
            guesses |= {digest[:32] for digest in digests}
        assert not guesses & stored
        assert pseudonym_of(key, person.subject) == person.pseudonym


def test_no_view_shows_a_refusal_beside_a_session_or_a_pseudonym(stack, read):
    """Nor does who never consented stand in any. With the session back in `drops`, this check finds it."""
    sessions = dict(Store(stack.addresses).query_rows("SELECT session, count() FROM batches GROUP BY session").rows)
    people = {person.pseudonym for person in read.people.values()}
    assert len(sessions) >= 4
    assert _shows_refusals(read.views, people | set(sessions)) == set()
    shown = {row["session"] for rows, _ in read.views.values() for row in rows if "session" in row}
    assert shown, "the check would pass of nothing"
    never = [name for name in sessions if name not in shown]
    assert len(never) == 1, "Teodor's session is in no view"
    store = Store(stack.addresses)
    store.command(OLD_DROPS.format(name="drops_by_session"))
    try:
        assert _shows_refusals(_views(stack), people | set(sessions)) == {"drops_by_session"}
    finally:
        store.command("DROP VIEW drops_by_session")


def test_no_view_has_a_column_for_both(stack):
    """Where reasons are, no session and no subject is: also where today's rows show nothing yet."""
    found = Store(stack.addresses).query_rows(
        "SELECT table, groupArray(columns.name) FROM system.columns AS columns INNER JOIN system.tables AS tables "
        "ON tables.database = columns.database AND tables.name = columns.table "
        "WHERE columns.database = currentDatabase() AND engine LIKE '%View' GROUP BY table"
    )
    columns = {view: set(names) for view, names in found.rows}
    telling = {"reason", "reasons", "refused", "dropped", "producer_dropped"}
    assert {view for view, names in columns.items() if names & telling} == {"drops"}
    assert {view for view, names in columns.items() if names & {"session", "subject"}} >= {
        "interactions",
        "window_arrays",
    }
    assert not columns["drops"] & {"session", "subject", "raw_offset", "partition", "block_offset"}


def test_no_figure_tells_a_person_s_word(read):
    """Of four people, today, `drops` does not say that anybody withdrew or paused; no producer's metrics say so of its own."""
    told = {row["reason"] for row in read.views["drops"][0]}
    assert not told & {*reasons.OF_A_PERSON, "not_consented"}
    for name in read.people:
        labels = set(re.findall(r'reason="(\w+)"', read.metrics[f"{name}'s producer"].decode()))
        assert not labels & reasons.OF_A_PERSON, name


def test_a_producer_s_word_on_control_ack_is_nobody_s(read):
    """Neither its machine nor what it has read of consents, which would tell whose word that was; nobody's host is shown."""
    words = [decode(ACK_TOPIC, value) for _, value in read.acks]
    producers = [word for word in words if isinstance(word, Ack) and word.role == "producer"]
    assert len({word.gate for word in producers}) == 4
    for word in producers:
        assert (word.host, CONSENT_TOPIC in word.applied, CONSENT_TOPIC in word.why) == ("", False, False)
    assert len({(word.open, word.sources) for word in producers if word.lease_ms and word.open}) == 1, (
        "all say the same"
    )
