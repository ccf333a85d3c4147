"""Our tables on a real engine: repeats, roll-ups, views."""

from __future__ import annotations

import os
import threading
import uuid

import pyarrow as pa
import pytest

from infra import migrations
from infra.store import Store, StoreError
from tests.contract.store.conftest import store_at

HOUR = 1_790_000_000_000 // 3_600_000 * 3_600_000
DAY = 86_400_000
EVENT = ("number", "offset_ms", "kind", "application", "x", "y", "button", "pressed", "wheel_x", "wheel_y", "key_class",
         "role")  # fmt: skip


def window(start: int, session: str, subject: str, offsets: list[int], **more) -> dict:
    """One row: pointer moves, the last event a key, in the application `editor`."""
    n = len(offsets)
    row = {
        "log": "1", "partition": 0, "slot": start, "window_kind": "tumbling", "window_start": start,
        "window_end": start + 10_000, "step_ms": 10_000, "session": session, "subject": subject, "policy": "p",
        "policy_version": 1, "notice": "n1", "purposes": ["training"], "screen_width": 1920, "screen_height": 1080,
        "applications": ["", "editor"], "events": n, "stored": n, "refused": [],
        **{name: [0] * n for name in EVENT},
        "number": list(range(n)), "offset_ms": offsets, "kind": [5] * (n - 1) + [8], "application": [1] * n,
        "x": list(range(n)), "key_class": [0] * (n - 1) + [1],
    }  # fmt: skip
    return {**row, **more}


def rows(*given: dict) -> pa.Table:
    columns = {name: [row[name] for row in given] for name in given[0]}
    types = {"refused": pa.map_(pa.string(), pa.uint64()), **dict.fromkeys(EVENT, pa.list_(pa.int64()))}
    return pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})


@pytest.fixture
def fresh(store_address):
    """Our tables in a database of this test's own."""
    store = store_at(store_address, f"tidegate_test_{os.getpid()}_{uuid.uuid4().hex[:8]}")
    migrations.migrate(store, migrations.load())
    yield store
    store.command(f"DROP DATABASE {migrations.quoted(store.database)}", use_database=False)


def one(store: Store, sql: str) -> tuple:
    (row,) = store.query_rows(sql).rows
    return row


def test_every_column_and_table_says_what_it_is(migrated):
    """A column without a comment, or a table without one, fails."""
    silent = migrated.query_rows(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND comment = '' "
        "AND table NOT LIKE '%\\_feed' UNION ALL "
        "SELECT name, '' FROM system.tables WHERE database = currentDatabase() AND comment = ''"
    )
    assert silent.rows == []


def test_every_table_but_the_ledger_expires(migrated):
    """TTL on each table that grows: not the ledger (a row a partition) nor the migrations."""
    found = migrated.query_rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree' "
        "AND create_table_query NOT LIKE '% TTL %' ORDER BY name"
    )
    assert [name for (name,) in found.rows] == ["ledger", "migrations"]


def test_a_repeated_window_counts_once_everywhere(fresh):
    """The same token again: windows and both roll-ups stay as they were; a twin with another token counts."""
    given = rows(*(window(HOUR, f"s{i}", f"p{i}", [0, 500, 2500]) for i in range(6)))
    for token in ("a", "a", "a", "b"):
        fresh.insert_arrow("windows", given, token)
    assert one(fresh, "SELECT count(), sum(stored) FROM windows") == (12, 36)
    assert one(fresh, "SELECT sum(events), max(subjects) FROM kinds_by_hour") == (36, 6)
    # Seconds 0 and 2 of six sessions, twice.
    assert one(fresh, "SELECT active_seconds, subjects, application FROM activity_by_hour") == (24, 6, "editor")


def test_an_event_of_hopping_windows_counts_once(fresh):
    """Windows of 10 s every 5 s: an event stands in two, and counts in the one whose first step holds it."""
    common = {"window_kind": "hopping", "step_ms": 5_000}
    for i in range(5):
        fresh.insert_arrow(
            "windows",
            rows(
                window(HOUR, f"s{i}", f"p{i}", [1000, 7000], stored=1, **common),
                window(HOUR + 5_000, f"s{i}", f"p{i}", [2000, 8000], stored=1, **common),
            ),
            f"t{i}",
        )
    assert one(fresh, "SELECT sum(events) FROM kinds_by_hour") == (10,)
    assert one(fresh, "SELECT sum(active_seconds) FROM activity_by_hour") == (10,)
    assert one(fresh, "SELECT count(), sum(stored) FROM interactions, windows WHERE 0") == (0, 0)
    assert one(fresh, "SELECT count() FROM interactions") == one(fresh, "SELECT sum(stored) FROM windows") == (10,)


def test_no_roll_up_shows_fewer_than_five_subjects(fresh):
    """Four people show nothing; the fifth opens the group."""
    for i in range(5):
        fresh.insert_arrow("windows", rows(window(HOUR, f"s{i}", f"p{i}", [0, 1])), f"t{i}")
        for view in ("kinds_by_hour", "activity_by_hour"):
            assert one(fresh, f"SELECT count() > 0 FROM {view}") == (i == 4,), (view, i)


def receipts(session: str, day: int, **more: list) -> pa.Table:
    """Two receipts of one session, `day` days after 1970-01-01."""
    counts, at = pa.map_(pa.string(), pa.uint64()), 100 * day + 10 * int(session[1:] or 0)
    maps = {name: pa.array(more.get(name, [[], []]), counts) for name in ("producer_dropped", "dropped")}
    return pa.table({
        "log": ["1", "1"], "partition": pa.array([0, 0], pa.int32()), "session": [session] * 2,
        "raw_offset": [at, at + 1], "captured": [10, 20], **maps,
        "append_time": [day * DAY, day * DAY + 1],
    })  # fmt: skip


def test_drops_are_counted_by_day_stage_and_reason(fresh):
    """Producer, minimiser and windower add up; a producer's running counts give each day what they grew by."""
    nothing = window(HOUR, "s", "p", [], refused=[("stale", 4)], kind=[], key_class=[])
    fresh.insert_arrow("windows", rows(nothing), "t")
    for _ in range(2):
        first = {
            "producer_dropped": [[("buffer_full", 2)], [("buffer_full", 5)]],
            "dropped": [[("epoch", 1)], [("epoch", 3)]],
        }
        fresh.insert_arrow("batches", receipts("s", 3, **first), None)
        later = [[("buffer_full", 5)], [("buffer_full", 6), ("spool_full", 1)]]
        fresh.insert_arrow("batches", receipts("s", 5, producer_dropped=later), None)
    found = fresh.query_rows(
        "SELECT toInt32(day), stage, reason, count, sessions FROM drops ORDER BY stage, day, reason"
    )
    today = one(fresh, "SELECT toInt32(toDate(now('UTC')))")[0]
    assert found.rows == [
        (3, "minimiser", "epoch", 4, 1), (3, "producer", "buffer_full", 5, 1), (5, "producer", "buffer_full", 1, 1),
        (5, "producer", "spool_full", 1, 1), (today, "windower", "stale", 4, 1),
    ]  # fmt: skip
    assert one(fresh, "SELECT count() FROM interactions") == (0,)
    assert one(fresh, "SELECT count() FROM window_arrays") == (0,)


def test_no_view_says_who_said_no(fresh):
    """What a person said is one word, shown of five sessions or more, of days that are over; a new reason no sooner."""
    today = one(fresh, "SELECT toInt32(toDate(now('UTC')))")[0]
    said = ("no_consent", "notice_changed", "paused", "switch", "source_not_allowed", "something_new")
    for session in range(5):
        assert one(fresh, "SELECT count() FROM drops") == (0,), session
        each = {"dropped": [[(reason, 1) for reason in said], []]}
        for day in (3, today):
            fresh.insert_arrow("batches", receipts(f"s{session}", day, **each), None)
    found = fresh.query_rows("SELECT toInt32(day), reason, count, sessions FROM drops ORDER BY reason")
    assert found.rows == [
        (3, "not_consented", 15, 5), (3, "something_new", 5, 5), (3, "source_not_allowed", 5, 5), (3, "switch", 5, 5),
    ]  # fmt: skip


def test_interactions_show_names_and_times(fresh):
    """Codes as names, the application by its index, the time from window and offset."""
    fresh.insert_arrow("windows", rows(window(HOUR, "s", "p", [0, 1234])), "t")
    found = fresh.query_rows(
        "SELECT kind, application, key_class, button, role, x, toUnixTimestamp64Milli(time) FROM interactions ORDER BY time"
    )
    assert found.rows == [
        ("pointer_move", "editor", "none", "none", "none", 0, HOUR),
        ("key", "editor", "letter", "none", "none", 1, HOUR + 1234),
    ]


def test_columns_of_unequal_length_are_refused(fresh):
    """Nothing of the INSERT is stored."""
    for name in EVENT:
        crooked = window(HOUR, "s", "p", [0, 1])
        crooked[name] = [0, 0, 0]
        with pytest.raises(StoreError) as refused:
            fresh.insert_arrow("windows", rows(window(HOUR, "t", "q", [0]), crooked), name)
        assert refused.value.error_code == 469
    assert one(fresh, "SELECT count() FROM windows") == (0,)


def test_the_ledger_keeps_the_furthest_row(fresh):
    """A row a partition: the one with the greatest replay_from."""
    for at in (5, 9, 7):
        entry = {"log": ["1"], "partition": [0], "closed_through": [at], "replay_from": [at]}
        fresh.insert_arrow("ledger", pa.table(entry), None)
    assert fresh.query_rows("SELECT replay_from FROM ledger FINAL").rows == [(9,)]


def test_migrating_again_and_twice_at_once_changes_nothing(store_address):
    """Two migrators at the same time, then a third: the tables stand once, each file is recorded once."""
    stores = [store_at(store_address, f"tidegate_twice_{os.getpid()}") for _ in range(2)]
    files = migrations.load()
    failures: list[BaseException] = []

    def run(store: Store) -> None:
        try:
            migrations.migrate(store, files)
        except BaseException as error:  # noqa: BLE001 - asserted on in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [row.name for row in migrations.applied_in(stores[0])] == [file.name for file in files]
    assert migrations.migrate(stores[0], files) == []
    stores[0].command(f"DROP DATABASE {migrations.quoted(stores[0].database)}", use_database=False)
