"""chDB as the engine of the embedded store.

Measured on chDB 26.9: a process holds one engine on one folder, and any number
of handles to it, which run at the same time. Settings, the current database and
temporary tables belong to a handle. A handle costs half a millisecond, so a
request without a session gets a fresh one and leaves nothing behind; a session
is a handle that is kept.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import IO, Any

import chdb

from infra.errors import TidegateError
from infra.stack.store_errors import BAD_ARGUMENTS, StoreRefusal

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# Where chDB differs from a server. `async_insert`: an INSERT is answered when it
# is stored. The memory limit keeps one query from taking the machine with it.
_DEFAULTS = {
    "implicit_select": "0",
    "async_insert": "0",
    "max_memory_usage": str(2 << 30),
    "max_execution_time": "600",
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement yielded."""

    body: memoryview
    summary: dict[str, str]
    """As in X-ClickHouse-Summary."""
    owner: Any
    """Holds the engine's memory under `body`."""

    def close(self) -> None:
        """Let go of the view before the engine frees what it shows."""
        self.body.release()


class Handle:
    """One connection to the engine. Not for two threads at once."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def set(self, settings: Mapping[str, str]) -> None:
        """Change settings of this handle. Raises StoreRefusal for an unknown one."""
        if settings:
            self._run(f"SET {', '.join(f'{_setting(k)} = {quote(v)}' for k, v in settings.items())}")

    def use(self, database: str) -> None:
        """Make `database` the current one. Raises StoreRefusal where it does not exist."""
        self._run(f"USE {_quoted_name(database)}")

    def database(self) -> str:
        """Return the current database."""
        current: bytes = self._run("SELECT currentDatabase()", "TSVRaw").bytes()
        return current.decode().removesuffix("\n")

    def changed(self, names: list[str]) -> dict[str, str]:
        """Return the values of those settings that are not at their default."""
        wanted = ", ".join(quote(name) for name in names)
        found = self._run(
            f"SELECT name, value FROM system.settings WHERE changed AND name IN ({wanted})",  # noqa: S608 - quoted
            "JSONCompactEachRow",
        )
        return dict(json.loads(line) for line in found.bytes().splitlines())

    def reset(self, names: list[str], before: Mapping[str, str]) -> None:
        """Put settings back to what `changed` had said."""
        for name in names:
            self._run(f"SET {_setting(name)} = {quote(before[name]) if name in before else 'DEFAULT'}")

    def query(self, sql: str, form: str, params: Mapping[str, str]) -> Result:
        """Run a statement to its end. `params` are as in the URL, escaped. Raises StoreRefusal."""
        found = self._run(sql, form, dict(params))
        view = found.get_memview()
        body = memoryview(view.view()) if len(found) else memoryview(b"")
        summary = {
            "read_rows": str(found.storage_rows_read()),
            "read_bytes": str(found.storage_bytes_read()),
            "written_rows": str(found.rows_written()),
            "written_bytes": str(found.bytes_written()),
            "result_rows": str(found.rows_read()),
            "result_bytes": str(len(body)),
            "elapsed_ns": str(int(found.elapsed() * 1e9)),
        }
        return Result(body, summary, (found, view))

    def stream(self, sql: str, form: str, params: Mapping[str, str]) -> Generator[bytes, None, None]:
        """Run a SELECT block by block. Closing the iterator cancels it. Raises StoreRefusal."""
        try:
            blocks = self._connection.send_query(sql, form, params=dict(params))
        except RuntimeError as error:
            raise StoreRefusal.from_engine(error) from None
        try:
            while True:
                try:
                    block = blocks.fetch()
                except RuntimeError as error:
                    raise StoreRefusal.from_engine(error) from None
                if block is None:
                    return
                yield block.bytes()
        finally:
            blocks.close()

    def insert(self, head: str, tail: str, form: str, data: bytes) -> dict[str, str]:
        """Run an INSERT on data of a format; return the summary. Raises StoreRefusal.

        `head` ends with the columns, `tail` holds its SETTINGS. The data go in
        as a file in memory. (chDB's own `send_insert` costs the same, but drops
        an error of the last block: a full disk would look like success.)
        """
        with open(os.memfd_create("insert"), "wb", buffering=0) as file:
            _write(file, data)
            path = f"/proc/self/fd/{file.fileno()}"
            done = self._run(f"{head} FROM INFILE {quote(path)} COMPRESSION 'none' {tail} FORMAT {form}")
        return {
            "written_rows": str(done.rows_written()),
            "written_bytes": str(done.bytes_written()),
            "result_rows": str(done.rows_written()),
            "result_bytes": str(done.bytes_written()),
            "elapsed_ns": str(int(done.elapsed() * 1e9)),
        }

    def insert_external(self, name: str, structure: str, form: str, data: bytes) -> None:
        """Make a temporary table of data that came with the request. Raises StoreRefusal."""
        self._run(f"CREATE TEMPORARY TABLE {_quoted_name(name)} ({structure})")
        self.insert(f"INSERT INTO {_quoted_name(name)}", "", form, data)

    def close(self) -> None:
        """Give the handle back."""
        self._connection.close()

    def _run(self, sql: str, form: str = "TabSeparated", params: dict[str, str] | None = None) -> Any:
        try:
            return self._connection.query(sql, form, params=params or {})
        except RuntimeError as error:
            raise StoreRefusal.from_engine(error) from None


class Engine:
    """The engine on one folder, from its opening to its closing."""

    def __init__(self, folder: Path) -> None:
        """Open the folder. Raises TidegateError where another process has it, or it cannot be read."""
        folder.mkdir(parents=True, exist_ok=True)
        self._claim = _claim(folder)
        self._folder = str(folder)
        self._lock = threading.Lock()
        try:
            # It holds the engine open: the engine ends with its last handle.
            self._first = _connect(self._folder)
        except RuntimeError as error:
            raise TidegateError(
                f"the store cannot open {folder}: {str(error).splitlines()[0][:300]} "
                "Check the folder, or move it away to start empty."
            ) from None
        self.version = self._ask("version()")
        self.timezone = self._ask("timezone()")

    def open(self) -> Handle:
        """Return a new handle with the defaults of the store."""
        handle = Handle(_connect(self._folder))
        handle.set(_DEFAULTS)
        return handle

    def cancel(self, query_id: str) -> None:
        """Stop the query that runs under this id, if it does."""
        with self._lock:
            self._first.query(f"KILL QUERY WHERE Settings['log_comment'] = {quote(query_id)} ASYNC", "Null")

    def cancel_all(self) -> None:
        """Stop every query."""
        with self._lock:
            self._first.query("KILL QUERY WHERE 1 ASYNC", "Null")

    def close(self) -> None:
        """Close the engine; handles must be closed before."""
        with self._lock:
            self._first.close()
        self._claim.close()

    def _ask(self, expression: str) -> str:
        answer: bytes = self._first.query(f"SELECT {expression}", "TabSeparated").bytes()
        return answer.decode().strip()


def _connect(folder: str) -> Any:
    return chdb.connect(folder)  # type: ignore[no-untyped-call] # chdb ships no types


def quote(text: str) -> str:
    """Return a SQL string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _quoted_name(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def _setting(name: str) -> str:
    if not _NAME.match(name):
        raise StoreRefusal(BAD_ARGUMENTS, "The name of a setting holds letters, digits and underscores")
    return name


def _write(file: RawIOBase, data: bytes) -> None:
    """One write takes 2 GiB at most, and may take less than it was given."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


def _claim(folder: Path) -> IO[bytes]:
    """Lock the folder for as long as the file is open: the engine's own lock only says so on stderr."""
    claim = (folder.parent / f"{folder.name}.lock").open("ab")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        claim.close()
        raise TidegateError(
            f"another process has the store in {folder} open. Is a stack running there already? See `tidegate status`."
        ) from None
    return claim
