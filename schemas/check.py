"""The rules every schema keeps: each field says what it is, what it may serve, and who answers for it.

A field without these cannot be shown to the people it is about, so it may not
exist. Pure: the date is an argument, and the answer is a list of sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

SENSITIVITIES: Mapping[str, str] = {
    "operational": "about the machinery; says nothing about a person.",
    "pseudonymous": "tells one person's records from another's, not who it is.",
    "behavioural": "says what a person did.",
    "content": "may hold what a person saw or wrote; never leaves the minimiser.",
    "identifying": "stands for one person wherever it appears.",
}
"""What a field can give away, from least to most."""

PURPOSES: Mapping[str, str] = {
    "operations": "running the platform: ordering, counting, stopping, keeping the books.",
    "assistant-training": "training assistants that help with work on a computer.",
    "usability-research": "finding where programs are hard to use.",
}
"""What a field may be used for."""

TEXT_ATTRIBUTES = ("doc", "unit", "sensitivity", "owner", "review")


def problems(definition: Mapping[str, Any], today: date) -> list[str]:
    """Return what is wrong with a schema, a sentence each, naming the field; none where all is well.

    `definition` is the schema's JSON; `today` is what review dates are held against.
    """
    return list(_record(definition, str(definition.get("name", "?")), today))


def _record(record: Mapping[str, Any], path: str, today: date) -> Iterator[str]:
    if not _is_text(record.get("doc")):
        yield f"{path}: the record has no doc"
    column = ""
    for field in record.get("fields", ()):
        where = f"{path}.{field['name']}"
        yield from (f"{where}: {problem}" for problem in _field(field, today))
        yield from _type(field["type"], where, today)
        if "column" in field:
            column = field["name"]
        elif column:
            yield f"{where}: is no column but follows `{column}`, which is; header fields come first"


def _field(field: Mapping[str, Any], today: date) -> Iterator[str]:
    missing = [name for name in TEXT_ATTRIBUTES if not _is_text(field.get(name))]
    if missing:
        yield f"has no {', no '.join(missing)}"
    sensitivity, purposes, review = (field.get(name) for name in ("sensitivity", "purposes", "review"))
    if _is_text(sensitivity) and sensitivity not in SENSITIVITIES:
        yield f"sensitivity `{sensitivity}` is none of {', '.join(SENSITIVITIES)}"
    if not isinstance(purposes, list) or not purposes:
        yield "has no purposes: a field that serves none may not exist"
    else:
        unknown = [str(purpose) for purpose in purposes if purpose not in PURPOSES]
        if unknown:
            yield f"purpose `{unknown[0]}` is none of {', '.join(PURPOSES)}"
    if _is_text(review):
        yield from _review(str(review), today)
    if "column" in field and not _is_text(field["column"]):
        yield "`column` names no group"


def _review(review: str, today: date) -> Iterator[str]:
    try:
        due = date.fromisoformat(review)
    except ValueError:
        yield f"review `{review}` is no date like 2027-06-01"
        return
    if due < today:
        yield f"its review was due on {review}: its owner must look at it again and set a new date"


def _type(type_: object, path: str, today: date) -> Iterator[str]:
    """Check what a field's type defines: records and enums, however deep."""
    if isinstance(type_, list):
        for branch in type_:
            yield from _type(branch, path, today)
    elif isinstance(type_, dict):
        match type_.get("type"):
            case "record":
                yield from _record(type_, path, today)
            case "enum" if not _is_text(type_.get("doc")):
                yield f"{path}: enum {type_.get('name')} has no doc"
            case "array":
                yield from _type(type_.get("items"), path, today)
            case "map":
                yield from _type(type_.get("values"), path, today)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
