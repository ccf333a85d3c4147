"""`tidegate books`: show that every captured event is accounted for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.addresses import Addresses

if TYPE_CHECKING:
    from infra.store import Store
    from streams.reading.books import Books

DAYS = 60
"""Two thirds of the tables' 90 days, so that the books never look at sessions that TTL has begun to remove."""
POLL_S = 0.5
QUIET_S = 3.0
"""Settled means: nothing in flight and no number changed for so long. What a worker has not
yet written the store cannot show; a receipt takes well under this to arrive."""
DAY_MS = 86_400_000

books = typer.Typer(add_completion=False)

Look = Callable[[], "Books"]


@books.command(
    epilog="Exit codes: 0 balanced, 1 not balanced (sessions named), 3 events are still in flight, or expected. "
    "The same from any ClickHouse client: `tidegate books --explain`."
)
def command(
    wait: Annotated[float, typer.Option(min=0, help="Wait up to so many seconds until the books have settled.")] = 0.0,
    expect: Annotated[
        int,
        typer.Option(min=0, metavar="EVENTS", help="So many were captured, say the producers: not settled before."),
    ] = 0,
    days: Annotated[int, typer.Option(min=1, max=90, help="Sessions that began in the last days.")] = DAYS,
    explain: Annotated[bool, typer.Option("--explain", help="Print the queries instead of running them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the books as one JSON document.")] = False,
) -> None:
    """Show that every captured event is accounted for, from the store and its ledger alone.

    captured = stored + dropped (by reason) + late + in flight + lost with an
    embedded broker's log. Whatever is lost or doubled beyond that is named.
    """
    addresses = Addresses.load()
    parameters = {"log": addresses.log, "since": time.time_ns() // 1_000_000 - days * DAY_MS}
    if explain:
        print(explained(parameters))
        return
    from infra.store import PATIENCE_S, Store

    # Whoever waits for the books waits for the store too.
    store = Store(addresses, deadline_s=max(wait, PATIENCE_S))
    with _progress(wait) as tell:
        found = settle(lambda: count(store, parameters, expect), wait, time.monotonic, time.sleep, tell)
    if as_json:
        print(json.dumps(found.document(), indent=2))
    else:
        _show(found)
    raise typer.Exit(found.code)


def count(store: Store, parameters: Mapping[str, Any], expected: int = 0) -> Books:
    """Count once. `parameters`: `log` and `since`, see `books_sql`; `expected`: see Books. Raises StoreError."""
    from streams.reading import books_sql
    from streams.reading.books import NAMED, Books, finding_of, totals_of

    totals = totals_of(store.query_rows(books_sql.TOTALS, parameters).dicts()[0])
    if not totals.unbalanced:
        return Books(parameters["log"], totals, expected=expected)
    rows = store.query_rows(books_sql.UNBALANCED, {**parameters, "named": NAMED}).dicts()
    return Books(parameters["log"], totals, tuple(finding_of(row) for row in rows), expected)


def settle(
    look: Look,
    wait_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    tell: Callable[[Books], None] = lambda found: None,
) -> Books:
    """Count until the books have settled or `wait_s` is over; return the last count.

    A query reads several tables while workers write them, so one bad count may
    be half a moment's truth: without waiting, it is counted once more and
    believed only then.
    """
    from streams.reading.books import IN_FLIGHT, UNBALANCED

    begun = quiet_since = clock()
    found = look()
    if not wait_s:
        if found.code == UNBALANCED:
            sleep(POLL_S)
            found = look()
        return found
    while clock() - begun < wait_s:
        tell(found)
        if found.code != IN_FLIGHT and clock() - quiet_since >= QUIET_S:
            return found
        sleep(POLL_S)
        before, found = found, look()
        if found != before:
            quiet_since = clock()
    return found


def explained(parameters: Mapping[str, Any]) -> str:
    """Return the queries with their parameters filled in, ready for any ClickHouse client."""
    from streams.reading import books_sql
    from streams.reading.books import NAMED

    log = str(parameters["log"]).replace("\\", "\\\\").replace("'", "\\'")
    values = {"{log:String}": f"'{log}'", "{since:Int64}": str(parameters["since"]), "{named:UInt32}": str(NAMED)}
    parts = []
    queries = {"the totals": books_sql.TOTALS, "the sessions that do not balance": books_sql.UNBALANCED}
    for title, query in queries.items():
        sql = query
        for name, value in values.items():
            sql = sql.replace(name, value)
        parts.append(
            f'-- The books: {title}. Run it with: tidegate store query "...", or any ClickHouse client.\n{sql};'
        )
    return "\n\n".join(parts)


@contextmanager
def _progress(wait: float) -> Iterator[Callable[[Books], None]]:
    """Show what is in flight while waiting, on a terminal only."""
    from rich.console import Console

    console = Console(stderr=True)
    if not wait or not console.is_terminal:
        yield lambda found: None
        return
    with console.status("counting") as status:
        yield lambda found: status.update(
            f"{found.totals.in_flight:,} events in flight, {found.totals.stored:,} stored"
        )


def _show(found: Books) -> None:
    from rich.console import Console
    from rich.table import Table

    totals, console = found.totals, Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(min_width=min(34, console.width // 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    opened = f", {totals.open_sessions:,} still open" if totals.open_sessions else ""
    table.add_row("captured", f"{totals.captured:,}", f"in {totals.sessions:,} sessions{opened}", style="bold")
    table.add_row("stored", f"{totals.stored:,}")
    for stage, reasons in totals.dropped.items():
        for reason, events in sorted(reasons.items()):
            table.add_row(f"dropped by the {stage}", f"{events:,}", reason)
    table.add_row("late", f"{totals.late:,}")
    waiting = f"{totals.awaited:,} of them not yet received from open sessions" if totals.awaited else ""
    table.add_row("in flight", f"{totals.in_flight:,}", waiting)
    if found.unknown:
        table.add_row("expected beyond that", f"{found.unknown:,}", "told by producers, not known to the store yet")
    for name, events in (("lost with an earlier log", totals.log_lost), ("LOST", totals.lost), ("TWICE", totals.twice)):
        if events:
            table.add_row(name, f"{events:,}")
    if totals.deadletters:
        table.add_row("[dim]beside the sum: dead letters", f"{totals.deadletters:,}", "messages that could not be read")
    console.print(table)
    colour = {0: "green", 1: "red", 3: "yellow"}[found.code]
    console.print(f"\n[{colour} bold]{found.verdict}[/]: {found.line}", soft_wrap=True)
    for finding in found.findings:
        console.print(f"  session {finding.session}: {finding.text}", markup=False, soft_wrap=True)
    unnamed = totals.unbalanced - len(found.findings)
    if unnamed > 0:
        console.print(f"  and {unnamed:,} sessions more")
