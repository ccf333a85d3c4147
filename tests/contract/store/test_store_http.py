"""What a ClickHouse server must do over HTTP for us, asked with curl."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import subprocess
import threading
import time
import urllib.request
import uuid

import lz4.block
import pytest

from infra.store import StoreError
from tests.contract.store.conftest import store_at
from tests.support import wait_until


@pytest.fixture
def table(store_address):
    """A table of this test's own: a Int32, b String."""
    name = f"t_{uuid.uuid4().hex}"
    store = store_at(store_address, "default")
    store.command(f"CREATE TABLE {name} (a Int32, b String) ENGINE = MergeTree ORDER BY a")
    yield name
    store.command(f"DROP TABLE {name}")


def test_ping_says_ok(curl):
    """Health checks read /ping, and / without a query, as `Ok.`."""
    assert curl(path="/ping").text == "Ok.\n"
    assert curl().text == "Ok.\n"


def test_a_query_comes_in_the_url_or_in_the_body(curl):
    """GET ?query= and a POST body ask the same; the default format is TabSeparated."""
    assert curl(fields={"query": "SELECT 1, 'a'"}).text == "1\ta\n"
    asked = curl("SELECT 1, 'a'")
    assert asked.text == "1\ta\n"
    assert asked.headers["x-clickhouse-format"] == "TabSeparated"
    assert curl("1, 'a'", fields={"query": "SELECT"}).text == "1\ta\n"


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        ("SELEKT 1", 400, 62),
        ("SELECT 1; SELECT 2", 400, 62),
        ("SELECT * FROM no_such_table", 404, 60),
        ("SELECT no_such_function(1)", 404, 46),
        ("SELECT * FROM no_such_database.t", 404, 81),
        ("SELECT 1 FORMAT NoSuchFormat", 404, 73),
        ("SELECT 1 SETTINGS no_such_setting = 1", 404, 115),
        ("SELECT throwIf(1)", 500, 395),
    ],
)
def test_a_refusal_has_status_code_and_name(curl, sql, status, code):
    """Clients read the status, X-ClickHouse-Exception-Code and `Code: N. DB::Exception: …`."""
    reply = curl(sql)
    assert (reply.status, int(reply.headers["x-clickhouse-exception-code"])) == (status, code)
    assert reply.text.startswith(f"Code: {code}. DB::Exception: ")


def test_a_get_reads_only(curl, table):
    """GET changes nothing: links are followed by crawlers and previews."""
    assert (
        curl(fields={"query": f"INSERT INTO {table} VALUES (1, 'a')"}).headers["x-clickhouse-exception-code"] == "164"
    )
    assert curl(f"SELECT count() FROM {table}").text == "0\n"


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("CSV", b"1,x\n2,y;z\n"),
        ("TabSeparated", b"1\tx\n2\ty;z\n"),
        ("JSONEachRow", b'{"a":1,"b":"x"}\n{"a":2,"b":"y;z"}\n'),
        ("Values", b"(1,'x'),(2,'y;z')"),
        ("RowBinary", struct.pack("<iB1siB3s", 1, 1, b"x", 2, 3, b"y;z")),
    ],
)
def test_data_are_inserted_from_the_body(curl, table, form, data):
    """The statement stands in the URL or before the data; both count the rows in X-ClickHouse-Summary."""
    reply = curl(data, fields={"query": f"INSERT INTO {table} (a, b) FORMAT {form}"})
    assert (reply.status, json.loads(reply.headers["x-clickhouse-summary"])["written_rows"]) == (200, "2")
    assert curl(f"INSERT INTO {table} FORMAT {form}\n".encode() + data).status == 200
    assert curl(f"SELECT a, b, count() FROM {table} GROUP BY a, b ORDER BY a").text == "1\tx\t2\n2\ty;z\t2\n"


def test_rows_that_cannot_be_read_store_nothing(curl, table):
    """One bad row refuses the whole INSERT."""
    assert curl("1,x\nnot a number,y\n", fields={"query": f"INSERT INTO {table} FORMAT CSV"}).status == 400
    assert curl(f"SELECT count() FROM {table}").text == "0\n"


def test_settings_may_stand_in_an_insert(curl, table):
    """Between the columns and the format."""
    sql = f"INSERT INTO {table} (a, b) SETTINGS format_csv_delimiter = ';' FORMAT CSV\n1;x\n"
    assert curl(sql).status == 200
    assert curl(f"SELECT * FROM {table}").text == "1\tx\n"


def test_an_error_at_the_very_end_of_an_insert_is_told(curl, table):
    """A row that breaks a constraint refuses the INSERT, however late it is found."""
    curl(f"ALTER TABLE {table} ADD CONSTRAINT small CHECK a < 5")
    reply = curl("1,x\n9,y\n", fields={"query": f"INSERT INTO {table} FORMAT CSV"})
    assert reply.headers["x-clickhouse-exception-code"] == "469"
    assert curl(f"SELECT count() FROM {table}").text == "0\n"


def test_parameters_are_values_and_nothing_else(curl):
    """`param_x` fills {x:Type}; quotes in it stay text."""
    reply = curl("SELECT {a:Int32} + 1, {b:String}", fields={"param_a": "41", "param_b": "'; DROP TABLE x"})
    assert reply.text == "42\t\\'; DROP TABLE x\n"


def test_settings_in_the_url_hold_for_that_query_alone(curl):
    """No request inherits what another one set."""
    ask = "SELECT getSetting('max_block_size')"
    assert curl(ask, fields={"max_block_size": "77"}).text == "77\n"
    assert curl(ask).text != "77\n"
    assert curl(ask, fields={"no_such_setting": "1"}).headers["x-clickhouse-exception-code"] == "115"


def test_formats_and_database_by_parameter_and_header(curl):
    """default_format and X-ClickHouse-Format, database and X-ClickHouse-Database."""
    assert json.loads(curl("SELECT 1 AS a", fields={"default_format": "JSONEachRow"}).text) == {"a": 1}
    assert json.loads(curl("SELECT 1 AS a", "-H", "X-ClickHouse-Format: JSONEachRow").text) == {"a": 1}
    assert curl("SELECT currentDatabase()", fields={"database": "system"}).text == "system\n"
    assert curl("SELECT currentDatabase()", "-H", "X-ClickHouse-Database: system").text == "system\n"
    assert curl("SELECT 1", fields={"database": "no_such"}).status == 404


def test_a_session_keeps_tables_and_settings(curl):
    """Temporary tables and SET belong to a session; a parameter of one request does not stay."""
    mine = {"session_id": uuid.uuid4().hex}
    assert curl("SELECT 1", fields={**mine, "session_check": "1"}).headers["x-clickhouse-exception-code"] == "372"
    curl("CREATE TEMPORARY TABLE kept (a Int32)", fields=mine)
    curl("INSERT INTO kept VALUES (7)", fields=mine)
    curl("SET max_block_size = 55", fields=mine)
    assert curl("SELECT a FROM kept", fields={**mine, "session_check": "1"}).text == "7\n"
    ask = "SELECT getSetting('max_block_size'), currentDatabase()"
    assert curl(ask, fields={**mine, "max_block_size": "66", "database": "system"}).text == "66\tsystem\n"
    assert curl(ask, fields=mine).text == "55\tdefault\n"
    assert curl("SELECT * FROM kept").status == 404


def test_a_session_serves_one_request_at_a_time(curl):
    """The second one is refused, not mixed in."""
    mine = {"session_id": uuid.uuid4().hex}
    marked = f"SELECT sleepEachRow(1), '{mine['session_id']}' FROM numbers(3)"
    first = threading.Thread(target=curl, args=(marked,), kwargs={"fields": {**mine, "max_block_size": "1"}})
    first.start()
    running = f"SELECT count() > 1 FROM system.processes WHERE query LIKE '%{mine['session_id']}%'"
    wait_until(lambda: curl(running).text == "1\n", 20, "the first query runs")
    assert curl("SELECT 1", fields=mine).headers["x-clickhouse-exception-code"] == "373"
    first.join()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_answers_are_compressed_on_request(curl, encoding):
    """curl unpacks what Accept-Encoding allowed."""
    reply = curl(
        "SELECT number FROM numbers(100000)", "--compressed", "-H", f"Accept-Encoding: {encoding}",
        fields={"enable_http_compression": "1"},
    )  # fmt: skip
    assert reply.headers["content-encoding"] == encoding
    assert reply.text.splitlines()[-1] == "99999"


def test_requests_may_be_compressed(curl, table):
    """Content-Encoding: gzip, of the data alone."""
    reply = curl(
        gzip.compress(b"1,x\n"), "-H", "Content-Encoding: gzip", fields={"query": f"INSERT INTO {table} FORMAT CSV"}
    )
    assert reply.status == 200
    assert curl(f"SELECT * FROM {table}").text == "1\tx\n"
    broken = curl(b"not gzip", "-H", "Content-Encoding: gzip", fields={"query": f"INSERT INTO {table} FORMAT CSV"})
    assert broken.status >= 400


def test_clickhouses_own_blocks_both_ways(curl, table):
    """compress=1 and decompress=1, which JDBC uses: what it wrote, it reads."""
    packed = curl("SELECT number, 'x' FROM numbers(30000) FORMAT CSV", fields={"compress": "1"}).body
    size, unpacked = struct.unpack_from("<II", packed, 17)
    assert packed[16] == 0x82
    assert lz4.block.decompress(packed[25 : 16 + size], uncompressed_size=unpacked).startswith(b'0,"x"\n1,')
    reply = curl(packed, fields={"query": f"INSERT INTO {table} FORMAT CSV", "decompress": "1"})
    assert reply.status == 200
    assert curl(f"SELECT count(), max(a) FROM {table}").text == "30000\t29999\n"


def test_a_large_result_is_streamed(curl):
    """60 MB of rows arrive whole."""
    assert curl("SELECT number FROM numbers(8000000)").body.endswith(b"\n7999999\n")


def test_an_exception_in_mid_stream_is_marked(curl):
    """After the status has been sent, the body ends with the exception and its tag."""
    reply = curl("SELECT throwIf(number = 3000000) FROM numbers(5000000)", fields={"max_block_size": "65536"})
    tag = reply.headers["x-clickhouse-exception-tag"]
    assert f"__exception__\r\n{tag}\r\nCode: 395." in reply.text[-2000:]


def test_a_table_may_come_with_the_query(curl, tmp_path):
    """External data, as a form."""
    data = tmp_path / "data.tsv"
    data.write_text("1\tx\n2\ty\n")
    reply = curl(
        None,
        "-F",
        f"given=@{data}",
        fields={"query": "SELECT max(a) FROM given", "given_structure": "a Int32, b String"},
    )
    assert reply.text == "2\n"


def test_files_of_the_client_are_refused(curl, table, tmp_path):
    """INTO OUTFILE and FROM INFILE would touch the server's files."""
    assert curl(f"SELECT 1 INTO OUTFILE '{tmp_path}/out'").status == 500
    assert not (tmp_path / "out").exists()
    assert curl(f"INSERT INTO {table} FROM INFILE '/etc/hostname' FORMAT CSV").status >= 400


def test_strangers_are_refused(curl):
    """A user that is not known gets 403 and code 516."""
    reply = curl("SELECT 1", "-u", "nobody:secret")
    assert (reply.status, reply.headers["x-clickhouse-exception-code"]) == (403, "516")
    assert curl("SELECT 1", "-H", "X-ClickHouse-User: nobody", "-H", "X-ClickHouse-Key: s").status == 403


def test_health_answers_while_a_query_runs_and_kill_ends_it(curl, store_address):
    """/ping and other queries do not wait for a long one; KILL QUERY finds it by the client's id."""
    mine = uuid.uuid4().hex
    outcome = []

    def run():
        try:
            store_at(store_address, "default").query_rows(
                "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) % 7 = 1", settings={"query_id": mine}
            )
        except StoreError as error:
            outcome.append(error.error_code)

    long = threading.Thread(target=run)
    long.start()
    killed = ""
    deadline = time.monotonic() + 20
    while not killed and time.monotonic() < deadline:
        began = time.monotonic()
        assert curl(path="/ping").status == 200
        assert time.monotonic() - began < 5
        killed = curl(f"KILL QUERY WHERE query_id = '{mine}' SYNC").text
    long.join(20)
    assert outcome == [394]


def test_a_query_ends_when_its_client_goes_away(curl, store_address):
    """A reader that hung up leaves nothing running."""
    mine = uuid.uuid4().hex
    url = f"{store_address.rstrip('/')}/?query_id={mine}&cancel_http_readonly_queries_on_client_close=1"
    sql = f"SELECT count() FROM numbers(100000000000) WHERE sipHash64(number, '{mine}') % 7 = 1"
    gone = subprocess.run(
        ["curl", "-sS", "--max-time", "1", "--data-binary", sql, url], capture_output=True, check=False
    )
    assert gone.returncode == 28
    ask = f"SELECT count() FROM system.processes WHERE query LIKE '%{mine}%' AND query NOT LIKE '%system.processes%'"
    deadline = time.monotonic() + 15
    while curl(ask).text != "0\n":
        assert time.monotonic() < deadline


@pytest.mark.usefixtures("embedded_only")
def test_what_chdb_lacks_is_an_exception(curl):
    """Users, roles and keeper tables are refused, not pretended."""
    assert curl("CREATE USER somebody").headers["x-clickhouse-exception-code"] == "497"
    assert curl("SELECT 1", fields={"role": "analyst"}).headers["x-clickhouse-exception-code"] == "511"
    assert curl("SELECT 1", path="/no_such_page").status == 404


@pytest.mark.usefixtures("embedded_only")
def test_a_request_has_a_limit(curl):
    """A length beyond the limit is refused before the body is read."""
    reply = curl("SELECT 1", "-H", f"Content-Length: {1 << 40}", "--max-time", "5")
    assert reply.status == 413


@pytest.mark.skipif("TIDEGATE_TEST_STORE" in os.environ, reason="reads the embedded store's log")
def test_queries_and_data_stay_out_of_the_log(own_store, need_programs):
    """A secret in a query, in data and in an exception is in no log line."""
    need_programs("curl")
    server = own_store().ready()
    for sql in ("SELECT 'hunter2'", "SELECT hunter2 FROM x", "SELECT throwIf(1, 'hunter2')"):
        subprocess.run(["curl", "-sS", "--data-binary", sql, server.address], capture_output=True, check=True)
    assert server.stop() == 0
    assert "hunter2" not in server.log.read_text()


@pytest.mark.skipif("TIDEGATE_TEST_STORE" in os.environ, reason="a real server serves its metrics elsewhere")
def test_it_tells_its_own_metrics_and_health(curl, store_address):
    """Queries are counted by outcome, without a word of them, and health is the engine's own answer."""
    curl("SELECT 'hunter2'")
    curl("SELECT nothing FROM nowhere")
    told = urllib.request.urlopen(f"{store_address.rstrip('/')}/metrics").read().decode()
    counted = dict(re.findall(r'^tidegate_store_queries_total\{outcome="(\w+)"\} (\S+)$', told, re.M))
    assert float(counted["answered"]) >= 1
    assert float(counted["refused"]) >= 1
    assert "hunter2" not in told
    assert "nowhere" not in told
    health = urllib.request.urlopen(f"{store_address.rstrip('/')}/healthz")
    assert json.loads(health.read()) == {"stalled": []}
