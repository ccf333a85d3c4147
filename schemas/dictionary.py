"""The data dictionary: a page for the people who are recorded, made from the schemas and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from schemas.catalogue import SUBJECTS_OF_TOPICS, Schema
from schemas.check import PURPOSES, SENSITIVITIES

_INTRODUCTION = """# Data dictionary

Every field that Tidegate can hold about anybody, what it is for, and who answers for it. \
This page is made from `schemas/avro/*.avsc` by `tidegate schemas dictionary --write`; \
a field that is not here cannot be recorded, and the build fails when page and schemas differ.

Nothing is recorded without a policy in force and your consent to one of its purposes, \
and of an event only the fields that the policy lists for that purpose are kept. \
Of keys, only the class and the timing exist: there is no field for the character.
"""


def render(schemas: Iterable[Schema]) -> str:
    """Return the page, in Markdown, for schemas in the order given."""
    return "\n".join(line for part in (_opening(), *map(_section, schemas)) for line in part)


def _opening() -> Iterator[str]:
    yield _INTRODUCTION
    yield "## How sensitive a field is\n"
    yield from (f"* **{name}**: {meaning}" for name, meaning in SENSITIVITIES.items())
    yield "\n## What it may be used for\n"
    yield from (f"* **{name}**: {meaning}" for name, meaning in PURPOSES.items())
    yield "\nA *column* holds one value for each row of its group: for each event, batch, drop count or dead letter."


def _section(schema: Schema) -> Iterator[str]:
    topics = [f"`{topic}`" for topic, name in SUBJECTS_OF_TOPICS.items() if name == schema.name]
    yield f"\n## {schema.definition['name']}\n"
    yield f"{schema.definition['doc']}\n"
    yield f"File `schemas/avro/{schema.name}.avsc`, topic {', '.join(topics) or 'none'}."
    yield from _fields(schema.definition)


def _fields(record: Mapping[str, Any]) -> Iterator[str]:
    header = [field for field in record["fields"] if "column" not in field]
    yield from _table(header)
    for group in dict.fromkeys(field["column"] for field in record["fields"] if "column" in field):
        yield f"\nColumns, one value for each {_ROW.get(group, group)}:"
        yield from _table([field for field in record["fields"] if field.get("column") == group])
    for inner in _defined(record):
        if inner["type"] == "record":
            yield f"\n### {inner['name']}\n\n{inner['doc']}"
            yield from _fields(inner)
        else:
            yield f"\n**{inner['name']}**: {inner['doc']} {', '.join(f'`{symbol}`' for symbol in inner['symbols'])}."


_ROW = {"event": "event", "batch": "batch", "drop": "drop count", "dead": "message that could not be read"}


def _table(fields: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield "\n| field | what it is | type | unit | sensitivity | purposes | owner | review |"
    yield "|---|---|---|---|---|---|---|---|"
    for field in fields:
        name, type_ = f"`{field['name']}`", _type_name(field["type"], column="column" in field)
        about = [field["doc"], type_, field["unit"], field["sensitivity"], ", ".join(field["purposes"])]
        yield f"| {' | '.join(_cell(text) for text in (name, *about, field['owner'], field['review']))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _type_name(type_: Any, *, column: bool = False) -> str:  # a JSON value
    if isinstance(type_, str):
        return type_
    if isinstance(type_, list):
        return " or ".join(_type_name(branch) for branch in type_)
    match type_["type"]:
        case "array":
            items = _type_name(type_["items"])
            return items if column else f"list of {items}"
        case "map":
            return f"{_type_name(type_['values'])} by name"
    return str(type_.get("name", type_["type"]))


def _defined(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """List the records and enums that a record's fields define, in order."""
    for field in record["fields"]:
        type_ = field["type"]
        while isinstance(type_, dict) and type_["type"] in ("array", "map"):
            type_ = type_.get("items", type_.get("values"))
        if isinstance(type_, dict) and type_["type"] in ("record", "enum"):
            yield type_
