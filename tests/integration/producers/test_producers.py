"""Producers against a real broker, registry and authority."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.control.keeper import GateKeeper
from producers import Recorder
from producers.producer import Producer
from producers.settings import ProducerSettings
from producers.simulate import LABELS
from tests.support import wait_until

ROOT = Path(__file__).parents[3]
SUBJECT = "ab" * 16
RECORDINGS = "producers/recordings"
Run = Callable[..., Any]
QUICK = ProducerSettings(delivery_timeout_ms=1500)


def test_a_replay_at_full_speed_loses_nothing(bench: Any, produce: Run, subjects: Run) -> None:
    """Every recorded event is on the topic, in order, and each session's books balance."""
    bench.allow(subjects("replay", RECORDINGS))
    told = produce("replay", RECORDINGS, "--speed", "max")
    rows = sum(len(path.read_text().splitlines()) - 1 for path in (ROOT / RECORDINGS).rglob("*.csv"))
    assert told["captured"] == told["sent"] == rows + 2 * 3
    assert told["dropped"] == {}
    raw = bench.raw(final=3)
    assert raw.in_order()
    assert all(captured == dropped + events for captured, dropped, events in raw.books().values())
    assert sum(events for _, _, events in raw.books().values()) == told["captured"]
    assert all(key == header["session"] for key, header in zip(raw.keys, raw.headers, strict=True))


def test_a_workforce_sends_only_what_was_agreed_to(bench: Any, produce: Run, subjects: Run) -> None:
    """Who consents to nothing leaves counts alone, and no label of anybody's screen is on the topic."""
    people = subjects("simulate", "--people", "12", "--seed", "5")
    bench.allow(people[1:])
    told = produce("simulate", "--people", "12", "--seed", "5", "--minutes", "1", "--speed", "10")
    raw = bench.raw(final=12)
    books = raw.books()
    assert (
        sum(captured for captured, _, _ in books.values())
        == told["captured"]
        == told["sent"] + sum(told["dropped"].values())
    )
    assert all(captured == dropped + events for captured, dropped, events in books.values())
    assert set(told["dropped"]) == {"no_consent"}
    of_refuser = [
        count
        for header, count in zip(raw.headers, raw.decoded.counts["event"], strict=True)
        if header["subject"] == people[0]
    ]
    assert of_refuser
    assert not any(of_refuser)
    everything = b"".join(raw.values)
    assert not [label for label in LABELS[1:] if label.encode() in everything]


@pytest.fixture
def away(bench: Any, tmp_path: Path) -> Iterator[Any]:
    """A second broker, for the batches alone: the control state stays fresh while this one is away."""
    other = type(bench)(tmp_path / "away", registry_port=bench.registry_port)
    other.home.mkdir()
    bench.allow([SUBJECT])
    yield other
    other.end("broker")


@pytest.fixture
def open_producer(bench: Any, away: Any) -> Iterator[Callable[..., Producer]]:
    """Open producers whose gate listens to the first broker and whose batches go to the second."""
    made: list[Producer] = []

    def make(settings: ProducerSettings = QUICK) -> Producer:
        producer = Producer(away.addresses, settings, gate=GateKeeper(bench.addresses, "producer", "consent"))
        made.append(producer)
        assert producer.wait_ready(15), producer.why_closed
        return producer

    yield make
    for producer in made:
        producer.close(0.5)


def record(producer: Producer, count: int) -> Recorder:
    recorder = Recorder(subject=SUBJECT, producer=producer)
    recorder.start()
    for number in range(count):
        recorder.pointer_move(number, 0)
    return recorder


def test_what_kafka_cannot_take_is_spooled_and_sent_by_the_next_start(away: Any, open_producer: Run) -> None:
    """With no broker at all, close leaves everything on disk and says so; a later process sends it in order."""
    producer = open_producer()
    recorder = record(producer, 500)
    recorder.close()
    report = producer.close(3)
    assert (report.sent, report.unsent, report.captured) == (0, 0, 502)
    assert report.spooled > 502 // 64
    away.start_broker()
    heir = open_producer()
    wait_until(lambda: not heir.report().spooled, 20, "the spool is empty")
    assert heir.close(3).sent == 502
    raw = away.raw(final=1)
    assert raw.in_order()
    assert list(raw.books().values()) == [(502, 0, 502)]
    assert raw.decoded.columns["x"].tolist()[1:-1] == list(range(500))


def test_a_broker_that_comes_back_gets_everything_in_order(away: Any, open_producer: Run) -> None:
    """Batches spooled while it was away, and those recorded meanwhile, arrive in the order of their numbers."""
    producer = open_producer()
    recorder = record(producer, 200)
    wait_until(lambda: producer.report().spooled, 15, "batches are spooled")
    for number in range(200, 400):
        recorder.pointer_move(number, 0)
    away.start_broker()
    wait_until(lambda: not producer.report().spooled and producer.report().sent >= 300, 30, "the spool is empty")
    for number in range(400, 500):
        recorder.pointer_move(number, 0)
    recorder.close()
    assert producer.close(10).complete
    raw = away.raw(final=1)
    assert raw.in_order()
    assert raw.decoded.columns["x"].tolist()[1:-1] == list(range(500))


def test_a_broker_that_hangs_loses_nothing(away: Any, open_producer: Run) -> None:
    """A stopped broker may have taken what it did not acknowledge: batches may be there twice, never not at all."""
    away.start_broker()
    producer = open_producer()
    recorder = record(producer, 100)
    wait_until(lambda: producer.report().sent >= 64, 20, "the first batches are sent")
    away.parts["broker"].send_signal(signal.SIGSTOP)
    for number in range(100, 300):
        recorder.pointer_move(number, 0)
    wait_until(lambda: producer.report().spooled, 20, "batches are spooled")
    away.parts["broker"].send_signal(signal.SIGCONT)
    wait_until(lambda: not producer.report().spooled, 30, "the spool is empty")
    recorder.close()
    assert producer.close(10).complete
    assert list(away.raw(final=1).books().values()) == [(302, 0, 302)]


def test_a_broker_that_dies_with_a_batch_in_flight_gets_it_after_its_restart(away: Any, open_producer: Run) -> None:
    """A broker that forgot the client for good breaks the client: a new one sends all that was not acknowledged."""
    away.start_broker()
    producer = open_producer(ProducerSettings(delivery_timeout_ms=20_000))
    recorder = record(producer, 100)
    wait_until(lambda: producer.report().sent >= 101, 20, "the first batches are sent")
    away.parts["broker"].send_signal(signal.SIGSTOP)
    for number in range(100, 300):
        recorder.pointer_move(number, 0)
    wait_until(lambda: producer.report().captured == 301 and producer.report().unsent, 20, "batches are in flight")
    away.end("broker")
    away.start_broker()
    wait_until(lambda: producer.report().sent >= 301 and not producer.report().unsent, 30, "all of them are sent")
    recorder.close()
    assert producer.close(10).complete
    raw = away.raw(final=1)
    assert raw.decoded.columns["x"].tolist()[:-1] == list(range(100, 300))


def test_a_full_spool_refuses_the_newest_and_the_books_say_so(away: Any, open_producer: Run) -> None:
    """What does not fit is counted as spool_full in a later batch; the session's books still balance."""
    settings = ProducerSettings(delivery_timeout_ms=1000, spool_bytes=20_000, batch_age_s=0.1)
    producer = open_producer(settings)
    recorder = record(producer, 200)
    wait_until(lambda: producer.report().spooled, 15, "batches are spooled")
    for number in range(5000):
        recorder.pointer_move(number, 0)
    wait_until(lambda: producer.report().dropped.get("spool_full"), 15, "the spool is full")
    away.start_broker()
    wait_until(lambda: not producer.report().spooled, 30, "the spool is empty")
    recorder.close()
    report = producer.close(10)
    assert report.complete
    ((captured, dropped, events),) = away.raw(final=1).books().values()
    assert captured == dropped + events == report.captured == 5202
    assert report.dropped == {"spool_full": dropped}


def test_a_killed_process_leaves_a_spool_that_the_next_one_sends(bench: Any, away: Any, open_producer: Run) -> None:
    """kill -9 while batches lie on disk: the next start sends every whole one."""
    child = (
        "import sys, time\n"
        "from infra.addresses import Addresses\n"
        "from infra.control.keeper import GateKeeper\n"
        "from producers import Recorder\n"
        "from producers.producer import Producer\n"
        "from producers.settings import ProducerSettings\n"
        "from pathlib import Path\n"
        "home, kafka, control, registry = sys.argv[1:]\n"
        "gate = GateKeeper(Addresses(home=Path(home), kafka=control), 'producer', 'consent')\n"
        "here = Addresses(home=Path(home), kafka=kafka, registry=registry)\n"
        "producer = Producer(here, ProducerSettings(delivery_timeout_ms=1000), gate=gate)\n"
        f"recorder = Recorder(subject='{SUBJECT}', producer=producer)\n"
        "recorder.start(10)\n"
        "for number in range(640): recorder.pointer_move(number, 0)\n"
        "while producer.report().spooled < 10: time.sleep(0.05)\n"
        "print('spooled', flush=True)\n"
        "time.sleep(60)\n"
    )
    there = away.addresses
    process = subprocess.Popen(
        [sys.executable, "-c", child, str(there.home), there.kafka, bench.addresses.kafka, there.registry],
        stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"spooled\n"
    finally:
        process.kill()
        process.wait(10)
    segment = max((there.home / "spool" / "0").glob("*.seg"))
    with segment.open("ab") as file:
        file.write(b"\x40\x00\x00\x00half a rec")
    away.start_broker()
    heir = open_producer()
    wait_until(lambda: not heir.report().spooled, 20, "the spool is empty")
    report = heir.close(3)
    assert report.spool_damage_bytes == 14
    assert report.sent == 641


def test_without_a_registry_batches_wait_unframed(bench: Any, produce: Run, subjects: Run) -> None:
    """The schema id may come late: what was spooled without it is sent once the registry answers."""
    bench.allow(subjects("replay", RECORDINGS))
    bench.end("registry")
    told = produce("replay", RECORDINGS, "--speed", "max", code=3)
    assert told["sent"] == 0
    assert told["spooled"] > 0
    bench.start_registry()
    again = produce("replay", f"{RECORDINGS}/user1", "--speed", "max")
    assert again["sent"] > told["captured"]
    assert all(captured == dropped + events for captured, dropped, events in bench.raw(final=4).books().values())


def test_an_engaged_switch_stops_capturing_and_a_release_starts_a_new_epoch(bench: Any) -> None:
    """Between engaging and release nothing is captured; what follows carries the new epoch."""
    bench.allow([SUBJECT])
    recorder = Recorder(subject=SUBJECT, addresses=bench.addresses)
    assert recorder.start(15), recorder.refusal
    recorder.pointer_move(1, 1)
    wait_until(lambda: recorder._producer.report().sent >= 2, 20, "the first events are sent")
    engaged = bench.engage()
    wait_until(lambda: recorder.refusal == "switch", 5, "the recorder stops")
    for _ in range(10):
        recorder.pointer_move(2, 2)
    bench.release(engaged)
    wait_until(lambda: not recorder.refusal, 5, "the recorder may go on")
    recorder.pointer_move(3, 3)
    report = recorder.close(10)
    assert report is not None
    assert report.dropped == {"switch": 10}
    raw = bench.raw(final=1)
    assert 2 not in raw.decoded.columns["x"].tolist()
    epochs = {int(str(h["epoch"])) for h, n in zip(raw.headers, raw.decoded.counts["event"], strict=True) if n}
    assert epochs == {0, 1}


def test_no_authority_means_nothing_is_captured(bench: Any) -> None:
    """The command says that the gate stayed closed, and where to look; no traceback."""
    bench.end("authority")
    done = subprocess.run(
        [sys.executable, "-m", "tidegate", "produce", "replay", RECORDINGS, "--wait", "1.5"],
        env=bench.env(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the gate stayed closed for 1.5 s, so nothing was captured" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_producer_serves_metrics_when_asked(bench: Any, subjects: Run) -> None:
    """/metrics counts what was captured, /healthz is healthy, and SIGTERM ends it in order."""
    bench.allow(subjects("simulate", "--people", "3", "--seed", "8"))
    port = type(bench)(bench.home).kafka_port
    process = subprocess.Popen(
        [sys.executable, "-m", "tidegate", "produce", "simulate", "--people", "3", "--seed", "8", "--minutes", "5",
         "--metrics-port", str(port), "--json"],
        env=bench.env(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def delivered() -> bool:
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2).read().decode()
        except OSError:
            return False
        found = re.search(r"^tidegate_producer_batches_delivered_total (\d+)", text, re.MULTILINE)
        return found is not None and int(found[1]) > 0

    try:
        wait_until(delivered, 30, "batches are delivered and counted")
        assert json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2))["healthy"]
    finally:
        process.terminate()
    out, errors = process.communicate(timeout=40)
    assert process.returncode == 130, errors
    told = json.loads(out)
    assert told["complete"]
    assert told["captured"] == told["sent"] + sum(told["dropped"].values()) > 0


LEAN = """
import sys, time
BLOCKED = set("faust mode aiokafka clickhouse_connect pyarrow matplotlib chdb starlette uvicorn pydantic pynput Xlib".split())
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Block())
from producers import Recorder
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
recorder = Recorder(subject=sys.argv[1], screen=(1920, 1080))
assert recorder.start(15), recorder.refusal
most, number, until = 0, 0, time.monotonic() + 5
while time.monotonic() < until:
    for _ in range(40):
        number += 1
        recorder.pointer_move(number % 1000, number % 700)
    recorder.key("letter", pressed=True)
    recorder.focus("app.editor")
    time.sleep(0.02)
    most = max(most, resident())
report = recorder.close(10)
assert report.complete and not report.dropped, report
print(most)
"""


def test_the_base_install_runs_a_producer_in_60_mb(bench: Any) -> None:
    """A real process without the extras, recording 2,000 events a second, stays under 60 MB resident."""
    bench.allow([SUBJECT])
    done = subprocess.run(
        [sys.executable, "-c", LEAN, SUBJECT],
        env=bench.env(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    most = int(done.stdout)
    assert most <= 60e6, f"{most / 1e6:.1f} MB"
