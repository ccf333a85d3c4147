"""Numbered SQL files, applied once and in order.

`infra/clickhouse/NNNN_name.sql` holds statements that may be run twice (IF NOT
EXISTS, OR REPLACE): a migrator that died between a file and its record repeats the file, and
two migrators at once do no harm. A file that has been applied never changes; a
change is a new file.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import TidegateError
from infra.statements import split_statements

if TYPE_CHECKING:
    from infra.store import Store

FOLDER = Path(__file__).parent / "clickhouse"

_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql\Z")

# Replacing by number: two migrators that record the same file at once leave one row.
_TABLE = """
CREATE TABLE IF NOT EXISTS migrations
(
    number     UInt32 COMMENT 'Number of the file',
    name       String COMMENT 'Name of the file',
    checksum   String COMMENT 'SHA-256 of the file as it was applied, hex',
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When it was applied'
)
ENGINE = ReplacingMergeTree
ORDER BY number
COMMENT 'Migrations that have been applied; read with FINAL'
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    checksum: str
    """SHA-256 of its bytes, hex."""
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """One row of the table `migrations`."""

    number: int
    name: str
    checksum: str


def load(folder: Path = FOLDER) -> list[Migration]:
    """Read the files in order. Raises TidegateError for a wrong name, a gap or a number used twice."""
    found = [_read(path) for path in sorted(folder.glob("*.sql"))]
    for expected, migration in enumerate(found, 1):
        if migration.number != expected:
            raise TidegateError(
                f"{folder / migration.name}: migration {expected:04d} is expected here. "
                "Numbers start at 0001 and leave no gap."
            )
    return found


def _read(path: Path) -> Migration:
    named = _FILE.match(path.name)
    if named is None:
        raise TidegateError(f"{path} is not named like 0001_windows.sql: four digits, then small letters.")
    content = path.read_bytes()
    statements = tuple(split_statements(content.decode()))
    if not statements:
        raise TidegateError(f"{path} holds no statement.")
    return Migration(int(named[1]), path.name, hashlib.sha256(content).hexdigest(), statements)


def pending(files: list[Migration], applied: list[Applied]) -> list[Migration]:
    """Return what is still to be run, in order.

    Raises TidegateError where an applied file has changed, the store is newer
    than this program, or an earlier file was never applied.
    """
    by_number = {migration.number: migration for migration in files}
    for row in sorted(applied, key=lambda row: row.number):
        known = by_number.get(row.number)
        if known is None:
            raise TidegateError(
                f"the store is newer than this program: it has migration {row.name}, "
                f"and this program ends at {len(files):04d}. Upgrade Tidegate."
            )
        if known.checksum != row.checksum:
            raise TidegateError(
                f"migration {known.name} was changed after it had been applied "
                f"(applied {row.checksum}, now {known.checksum}). Restore the file, and put the change into a new one."
            )
    done = {row.number for row in applied}
    left = [migration for migration in files if migration.number not in done]
    if left and done and left[0].number < max(done):
        raise TidegateError(
            f"migration {left[0].name} was never applied, but later ones were. "
            "Somebody deleted its record: find out why before going on."
        )
    return left


def applied_in(store: Store) -> list[Applied]:
    """Return what the store says was applied; nothing where it has no record yet. Raises StoreError."""
    known = store.query_rows(
        "SELECT count() FROM system.tables WHERE database = {database:String} AND name = 'migrations'",
        {"database": store.database},
        use_database=False,
    )
    if not known.rows[0][0]:
        return []
    found = store.query_rows("SELECT number, name, checksum FROM migrations FINAL ORDER BY number")
    return [Applied(*row) for row in found.rows]


def migrate(store: Store, files: list[Migration]) -> list[Migration]:
    """Apply what is pending; return it. Raises TidegateError, see `pending`, and StoreError."""
    left = pending(files, applied_in(store))
    if not left:
        return []
    store.command(f"CREATE DATABASE IF NOT EXISTS {quoted(store.database)}", use_database=False)
    store.command(_TABLE)
    for migration in left:
        for statement in migration.statements:
            store.command(statement)
        store.command(
            "INSERT INTO migrations (number, name, checksum) SELECT {number:UInt32}, {name:String}, {checksum:String}",
            {"number": migration.number, "name": migration.name, "checksum": migration.checksum},
        )
    return left


def quoted(name: str) -> str:
    """Return a quoted identifier."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"
