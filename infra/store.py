"""The one way into ClickHouse: every query and INSERT of ours goes through here.

Nothing of a query, a parameter or a row gets into the message of an error: what
ClickHouse said stands in `StoreError.detail`, for a person at a terminal to see
and for nobody to log.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, StreamFailureError
from clickhouse_connect.driver.exceptions import Error as DriverError
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, NewConnectionError

from infra.addresses import Addresses
from infra.errors import TidegateError

if TYPE_CHECKING:
    import pyarrow as pa
    from clickhouse_connect.driver.client import Client

T = TypeVar("T")

TRANSIENT_CODES = frozenset(
    {
        159,  # TIMEOUT_EXCEEDED: busy
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        236,  # ABORTED: shutting down
        241,  # MEMORY_LIMIT_EXCEEDED: of the server, by the others' queries
        242,  # TABLE_IS_READ_ONLY: a replica without its keeper
        243,  # NOT_ENOUGH_SPACE: merges free some
        252,  # TOO_MANY_PARTS: merges are behind
        319,  # UNKNOWN_STATUS_OF_INSERT: the token makes a repeat safe
        373,  # SESSION_IS_LOCKED
        439,  # CANNOT_SCHEDULE_TASK
        999,  # KEEPER_EXCEPTION
    }
)
"""ClickHouse's error codes that pass by themselves."""

_NOT_OVER = frozenset(
    {
        159,  # TIMEOUT_EXCEEDED
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        236,  # ABORTED: shutting down, in the middle of it
        244,  # UNEXPECTED_ZOOKEEPER_ERROR
        319,  # UNKNOWN_STATUS_OF_INSERT
        999,  # KEEPER_EXCEPTION
        1000,  # POCO_EXCEPTION
        1001,  # STD_EXCEPTION
        1002,  # UNKNOWN_EXCEPTION
    }
)
"""Answers that do not say for sure that nothing of the call can still happen."""

_AUTHENTICATION_FAILED = 516
_NOT_MADE = frozenset({60, 81})  # UNKNOWN_TABLE, UNKNOWN_DATABASE
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0
PATIENCE_S = 5.0
"""For how long a command that a person waits for asks a store that is away."""
_CONNECT_S, _QUERY_S = 10, 300

# It warns of every lost connection; our errors say so. With a handler of its own
# it stays quiet in a command, which has configured no logging.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())

# More rows and bytes than any one INSERT of ours holds: it stays one block, so
# it is atomic (one block into one partition) and has one deduplication token.
_ONE_BLOCK = {
    "max_insert_block_size": 1 << 40,
    "min_insert_block_size_rows": 1 << 40,
    "min_insert_block_size_bytes": 1 << 50,
    "input_format_parallel_parsing": 0,
    # Answered when it is stored, not when it is queued.
    "async_insert": 0,
    # The token goes on to the roll-ups, see infra/clickhouse/0004_rollups.sql.
    "deduplicate_blocks_in_dependent_materialized_views": 1,
}


class StoreError(TidegateError):
    """The store refused, or cannot be reached."""

    def __init__(
        self, message: str, *, error_code: int | None = None, detail: str = "", transient: bool, over: bool
    ) -> None:
        super().__init__(message)
        self.error_code = error_code
        """ClickHouse's error code; None where it never answered."""
        self.detail = detail
        """What ClickHouse said. It may quote the query or the data: never log it."""
        self.transient = transient
        """True where the same call may work later."""
        self.over = over
        """True where it is certain that nothing of the call can happen any more: it was never sent, or the
        store has answered that it failed. False where it may have happened, or may yet happen."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A result."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    """One tuple a row, in the order of `columns`; times are aware."""

    def dicts(self) -> list[dict[str, Any]]:
        """Return one dictionary a row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Store:
    """ClickHouse at one address.

    It connects when first used. Methods may be called from several threads at
    once: there is no session, and connections are pooled. Do not share one
    across a fork.
    """

    def __init__(self, addresses: Addresses, *, deadline_s: float = PATIENCE_S) -> None:
        """Remember where the store is; TidegateError where no address is known.

        `deadline_s`: for how long a call repeats what failed for a reason that
        may pass; 0 for a single attempt.
        """
        self._url = addresses.need("store")
        self.address = re.sub("//[^/@]*@", "//", self._url)
        """Without the password that a URL may hold."""
        self.database = addresses.database
        self._user = addresses.store_user
        self._password = addresses.store_password
        self._deadline_s = deadline_s
        self._client: Client | None = None
        self._lock = threading.Lock()

    def ping(self) -> bool:
        """Tell, with one attempt, whether the store answers."""
        try:
            return self._once(lambda client: client.command("SELECT 1") == 1)
        except StoreError:
            return False

    def command(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        use_database: bool = True,
    ) -> Any:
        """Run a statement; return its single value, or a summary where it yields nothing.

        It may run twice when an answer gets lost, so give it statements that bear it.
        `use_database=False` is for what runs before our database exists. Raises
        StoreError.
        """
        database = self._database_setting(use_database)
        return self._retry(
            lambda client: client.command(sql, parameters=_dict(params), settings={**database, **(settings or {})})
        )

    def query_rows(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        use_database: bool = True,
    ) -> Rows:
        """Run a SELECT; `params` fill its `{name:Type}`. Raises StoreError."""
        database = self._database_setting(use_database)

        def run(client: Client) -> Rows:
            result = client.query(sql, parameters=_dict(params), settings={**database, **(settings or {})})
            return Rows(tuple(result.column_names), [tuple(row) for row in result.result_rows])

        return self._retry(run)

    def query_arrow(
        self, sql: str, params: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> pa.Table:
        """Run a SELECT and return an Arrow table; strings are strings. Raises StoreError."""
        return self._retry(
            lambda client: client.query_arrow(
                sql,
                parameters=_dict(params),
                settings={"database": self.database, **(settings or {})},
                use_strings=True,
            )
        )

    def insert_arrow(self, table: str, rows: pa.Table, token: str | None) -> None:
        """Store `rows`, all or none, as one block.

        `token` becomes the insert_deduplication_token: a table with a
        deduplication window stores a token once, however often it comes. None
        is for tables whose key makes a repeat harmless. Columns are matched by
        name; columns that are left out take their default. Raises StoreError.
        """
        if rows.num_rows == 0:
            return
        # Not as bytes: those the client would by itself send a second time when the connection is lost.
        body: Any = memoryview(_one_batch(rows))
        settings: dict[str, Any] = {"database": self.database, **_ONE_BLOCK}
        if token is not None:
            settings["insert_deduplication_token"] = token
        self._retry(
            lambda client: client.raw_insert(
                table, rows.column_names, insert_block=body, settings=settings, fmt="ArrowStream"
            )
        )

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _database_setting(self, use_database: bool) -> dict[str, Any]:
        return {"database": self.database} if use_database else {}

    def _retry(self, call: Callable[[Client], T]) -> T:
        # Not stamina: a command that prints JSON must not see its log lines on stdout.
        deadline = time.monotonic() + self._deadline_s
        wait_s, over = _FIRST_WAIT_S, True
        while True:
            try:
                return self._once(call)
            except StoreError as error:
                over = error.over = over and error.over
                if not error.transient or time.monotonic() + wait_s > deadline:
                    raise
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    def _once(self, call: Callable[[Client], T]) -> T:
        sent = False
        try:
            client = self._connected()
            sent = True
            return call(client)
        except ClickHouseError as error:
            raise self._refusal(error, sent) from None
        except (HTTPError, OSError) as error:
            raise self._away(type(error).__name__, over=not sent) from None

    def _connected(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Client:
        try:
            url = urlsplit(self._url)
            known = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        except ValueError:  # a port that is none, brackets that do not match
            known = False
        if not known:
            raise TidegateError(
                f"the store's address {self.address} is not a URL like http://127.0.0.1:8123: correct TIDEGATE_STORE."
            )
        # A store that takes connections and answers nothing is found out before a query may take its time.
        self._client_for(url, _CONNECT_S).close()
        return self._client_for(url, _QUERY_S)

    def _client_for(self, url: SplitResult, answer_s: int) -> Client:
        # Without a database: the first migration has yet to create ours, so calls name it.
        return clickhouse_connect.get_client(
            interface=url.scheme,
            host=url.hostname,
            port=url.port or (8443 if url.scheme == "https" else 8123),
            username=self._user,
            password=self._password,
            compress=False,
            connect_timeout=5,
            send_receive_timeout=answer_s,
            query_retries=0,
            autogenerate_session_id=False,
            tz_mode="aware",
            # Without the URL, which may hold parameters.
            show_clickhouse_errors="scrub",
        )

    def _refusal(self, error: ClickHouseError, sent: bool) -> StoreError:
        number = error.code if isinstance(error, DriverError) else None
        if number is None:
            # No code: the server never answered, or broke off in the middle.
            return self._away(type(error).__name__, over=not sent or _never_connected(error))
        name = getattr(error, "name", None) or "an error"
        if number == _AUTHENTICATION_FAILED:
            message = (
                f"the store at {self.address} does not know user {self._user} with this password: "
                "check TIDEGATE_STORE_USER and TIDEGATE_STORE_PASSWORD."
            )
        elif number in _NOT_MADE:
            message = (
                f"the store at {self.address} lacks what is asked for in database {self.database}: {name} (code "
                f"{number}). Run `tidegate store migrate`, or correct TIDEGATE_DATABASE."
            )
        else:
            message = f"the store at {self.address} refused: {name} (code {number})."
        broke_off = isinstance(error, StreamFailureError)
        return StoreError(
            message,
            error_code=number,
            detail=str(error),
            transient=broke_off or number in TRANSIENT_CODES,
            over=not sent or not (broke_off or number in _NOT_OVER),
        )

    def _away(self, what: str, *, over: bool) -> StoreError:
        return StoreError(
            f"the store at {self.address} does not answer ({what}): "
            "is it running? See `tidegate status`, or set TIDEGATE_STORE.",
            transient=True,
            over=over,
        )


def _never_connected(error: ClickHouseError) -> bool:
    """Whether a call failed before a byte of it could reach the store."""
    cause = error.__cause__
    why = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(why, (NewConnectionError, ConnectTimeoutError))


def _dict(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if given is None else dict(given)


def _one_batch(rows: pa.Table) -> bytes:
    """Serialise a table as an Arrow stream of one record batch."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    written: bytes = sink.getvalue().to_pybytes()
    return written
