"""Raw batches to stored windows on real parts: nothing lost, nothing twice, whatever dies."""

from __future__ import annotations

import random
import time

import pytest

from streams.agents_window import FAULT_EXIT
from tests.path_stack import PARTITIONS, PathStack, Writer, wait

ANN, BOB = "a" * 32, "b" * 32
PERIOD_S = 0.02


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def write(writer: Writer, name: str, seconds: float, every=lambda: None) -> dict[str, int]:
    """Write a session a partition for some seconds, calling `every` between batches; return events by session."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for partition in range(PARTITIONS):
            writer.batch(f"{name}-{partition}", ANN if partition % 2 else BOB, partition, now_ms())
        every()
        time.sleep(PERIOD_S)
    return {session: count for session, count in writer.flush().items() if session.startswith(f"{name}-")}


def stored(path: PathStack, name: str) -> dict[str, tuple[int, int, int]]:
    """By session: events stored, different numbers, the highest number."""
    rows = path.store.query_rows(
        "SELECT session, count() AS n, uniqExact(number) AS different, max(number) AS highest "
        "FROM (SELECT session, arrayJoin(number) AS number FROM windows WHERE startsWith(session, {name:String})) "
        "GROUP BY session",
        {"name": f"{name}-"},
    ).rows
    return {row[0]: row[1:] for row in rows}


def expect(path: PathStack, name: str, events: dict[str, int]) -> None:
    """Every event written is stored, once; the receipts and the ledger say the same."""
    total = sum(events.values())
    wait(lambda: sum(row[0] for row in stored(path, name).values()) >= total, f"{total} events are stored", 60)
    assert stored(path, name) == {session: (count, count, count - 1) for session, count in events.items()}
    receipts = path.store.query_rows(
        "SELECT sum(count), sum(kept), sum(late) FROM batches FINAL WHERE startsWith(session, {name:String})",
        {"name": f"{name}-"},
    ).rows[0]
    assert receipts == (total, total, 0)
    highest = path.store.query_rows("SELECT partition, max(raw_offset) FROM batches FINAL GROUP BY partition").rows
    wait(
        lambda: dict(path.store.query_rows("SELECT partition, raw_through FROM ledger FINAL").rows) == dict(highest),
        "the ledger stands behind the last raw batch",
    )


def test_rows_are_what_was_written_and_workers_end_quickly(path, writer, workers):
    """All events arrive once, on the grid, under a pseudonym."""
    expect(path, "plain", write(writer, "plain", 2.0))
    rows = path.store.query_rows(
        "SELECT countIf(arrayExists(v -> v % 8 != 0, x)), uniqExact(subject), countIf(subject IN ({a:String}, {b:String})) "
        "FROM windows WHERE startsWith(session, 'plain-')",
        {"a": ANN, "b": BOB},
    ).rows
    assert rows == [(0, 2, 0)]


def test_workers_end_quickly(path, workers):
    """SIGTERM ends both workers in under 5 s with exit 0."""
    for name in ("minimise-1", "window-1"):
        began = time.monotonic()
        assert path.terminate(name) == 0, path.tail(name)
        assert time.monotonic() - began < 5


def test_kill_9_of_both_at_random_moments(path, writer, workers):
    """Minimiser and windower are killed several times while batches are written: zero lost, zero twice."""
    dice = random.Random(7)
    kills = [time.monotonic() + dice.uniform(0.2, 7.0) for _ in range(4)]

    def kill_when_due() -> None:
        for number, at in enumerate(kills):
            if at <= time.monotonic():
                kills[number] = float("inf")
                role = ("minimise", "window")[number % 2]
                path.kill(f"{role}-1")
                path.start_worker(role, ready=False)

    events = write(writer, "killed", 7.5, kill_when_due)
    expect(path, "killed", events)


def test_death_between_insert_and_ledger(path, writer, workers):
    """A windower that dies after an INSERT, before its ledger row, repeats it under the same token: nothing twice."""
    path.kill("window-1")
    path.start_worker("window", fault="after_insert")
    events = write(writer, "fault", 1.0)
    assert path.process("window-1").wait(120) == FAULT_EXIT
    path.start_worker("window")
    expect(path, "fault", events)


def test_two_windowers_and_a_rebalance(path, writer, workers):
    """A second windower takes partitions over in mid-stream, and gives them back when it is killed."""
    second = path.start_worker("window", 2, ready=False)
    events = {}
    for _ in range(60):
        events = write(writer, "shared", 1.0)
        if '"event": "partitions assigned"' in path.log_of(second):
            break
    write(writer, "shared", 2.0)
    path.kill(second)
    events = write(writer, "shared", 1.0)
    expect(path, "shared", events)


def test_what_cannot_be_read_is_a_dead_letter_and_stops_nothing(path, writer, workers):
    """Random bytes, an unknown schema and a cut-off record are recorded without their payload; the rest goes through."""
    before = path.store.query_rows("SELECT count() FROM deadletters FINAL").rows[0][0]
    for value in (b"\x99secret-payload", b"\x00\x00\x00\xff\xff" + b"x" * 20, b"\x00" + bytes(4) + b"\x01"):
        writer.raw(0, value, now_ms())
    expect(path, "poison", write(writer, "poison", 0.5))
    rows = path.store.query_rows("SELECT reason, size, length(digest) FROM deadletters FINAL ORDER BY raw_offset").rows
    assert len(rows) == before + 3
    assert {row[2] for row in rows} == {64}
    assert "secret-payload" not in path.log_of("minimise-1")


def test_a_store_that_is_away_is_waited_for(path, writer, workers):
    """While the store is down nothing is lost, nobody leaves the group; it is said once that it is away, and where."""
    path.kill("store")
    events = write(writer, "away", 3.0)
    # Longer than the session time-out: heartbeats must have gone on.
    wait(lambda: path.metric("window-1", "tidegate_windower_watermark_lag_seconds") > 0, "metrics are served")
    time.sleep(8.0)
    path.start_service("store")
    path.wait_store()
    expect(path, "away", events)
    log = path.log_of("window-1")
    # Not once an attempt. Coming back on a loaded machine it may time out, and be away again.
    assert log.count("the store is away") == log.count("the store is back") >= 1
    assert path.addresses.store in log
    assert "Traceback" not in log
    assert path.process("window-1").poll() is None


@pytest.mark.parametrize("role", ["minimise", "window"])
def test_a_broker_that_is_not_there_is_named(path, role):
    """Without a broker a worker waits, names the address once, prints no traceback and still ends on SIGTERM."""
    name = path.start_worker(role, 9, ready=False, kafka="127.0.0.1:1")
    wait(lambda: "127.0.0.1:1" in path.log_of(name), "the address is named")
    time.sleep(1.0)
    assert path.log_of(name).count("is away") == 1
    assert path.terminate(name) == 0
    assert "Traceback" not in path.log_of(name)
