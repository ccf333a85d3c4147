"""`tidegate schemas`: check the schemas, write the data dictionary, compare versions."""

from __future__ import annotations

import difflib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from schemas.catalogue import SUBJECTS_OF_TOPICS, Schema, SchemaError, load, names

PAGE = Path(__file__).parent.parent / "docs" / "DATA-DICTIONARY.md"
"""The data dictionary of this checkout; an installed package has none."""

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Check the schemas, write the data dictionary, compare versions."
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the schemas: their topic, fields and columns, and the fingerprint that control records carry."""
    topics = {name: topic for topic, name in SUBJECTS_OF_TOPICS.items()}
    rows = [
        {
            "schema": schema.name,
            "topic": topics.get(schema.name, ""),
            "fields": len(schema.header),
            "columns": {group: len(columns) for group, columns in schema.groups.items()},
            "fingerprint": schema.fingerprint.hex(),
        }
        for schema in _all()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("schema", "topic", "fields", "columns", "fingerprint"):
        table.add_column(heading, no_wrap=heading != "columns")
    for row in rows:
        columns = ", ".join(f"{count} {group}" for group, count in row["columns"].items())  # type: ignore[attr-defined]  # a dict, built above
        table.add_row(str(row["schema"]), str(row["topic"]), str(row["fields"]), columns, str(row["fingerprint"]))
    Console().print(table)


@app.command()
def check(
    today: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Hold review dates against this day.")
    ] = None,
    page: Annotated[Path, typer.Option(help="The data dictionary to compare with.")] = PAGE,
    as_json: Json = False,
) -> None:
    """Check that every field says what it is, its unit, sensitivity, purposes, owner and review date.

    Fails on the first schema that does not parse, on any field that leaves
    something out, on a review date that has passed, and when the data
    dictionary is not the one that these schemas make.
    """
    from schemas.check import problems
    from schemas.dictionary import render

    day = (today or datetime.now(UTC)).date()
    schemas = _all()
    found = [problem for schema in schemas for problem in problems(schema.definition, day)]
    # A page can only be made of schemas that keep the rules.
    if not found and page.parent.is_dir() and _text_of(page) != render(schemas):
        found.append(f"{page.name}: differs from the schemas; run `tidegate schemas dictionary --write` and commit it")
    if as_json:
        typer.echo(json.dumps({"schemas": len(schemas), "problems": found}, indent=2))
    elif found:
        for problem in found:
            typer.echo(problem)
    else:
        typer.echo(f"{len(schemas)} schemas, {_fields(schemas)} fields: every field is described, owned and reviewed")
    if found:
        _fail(f"{len(found)} problem{'s' if len(found) > 1 else ''} in schemas/avro; see above")


@app.command()
def dictionary(
    write: Annotated[
        bool, typer.Option("--write", help="Write the page instead of showing what would change.")
    ] = False,
    page: Annotated[Path, typer.Option(help="Where the page is.")] = PAGE,
) -> None:
    """Make the data dictionary from the schemas; without --write, print how the page differs (exit 1 if it does)."""
    from schemas.dictionary import render

    try:
        made = render(_all())
    except KeyError as error:
        _fail(f"a field has no {error.args[0]}: run `tidegate schemas check` first")
    there = _text_of(page)
    if write:
        try:
            page.write_text(made, encoding="utf-8")
        except OSError as error:
            _fail(f"{page} cannot be written ({error.strerror}); name another with --page")
        typer.echo(f"{page}: {'unchanged' if there == made else 'written'}")
    elif there != made:
        lines = difflib.unified_diff(
            there.splitlines(), made.splitlines(), str(page), "made from the schemas", lineterm=""
        )
        for line in lines:
            typer.echo(line)
        _fail(f"{page} differs from the schemas: run `tidegate schemas dictionary --write`")
    else:
        typer.echo(f"{page}: as the schemas make it")


@app.command()
def compat(
    versions: Annotated[
        list[str],
        typer.Argument(metavar="OLD... NEW", help="Earlier versions, then the new one: files, or names of ours."),
    ],
) -> None:
    """Say whether the last schema given can read what all earlier ones wrote (BACKWARD_TRANSITIVE).

    For example `tidegate schemas compat main/policy.avsc policy`: a file
    against the schema of that name in the catalogue.
    """
    from schemas.compatibility import check_backward_transitive

    if len(versions) < 2:
        _fail("two schemas are needed: the earlier versions, then the new one", code=2)
    *earlier, new = [(given, _given(given)) for given in versions]
    try:
        objections = check_backward_transitive(new[1], earlier)
    except SchemaError as error:
        _fail(str(error))
    for objection in objections:
        typer.echo(objection)
    if objections:
        _fail(f"{new[0]} cannot read everything that was written before it")
    typer.echo(f"{new[0]} reads everything that {'those' if len(earlier) > 1 else earlier[0][0]} wrote")


def _all() -> list[Schema]:
    """Load every schema, those on topics first, in the order of the data's way."""
    order = list(SUBJECTS_OF_TOPICS.values())
    try:
        return [load(name) for name in (*order, *(name for name in names() if name not in order))]
    except SchemaError as error:
        _fail(str(error))


def _given(name: str) -> str:
    """Return the JSON text of a file, or of a schema of the catalogue."""
    try:
        return load(name).raw if name in names() else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"{name} is neither a readable file nor one of {', '.join(names())} ({type(error).__name__})")


def _text_of(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _fields(schemas: list[Schema]) -> int:
    return sum(len(schema.header) + len(schema.columns) for schema in schemas)


def _fail(message: str, code: int = 1) -> NoReturn:
    # TidegateError belongs to infra, which schemas may not import; this looks the same.
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)
