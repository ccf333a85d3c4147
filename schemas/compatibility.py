"""May the next version of a schema be put in force? BACKWARD_TRANSITIVE: it must read all that was ever written.

The rules are the Apache `avro` package's. It names what it objects to by
position ("/fields/13/type/items"); here that becomes the path of the field, and
a reason a person can act on. Attributes of ours (unit, purposes, column, ...)
are not its concern: adding one changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.errors import AvroException

from schemas.catalogue import SchemaError


@dataclass(frozen=True, slots=True, order=True)
class Incompatibility:
    """One place where a reader cannot take what a writer wrote."""

    path: str
    """The field, with those that hold it: `purposes.retention_days`. Empty for the record itself."""
    reason: str

    def __str__(self) -> str:
        return f"`{self.path or 'the record'}` {self.reason}"


def parse(raw: str) -> avro.schema.Schema:
    """Parse a schema's JSON text by the Apache package's rules. Raises SchemaError."""
    try:
        return avro.schema.parse(raw)
    except (AvroException, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # The package raises whatever its dictionaries raise on JSON that is no schema.
        raise SchemaError(f"not an Avro schema: {error}") from error


def incompatibilities(reader: avro.schema.Schema, writer: avro.schema.Schema) -> list[Incompatibility]:
    """Return every place where `reader` cannot read what `writer` wrote; empty where it reads all."""
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # the package lacks this type
    result = checker.get_compatibility(reader, writer)
    if result.compatibility is SchemaCompatibilityType.compatible:
        return []
    # The package adds "/" to every list of places it merges with an empty one,
    # and has nothing else to offer where the writer's type was a union.
    places = result.locations - {"/"} or {f"/fields/{index}/type" for index in _unlike(reader, writer)}
    return sorted({_explain(reader, writer, place) for place in places})


def _differ(reader: Any, writer: Any) -> bool:
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # the package lacks this type
    return checker.get_compatibility(reader, writer).compatibility is not SchemaCompatibilityType.compatible


def _unlike(reader: Any, writer: Any) -> list[int]:
    """Find the fields of two records that do not fit, by looking at each alone."""
    both = [
        (i, f.type, writer.fields_dict[f.name].type)
        for i, f in enumerate(reader.fields)
        if f.name in writer.fields_dict
    ]
    return [i for i, new, old in both if _differ(new, old)]


def check_backward_transitive(new: str, earlier: Sequence[tuple[str, str]]) -> list[str]:
    """Hold a new schema against all earlier ones, given as (label, JSON text).

    Returns a sentence for each objection; none where the new schema may be put
    in force. Raises SchemaError where a text is no schema.
    """
    reader = parse(new)
    return [
        f"{incompatibility} (against {label})"
        for label, raw in earlier
        for incompatibility in incompatibilities(reader, parse(raw))
    ]


# How a location ends, and what it means. The package keeps its messages in a
# set apart from the places, so which belongs to which cannot be told.
_REASONS = {
    "symbols": "loses enum symbols that earlier messages hold, and has no default symbol for them",
    "name": "has a named type of another name",
    "size": "has a fixed type of another size",
}


def _explain(reader: Any, writer: Any, place: str) -> Incompatibility:
    """Turn a place like `/fields/3/type/items/symbols` into the path of the field and a reason."""
    steps = iter(step for step in place.split("/") if step)
    path: list[str] = []
    whole = reader
    for step in steps:
        if step == "fields":
            field = reader.fields[int(next(steps))]
            path.append(field.name)
            whole, reader, writer = field.type, field.type, _written(writer, field)
            if writer is None:
                return Incompatibility(".".join(path), "is new and has no default, so earlier messages cannot be read")
        elif step in ("items", "values"):
            reader, writer = getattr(reader, step), getattr(writer, step, None)
        elif step in _REASONS:
            return Incompatibility(".".join(path), _REASONS[step])
        # "type" moves nowhere, and what branch of a union it is does not change the field's name.
    return Incompatibility(".".join(path), f"is now {_type_name(whole)}, which cannot hold what earlier messages hold")


def _written(writer: Any, field: Any) -> Any:
    """Return the writer's type of a reader's field, by its name or an earlier one; None where it has none."""
    fields = getattr(writer, "fields_dict", {})
    names = (field.name, *(field.props.get("aliases") or ()))
    return next((fields[name].type for name in names if name in fields), None)


def _type_name(schema: Any) -> str:
    if schema.type == "array":
        return f"array of {_type_name(schema.items)}"
    if schema.type == "map":
        return f"map of {_type_name(schema.values)}"
    return str(getattr(schema, "name", schema.type))
