"""What a ClickHouse server must do for clickhouse-connect, and our adapter on top of it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_connect.driver.external import ExternalData

from infra.addresses import Addresses
from infra.errors import TidegateError
from infra.store import Store, StoreError
from tests.contract.store.conftest import store_at


@pytest.fixture
def connect(store_address):
    """Opens clickhouse-connect's own client."""
    url = urlsplit(store_address)
    opened = []

    def client(**options):
        opened.append(clickhouse_connect.get_client(host=url.hostname, port=url.port, **options))
        return opened[-1]

    yield client
    for each in opened:
        each.close()


@pytest.fixture
def table(store_address):
    name = f"c_{uuid.uuid4().hex}"
    store = store_at(store_address, "default")
    store.command(
        f"CREATE TABLE {name} (a Int32, b String, c Array(UInt8), m Map(LowCardinality(String), UInt64), "
        "d DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100"
    )
    yield name
    store.command(f"DROP TABLE {name}")


NOW = datetime(2026, 11, 1, 12, 0, 0, 123000, tzinfo=UTC)


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_rows_go_in_and_come_out(connect, table, compress):
    """Native both ways, under every compression of the client's."""
    client = connect(compress=compress)
    rows = [[i, f"é{i}", [1, 2], {"x": i}, NOW] for i in range(1000)]
    assert client.insert(table, rows, column_names=["a", "b", "c", "m", "d"]).written_rows == 1000
    assert [list(row) for row in client.query(f"SELECT * FROM {table} ORDER BY a", tz_mode="aware").result_rows] == rows
    with client.query_row_block_stream("SELECT number FROM numbers(200000)") as blocks:
        assert sum(len(block) for block in blocks) == 200000


def test_arrow_goes_in_and_comes_out(connect, table):
    """Arrow both ways, whole and streamed."""
    client = connect()
    given = pa.table(
        {"a": pa.array([1, 2], pa.int32()), "b": ["x", "y"], "c": pa.array([[1], []], pa.list_(pa.uint8()))}
    )
    client.insert_arrow(table, given)
    back = client.query_arrow(f"SELECT a, b, c FROM {table} ORDER BY a")
    assert back.to_pydict() == given.to_pydict()
    with client.query_arrow_stream(f"SELECT a FROM {table}") as parts:
        assert sum(part.num_rows for part in parts) == 2


def test_parameters_commands_and_empty_results(connect, table):
    """Bound parameters, scalars, LIMIT 0 and results without rows."""
    client = connect()
    assert client.command("SELECT {x:Int32} + 1", parameters={"x": 41}) == 42
    assert client.query("SELECT {s:String} AS s", parameters={"s": "it's \\ \t"}).result_rows == [("it's \\ \t",)]
    assert client.query("SELECT 1 AS one LIMIT 0").column_names == ("one",)
    assert client.query(f"SELECT a FROM {table}").result_rows == []


def test_sessions_keep_temporary_tables(connect):
    """The client's session is one of ours."""
    client = connect(session_id=uuid.uuid4().hex)
    client.command("CREATE TEMPORARY TABLE kept (a Int32)")
    client.insert("kept", [[1], [2]], column_names=["a"])
    assert client.command("SELECT sum(a) FROM kept") == 3


def test_errors_keep_their_code(connect):
    """Before the first row, and after."""
    client = connect()
    with pytest.raises(DatabaseError) as refused:
        client.query("SELECT * FROM no_such_table")
    assert (refused.value.code, refused.value.name) == (60, "UNKNOWN_TABLE")
    ask = "SELECT number, throwIf(number = 900000) FROM numbers(1000000)"
    with pytest.raises(StreamFailureError), client.query_row_block_stream(ask) as blocks:
        list(blocks)


def test_external_data(connect):
    """A table that comes with the query."""
    given = ExternalData(file_name="given", data=b"1,x\n2,y\n", fmt="CSV", structure=["a Int32", "b String"])
    assert connect().query("SELECT max(a) FROM given", external_data=given).result_rows == [(2,)]


def test_a_token_is_stored_once(store_address, table):
    """The adapter's token: the same INSERT again stores nothing, another token does."""
    store = store_at(store_address, "default")
    rows = pa.table({"a": pa.array([1], pa.int32())})
    for token in ("one", "one", "two"):
        store.insert_arrow(table, rows, token)
    assert store.query_rows(f"SELECT count() FROM {table}").rows == [(2,)]


def test_an_insert_is_one_block(store_address, table):
    """Two million rows in several batches become one part: one block, so one atomic step."""
    store = store_at(store_address, "default")
    part = pa.table({"a": pa.array(range(500_000), pa.int32())})
    store.insert_arrow(table, pa.concat_tables([part] * 4), None)
    # Of level 0: as inserted, before any merge.
    found = store.query_rows(
        "SELECT count(), min(level), sum(rows) FROM system.parts WHERE table = {t:String} AND active", {"t": table}
    )
    assert found.rows == [(1, 0, 2_000_000)]


def test_the_adapters_errors_name_the_address_and_quote_nothing(store_address):
    """The message holds no SQL; the detail does, for a person at a terminal."""
    with pytest.raises(StoreError) as refused:
        store_at(store_address, "default").query_rows("SELECT hunter2 FROM no_such_table")
    assert store_address in str(refused.value)
    assert "UNKNOWN_TABLE" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" in refused.value.detail


def test_a_store_that_is_away_is_named():
    """No traceback of the driver's, but the address and what to do."""
    store = Store(Addresses(home=Path(), store="http://127.0.0.1:9"), deadline_s=0.3)
    with pytest.raises(StoreError, match=r"http://127\.0\.0\.1:9 does not answer .* TIDEGATE_STORE"):
        store.query_rows("SELECT 1")
    assert store.ping() is False
    with pytest.raises(TidegateError, match="not a URL"):
        Store(Addresses(home=Path(), store="somewhere"), deadline_s=0).command("SELECT 1")


def test_requests_of_a_session_follow_one_another_at_once(connect):
    """A client that has read an answer to its end finds its session free: a hundred requests, none turned away."""
    client = connect()
    assert [client.command(f"SELECT {n}") for n in range(100)] == list(range(100))
