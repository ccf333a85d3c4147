"""`tidegate store`: migrate the store, ask it, list its tables."""

from __future__ import annotations

import csv
import json
import math
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.addresses import Addresses
from infra.errors import TidegateError
from infra.statements import tokens

if TYPE_CHECKING:
    from infra.store import Rows

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Migrate the store, ask it, list its tables.",
    epilog='Try `tidegate store tables`, then `tidegate store query "SELECT * FROM kinds_by_hour LIMIT 10"`.',
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def migrate(
    plan: Annotated[bool, typer.Option("--plan", help="Print what would run, and change nothing.")] = False,
) -> None:
    """Bring the tables up to this program: apply the files of infra/clickhouse that are pending, in order.

    A file that has been applied is never run again, and one that has changed
    since is refused. Running it twice, or two at once, does no harm.
    """
    from infra import migrations
    from infra.store import Store

    store = Store(Addresses.load())
    files = migrations.load()
    if plan:
        left = migrations.pending(files, migrations.applied_in(store))
        for migration in left:
            typer.echo(f"-- {migration.name} (sha256 {migration.checksum})")
            for statement in migration.statements:
                typer.echo(f"{statement};\n")
        verdict = f"{len(left)} of {len(files)} migrations would run" if left else "nothing to run"
    else:
        left = migrations.migrate(store, files)
        for migration in left:
            typer.echo(f"applied {migration.name}")
        verdict = f"{len(left)} of {len(files)} migrations applied" if left else f"all {len(files)} migrations stand"
    typer.echo(f"{verdict} in {store.database} at {store.address}")


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One statement, in quotes.", show_default=False)],
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header line.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Allow statements that change something.")] = False,
) -> None:
    """Run one SQL statement; read-only unless --write is given.

    Prints a table; --json a list of objects, --csv lines with a header.
    """
    if as_json and as_csv:
        raise TidegateError("--json and --csv exclude each other: choose one.", code=2)
    # 2 forbids writing and still lets a query choose its settings.
    found = _ask(sql, {} if write else {"readonly": 2})
    if as_json:
        typer.echo(json.dumps(_finite(found.dicts()), default=_plain, ensure_ascii=False))
    elif not found.columns:
        typer.echo("done")
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(found.columns)
        writer.writerows([_cell(value) for value in row] for row in found.rows)
    else:
        _show(found)


@app.command()
def tables(as_json: Json = False) -> None:
    """List the tables and views: what they hold, how many rows, how many bytes on disk."""
    found = _ask(
        """
        SELECT name, if(engine LIKE '%View', 'view', 'table') AS sort, total_rows AS rows,
               total_bytes AS bytes, comment
        FROM system.tables WHERE database = currentDatabase() AND engine != 'MaterializedView'
        ORDER BY sort, name
        """,
        {"readonly": 2},
    )
    if as_json:
        typer.echo(json.dumps(found.dicts(), default=_plain))
    else:
        _show(found)


def _ask(sql: str, settings: dict[str, Any]) -> Rows:
    from infra.store import Rows, Store, StoreError

    # One attempt: a person waits, and a repeated --write could write twice.
    store = Store(Addresses.load(), deadline_s=0)
    try:
        if _yields_rows(sql):
            return store.query_rows(sql, settings=settings)
        store.command(sql, settings=settings)
        return Rows((), [])
    except StoreError as error:
        if not error.detail:
            raise
        raise TidegateError(_one_line(error.detail)) from None


def _yields_rows(sql: str) -> bool:
    first = next((word.upper() for _, word, _ in tokens(sql)), "")
    if not first:
        raise TidegateError("there is no statement: give one in quotes.", code=2)
    return first in {"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK", "("}


def _one_line(detail: str) -> str:
    """Return ClickHouse's own words, without the list of all it would have understood."""
    words = " ".join(detail.split())
    start = words.find("DB::Exception: ")
    return words[max(start, 0) :].removeprefix("DB::Exception: ").split(" Expected one of: ")[0]


def _show(found: Rows) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As Text: what the data or a query says is no markup.
    table = Table()
    for name in found.columns:
        table.add_column(Text(name), overflow="fold")
    for row in found.rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    Console().print(table)
    typer.echo(f"{len(found.rows)} row{'' if len(found.rows) == 1 else 's'}")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds" if value.microsecond else "seconds")
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, default=_plain, ensure_ascii=False)
    return str(value)


def _finite(value: object) -> object:
    """Put null for what JSON has no number for: not a number, infinity. ClickHouse's own JSON formats do the same."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
