"""`tidegate topics`: check the catalogue, compare it with a broker, create what is missing."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from infra.addresses import Addresses
from infra.errors import TidegateError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The topic catalogue: who owns each topic, what it holds, how long, who reads it.",
    epilog="The catalogue is infra/topics/*.yaml. The broker is the running stack's, or TIDEGATE_KAFKA.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def check(as_json: Json = False) -> None:
    """Check every rule of the catalogue; needs no broker. Exits 1 with the rules that are broken."""
    from infra import topic_rules, topics
    from schemas import catalogue

    listed = topics.load()
    found = topic_rules.problems(listed, catalogue.names())
    if as_json:
        print(json.dumps({"topics": [t.name for t in listed], "problems": found}))
    else:
        _show_catalogue(listed)
    if not found and not as_json:
        print(f"\n{len(listed)} topics keep every rule of the catalogue")
    if found:
        raise TidegateError(f"{len(found)} rules of the topic catalogue are broken:\n  " + "\n  ".join(found))


@app.command()
def plan(as_json: Json = False) -> None:
    """Compare the catalogue with the live broker and change nothing. Exits 3 when they differ."""
    from infra import topics

    found = topics.plan(Addresses.load().need("kafka"), topics.load())
    if as_json:
        print(json.dumps(_as_dict(found)))
    else:
        _show_plan(found)
    if not found.in_line:
        raise typer.Exit(3)


@app.command()
def apply(as_json: Json = False) -> None:
    """Create the missing topics and register every schema. Deletes, shrinks and changes nothing.

    Exits 3 when a topic is there with other settings: those are left to you.
    """
    from infra import telemetry, topics

    telemetry.configure("topics", "error")  # retries are no news: what fails in the end is told in one line
    addresses = Addresses.load()
    broker, registry = addresses.need("kafka"), addresses.need("registry")
    listed = topics.load()
    created = topics.create(broker, topics.plan(broker, listed).create)
    registered = topics.register_schemas(registry, listed)
    left = topics.plan(broker, listed)
    if as_json:
        print(json.dumps({"created": created, "schemas": registered, "left": _as_dict(left)}))
    else:
        print(f"created {len(created)} topics at {broker}" + "".join(f"\n  {name}" for name in created))
        print(f"registered {len(registered)} schemas at {registry}")
        for line in left.differs:
            print(f"left as it is: {line}")
    if not left.in_line:
        raise typer.Exit(3)


def _as_dict(found: Any) -> dict[str, Any]:
    return {
        "broker": found.broker,
        "create": [topic.name for topic in found.create],
        "differs": list(found.differs),
        "not_compared": list(found.unknown),
        "notes": list(found.notes),
    }


def _show_catalogue(listed: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("topic", no_wrap=True)
    for heading in ("owner", "kept", "partitions", "written by", "read by"):
        table.add_column(heading)
    for topic in listed:
        kept = topic.retention_hours if isinstance(topic.retention_hours, str) else f"{topic.retention_hours} h"
        writers, readers = ", ".join(topic.writers), ", ".join(topic.readers)
        table.add_row(topic.name, topic.owner, kept, str(topic.partitions), writers, readers)
    Console(highlight=False).print(table)


def _show_plan(found: Any) -> None:
    if found.in_line:
        print(f"{found.broker} has every topic as the catalogue says")
    for topic in found.create:
        print(f"to create: {topic.name} ({topic.partitions} partitions)")
    for line in found.differs:
        print(f"differs:   {line}")
    for line in found.unknown:
        print(f"not told by the broker, so not compared: {line}")
    for note in found.notes:
        print(f"note: {note}")
