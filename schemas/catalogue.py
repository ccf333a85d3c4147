"""The schemas, read from `avro/*.avsc`, and the constants that follow from them.

The files are the one source of truth: whoever needs the code of an event kind,
the names of the columns or the values of an enum finds them here, derived, and
writes none of them down again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import fastavro.schema

COLUMN_TYPES = ("int", "long", "enum")


class SchemaError(ValueError):
    """A schema that is not Avro, or that does not keep the rules of this project. Names schema and field."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: an Avro array of int, long or enum whose n-th item belongs to the n-th row."""

    name: str
    group: str
    """Columns of one group have the same number of rows."""
    type: str
    """`int`, `long` or `enum`."""
    symbols: tuple[str, ...]
    """An enum's symbols; the wire holds their position. Empty for the other types."""
    default_symbol: str
    """What a reader makes of a symbol it does not know; empty where there is none."""
    aliases: tuple[str, ...] = ()
    """Names that the column had in earlier versions."""


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """One Avro record schema, ready for use. Compared by identity; `fingerprint` compares content."""

    name: str
    """The file's name without its ending, for example `interaction_batch`."""
    raw: str
    """The JSON text, attributes and all, as it is registered."""
    definition: Mapping[str, Any]
    """The JSON text as Python values."""
    parsed: Any
    """The schema as fastavro takes it."""
    fingerprint: bytes
    """CRC-64-AVRO of the parsing canonical form, 8 bytes little-endian, as single-object encoding writes it."""
    header: tuple[str, ...]
    """Names of the fields that are no columns, in order. They come before all columns."""
    columns: tuple[Column, ...]
    """The columns in order of the file."""
    groups: Mapping[str, tuple[str, ...]]
    """The names of the columns, by group."""

    @classmethod
    def parse(cls, name: str, raw: str) -> Schema:
        """Read a schema from its JSON text, be it one of ours or one that a registry gave.

        Raises SchemaError when it is not an Avro record, when a field follows a
        column without being one, or when a column is no array of int, long or enum.
        """
        definition = _definition(name, raw)
        try:
            parsed = fastavro.schema.parse_schema(definition, named_schemas={})
            canonical = fastavro.schema.to_parsing_canonical_form(definition)
        except (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType, KeyError, TypeError) as error:
            raise SchemaError(f"schema {name} is not Avro: {error}") from error
        columns = _columns(name, definition)
        groups: dict[str, tuple[str, ...]] = {}
        for column in columns:
            groups[column.group] = (*groups.get(column.group, ()), column.name)
        return cls(
            name=name,
            raw=raw,
            definition=definition,
            parsed=parsed,
            # fastavro prints the fingerprint's bytes in little-endian order already.
            fingerprint=bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")),
            header=tuple(f["name"] for f in definition["fields"] if "column" not in f),
            columns=columns,
            groups=MappingProxyType(groups),
        )


def _definition(name: str, raw: str) -> dict[str, Any]:
    try:
        definition = json.loads(raw)
    except ValueError as error:
        raise SchemaError(f"schema {name} is not JSON: {error}") from error
    if not isinstance(definition, dict) or definition.get("type") != "record":
        raise SchemaError(f"schema {name} is not an Avro record")
    fields = definition.get("fields")
    if not isinstance(fields, list) or not all(isinstance(f, dict) and "name" in f and "type" in f for f in fields):
        raise SchemaError(f"schema {name} has no list of named and typed fields")
    return definition


def _columns(name: str, definition: Mapping[str, Any]) -> tuple[Column, ...]:
    enums: dict[str, Mapping[str, Any]] = {}
    columns: list[Column] = []
    for field in definition["fields"]:
        _collect_enums(field["type"], enums)
        if "column" in field:
            columns.append(_column(name, field, enums))
        elif columns:
            raise SchemaError(
                f"schema {name}: `{field['name']}` is no column but follows `{columns[-1].name}`, which is"
            )
    return tuple(columns)


def _column(name: str, field: Mapping[str, Any], enums: Mapping[str, Mapping[str, Any]]) -> Column:
    array = field["type"]
    items = array.get("items") if isinstance(array, dict) and array.get("type") == "array" else None
    enum = enums.get(_type_name(items))
    kind = "enum" if enum is not None else items
    if kind not in COLUMN_TYPES:
        raise SchemaError(f"schema {name}: column `{field['name']}` is no array of int, long or enum")
    return Column(
        name=field["name"],
        group=str(field["column"]),
        type=kind,
        symbols=tuple(enum["symbols"]) if enum is not None else (),
        default_symbol=str(enum.get("default", "")) if enum is not None else "",
        aliases=tuple(field.get("aliases", ())),
    )


def _collect_enums(type_: object, into: dict[str, Mapping[str, Any]]) -> None:
    """Remember the enums that a type defines: a later field may refer to them by name."""
    if not isinstance(type_, dict):
        return
    if type_.get("type") == "enum":
        into[_type_name(type_)] = type_
    elif type_.get("type") == "array":
        _collect_enums(type_.get("items"), into)


def _type_name(type_: object) -> str:
    name = type_.get("name", "") if isinstance(type_, dict) else type_
    return str(name).rsplit(".", 1)[-1]


def text_of(name: str) -> str:
    """Return the text of `avro/<name>.avsc`. Raises SchemaError when there is no such file."""
    try:
        return (resources.files("schemas") / "avro" / f"{name}.avsc").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SchemaError(f"there is no schema {name}; there are {', '.join(names())}") from error


@cache
def names() -> tuple[str, ...]:
    """Return the names of all schemas, sorted."""
    folder = resources.files("schemas") / "avro"
    return tuple(sorted(entry.name.removesuffix(".avsc") for entry in folder.iterdir() if entry.name.endswith(".avsc")))


@cache
def load(name: str) -> Schema:
    """Return one schema of the catalogue, parsed once a process. Raises SchemaError when it is unknown or wrong."""
    return Schema.parse(name, text_of(name))


# Which schema the values of a topic follow.
SUBJECTS_OF_TOPICS: Mapping[str, str] = MappingProxyType(
    {
        "interactions.raw": "interaction_batch",
        "interactions.minimized": "minimised_block",
        "interactions.deadletter": "dead_letter",
        "control.policy": "policy",
        "control.consent": "consent",
        "control.switch": "switch",
        "control.heartbeat": "heartbeat",
        "control.standing": "standing",
        "control.ack": "ack",
    }
)


def subject_of(topic: str) -> str:
    """Return the registry's subject for a topic's values."""
    return f"{topic}-value"


_BATCH_COLUMNS = {column.name: column for column in _columns("", _definition("", text_of("interaction_batch")))}
_BLOCK_COLUMNS = _columns("", _definition("", text_of("minimised_block")))

KIND_NAMES: tuple[str, ...] = _BATCH_COLUMNS["kind"].symbols
"""Event kinds by code."""
KINDS: Mapping[str, int] = MappingProxyType({symbol: code for code, symbol in enumerate(KIND_NAMES)})
"""Codes of the event kinds."""
BUTTONS: tuple[str, ...] = _BATCH_COLUMNS["button"].symbols
KEY_CLASSES: tuple[str, ...] = _BATCH_COLUMNS["key_class"].symbols
ROLES: tuple[str, ...] = _BATCH_COLUMNS["role"].symbols

EVENT_COLUMNS: tuple[str, ...] = tuple(c.name for c in _BATCH_COLUMNS.values() if c.group == "event")
"""The event columns of an InteractionBatch."""
MINIMISED_EVENT_COLUMNS: tuple[str, ...] = tuple(c.name for c in _BLOCK_COLUMNS if c.group == "event")
"""The event columns of a MinimisedBlock: with `number`, without `label`."""

STRUCTURAL_COLUMNS = ("number", "offset_ms", "kind")
"""Kept whatever a policy says: without them an event is none."""
POLICY_FIELDS: tuple[str, ...] = tuple(name for name in EVENT_COLUMNS if name not in STRUCTURAL_COLUMNS)
"""The event fields that a policy may list."""


def _source_of(kind: str) -> str:
    """Name the source of a kind: its first word. `unknown` has none, so no policy can allow it."""
    word = kind.split("_", 1)[0]
    return {"unknown": "", "key": "keys"}.get(word, word)


SOURCE_OF_KIND: tuple[str, ...] = tuple(_source_of(kind) for kind in KIND_NAMES)
"""The source that each kind's code belongs to; empty for `unknown`."""
SOURCES: tuple[str, ...] = tuple(dict.fromkeys(source for source in SOURCE_OF_KIND if source))
"""The sources a policy may allow."""
