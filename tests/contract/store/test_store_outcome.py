"""What an error of the store says of the call: whether anything of it can still happen."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pyarrow as pa
import pytest

from infra.addresses import Addresses
from infra.store import Store, StoreError
from tests.contract.store.conftest import store_at
from tests.line import Line, line_to

ROWS = pa.table({"a": pa.array([1], pa.int32())})


@pytest.fixture
def table(store_address: str) -> Iterator[str]:
    name = f"o_{uuid.uuid4().hex}"
    store = store_at(store_address, "default")
    store.command(
        f"CREATE TABLE {name} (a Int32, CONSTRAINT small CHECK a < 10) ENGINE = MergeTree ORDER BY a "
        "SETTINGS non_replicated_deduplication_window = 100"
    )
    yield name
    store.command(f"DROP TABLE {name}")


@pytest.fixture
def line(store_address: str) -> Iterator[Line]:
    with line_to(store_address) as line:
        yield line


def once_at(line: Line, tmp_path) -> Store:
    return Store(Addresses(home=tmp_path, store=line.address, database="default"), deadline_s=0)


def count(store_address: str, table: str) -> int:
    return store_at(store_address, "default").query_rows(f"SELECT count() FROM {table}").rows[0][0]


@pytest.mark.parametrize(("mode", "stored"), [("lose_request", 0), ("lose_answer", 1)])
def test_an_insert_whose_connection_is_lost_may_have_happened(store_address, table, line, tmp_path, mode, stored):
    """Both look alike from here; and the client does not send it a second time by itself."""
    store = once_at(line, tmp_path)
    store.insert_arrow(table, ROWS, "before")
    line.set(mode)
    begun = line.requests
    with pytest.raises(StoreError) as lost:
        store.insert_arrow(table, ROWS, "lost")
    assert (lost.value.over, lost.value.transient) == (False, True)
    assert line.requests == begun + 1
    assert count(store_address, table) == 1 + stored
    line.set("pass")
    store.insert_arrow(table, ROWS, "lost")
    assert count(store_address, table) == 2


def test_an_insert_that_nobody_took_is_over(table, line, tmp_path):
    """Nobody listens: nothing was sent, be it the first call or a later one."""
    used = once_at(line, tmp_path)
    used.insert_arrow(table, ROWS, "before")
    line.set("refuse")
    for store in (used, once_at(line, tmp_path)):
        with pytest.raises(StoreError) as refused:
            store.insert_arrow(table, ROWS, "refused")
        assert (refused.value.over, refused.value.transient) == (True, True)


def test_a_store_that_breaks_off_before_it_is_asked_has_nothing_to_happen(table, line, tmp_path):
    """The connection is lost while the client introduces itself: the INSERT was never sent."""
    line.set("lose_request")
    with pytest.raises(StoreError) as lost:
        once_at(line, tmp_path).insert_arrow(table, ROWS, None)
    assert (lost.value.over, line.requests) == (True, 0)


def test_an_insert_that_the_store_refuses_is_over(store_address, table, line, tmp_path):
    """It has answered: a table that is not there, a constraint that does not hold."""
    store = once_at(line, tmp_path)
    with pytest.raises(StoreError) as unknown:
        store.insert_arrow("no_such_table", ROWS, None)
    with pytest.raises(StoreError) as violated:
        store.insert_arrow(table, pa.table({"a": pa.array([11], pa.int32())}), None)
    assert unknown.value.over
    assert violated.value.over
    assert count(store_address, table) == 0


def test_of_several_attempts_one_that_may_have_happened_is_enough(table, line, tmp_path, monkeypatch):
    """A store that repeats by itself says it of them all, not of the last one alone."""
    store = Store(Addresses(home=tmp_path, store=line.address, database="default"), deadline_s=1.0)
    store.insert_arrow(table, ROWS, "before")
    line.set("lose_request")
    monkeypatch.setattr("infra.store.time.sleep", lambda _: line.set("refuse"))
    with pytest.raises(StoreError) as lost:
        store.insert_arrow(table, ROWS, "lost")
    assert not lost.value.over
