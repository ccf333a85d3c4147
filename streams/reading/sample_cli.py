"""`tidegate sample`: take a sample of windows for a purpose, verify one, draw one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.addresses import Addresses
from infra.errors import TidegateError

if TYPE_CHECKING:
    from streams.reading.sample_files import Progress
    from streams.reading.sampling import Request

FRESH_S = 5.0
"""How long to wait for a fresh view: the control topics are read from the beginning first."""

sample = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Take a sample of windows for a purpose, verify it, or draw a window of it.",
    epilog="A sample is a folder of Parquet files and manifest.json. Every take asks the gate anew.",
)


class Stratify(StrEnum):
    """What a sample is spread over."""

    APP = "app"
    HOUR = "hour"
    KIND = "kind"


class Allocation(StrEnum):
    """How the windows are allotted to strata."""

    EQUAL = "equal"
    PROPORTIONAL = "proportional"


@sample.command()
def take(  # noqa: PLR0913, PLR0917 - a command's options are its arguments
    purpose: Annotated[str, typer.Option(help="What the data is for; must be in the policy in force.")],
    windows: Annotated[int, typer.Option(min=1, help="How many windows; fewer where there are fewer.")],
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed and data give the same files.")],
    out: Annotated[Path, typer.Option(help="Folder to make; must not exist or be empty.")],
    per_subject_cap: Annotated[int | None, typer.Option(min=1, help="At most so many windows of one subject.")] = None,
    stratify: Annotated[
        Stratify | None,
        typer.Option(
            help="Spread over applications, hours of the day (UTC), or kinds of event (most frequent, moves aside)."
        ),
    ] = None,
    allocation: Annotated[
        Allocation, typer.Option(help="With --stratify: as many from each stratum, or by their sizes.")
    ] = Allocation.EQUAL,
    since: Annotated[str, typer.Option(help="Windows that start at or after, ISO 8601; UTC unless it says.")] = "",
    until: Annotated[str, typer.Option(help="Windows that start before, ISO 8601; UTC unless it says.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Take a sample: choose windows of subjects who consent right now, write Parquet and a manifest.

    Only the kinds and fields that the policy lists for the purpose are in the
    files. Refused, and leaves no file, when the purpose is not in the policy, a
    switch stops it, the control state is not fresh, or anything changes
    meanwhile. Example:
        tidegate sample take --purpose NAME --windows 100 --seed 1 --out s1
    """
    from streams.reading.sampling import Request

    request = Request(
        purpose=purpose,
        windows=windows,
        seed=seed,
        out=out,
        per_subject_cap=per_subject_cap,
        stratify=stratify.value if stratify else "",
        allocation=allocation.value,
        since=_moment(since, "--since"),
        until=_moment(until, "--until"),
    )
    document = _take(request)
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _tell(document, out)


def _take(request: Request) -> dict[str, Any]:
    from infra.control.keeper import GateKeeper
    from infra.store import Store
    from streams.reading.permit import Gate
    from streams.reading.sampling import take

    addresses = Addresses.load()
    store = Store(addresses)
    with GateKeeper(addresses, "sampler", "standing") as keeper, _progress() as progress:
        progress("waiting for the control state", 0, 0)
        keeper.wait_fresh(FRESH_S)
        gate = Gate(keeper.view, lambda: time.time_ns() // 1_000_000, keeper.enter)
        return take(request, gate, store, addresses.log, progress)


def _moment(text: str, option: str) -> int | None:
    """Read an ISO 8601 date or time as UTC epoch ms."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise TidegateError(
            f"{option} {text!r} is no ISO 8601 date or time, such as 2026-11-21T09:00.", code=2
        ) from error
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show progress on a terminal, and nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    with console.status("starting") as status:
        yield lambda what, done, total: status.update(f"{what} {done:,} of {total:,}" if total else what)


def _tell(document: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, counts = Console(highlight=False), document["counts"]
    policy = document["policy"]
    console.print(
        f"[bold]{counts['windows']:,} windows[/bold] of {counts['subjects']:,} subjects, {counts['events']:,} events, "
        f"for {escape(document['purpose'])}, under policy {escape(policy['name'])} version {policy['version']}.",
        soft_wrap=True,
    )
    if counts["windows"] < counts["asked"]:
        console.print(f"{counts['asked']:,} were asked for; there are no more that may be taken.")
    if document["strata"]:
        table = Table("stratum", "could be taken", "taken", box=None, pad_edge=False)
        for row in document["strata"]:
            table.add_row(escape(row["stratum"]), f"{row['eligible']:,}", f"{row['chosen']:,}")
        console.print(table)
    for file in document["files"]:
        console.print(
            f"  {escape(str(out / file['name']))}  [dim]{file['bytes']:,} bytes, sha256 {file['sha256'][:16]}…[/dim]",
            soft_wrap=True,
        )
    folder = escape(str(out))
    console.print(f"  {folder}/manifest.json  [dim]check with: tidegate sample verify {folder}[/dim]", soft_wrap=True)


@sample.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A sample's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compute the digests of a sample anew and compare them with its manifest; exit 1 naming what differs."""
    from streams.reading import manifest

    found = manifest.problems(folder)
    if as_json:
        print(json.dumps({"folder": str(folder), "intact": not found, "problems": found}))
        sys.stdout.flush()
    if found:
        raise TidegateError(f"{folder} is not what its manifest says. " + "; ".join(found) + ".")
    if not as_json:
        files = len(manifest.read(folder)["files"])
        print(f"{folder}: {files} {'file is' if files == 1 else 'files are'} what the manifest says.")


@sample.command()
def show(
    file: Annotated[Path, typer.Argument(help="A Parquet file of a sample.")],
    row: Annotated[int | None, typer.Option(help="Which window, from 0; the most eventful one otherwise.")] = None,
    session: Annotated[str, typer.Option(help="Only windows of sessions that begin so.")] = "",
    out: Annotated[Path, typer.Option(help="The picture, .svg or .png.")] = Path("window.svg"),
) -> None:
    """Draw one window: the pointer's path over the screen, and a timeline of what happened."""
    from streams.reading import picture

    if row is not None and session:
        raise TidegateError("give --row or --session, not both.", code=2)
    window = picture.load(file, row, session)
    picture.draw(window, out)
    print(f"{out}: {len(window.events['kind']):,} events of session {window.session[:8]}.")
