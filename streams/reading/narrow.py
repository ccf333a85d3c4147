"""From rows of `windows` to rows of a sample: through the gate once more, one field at a time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.control.gate import Admitted, admit
from infra.control.verdict import Verdict
from schemas.catalogue import BUTTONS, KEY_CLASSES, KIND_NAMES, ROLES
from schemas.events import Events
from streams.reading.permit import Permit

_SYMBOLS = {"kind": KIND_NAMES, "button": BUTTONS, "key_class": KEY_CLASSES, "role": ROLES}
_NUMBERS = {
    "number": pa.int64(),
    "offset_ms": pa.int32(),
    "x": pa.int32(),
    "y": pa.int32(),
    "pressed": pa.int8(),
    "wheel_x": pa.int32(),
    "wheel_y": pa.int32(),
}
_WINDOW = {
    "session": pa.string(),
    "subject": pa.string(),
    "window_kind": pa.string(),
    "window_start": pa.timestamp("ms", "UTC"),
    "window_end": pa.timestamp("ms", "UTC"),
    "step_ms": pa.int64(),
    "policy": pa.string(),
    "policy_version": pa.int32(),
    "notice": pa.string(),
}
_SCREEN = {"screen_width": pa.int32(), "screen_height": pa.int32()}


def file_schema(allowed: Permit) -> pa.Schema:
    """Return the schema of a sample's files: window columns, `events`, then one list a field.

    Enums and applications are dictionary arrays of their names. A field that the
    purpose may not use is not there at all; the screen's size goes with x and y.
    """
    window = {**_WINDOW, **(_SCREEN if _shows_positions(allowed) else {}), "events": pa.int32()}
    fields = [pa.field(name, kind, nullable=False) for name, kind in window.items()]
    fields += [pa.field(name, pa.list_(_item(name)), nullable=False) for name in allowed.fields]
    about = {
        "tidegate.purpose": allowed.purpose,
        "tidegate.policy": f"{allowed.policy}/{allowed.policy_version}",
    }
    return pa.schema(fields, metadata=about)


def stored_columns(allowed: Permit) -> tuple[str, ...]:
    """Return the columns of `windows` that `narrowed` needs."""
    screen = tuple(_SCREEN) if _shows_positions(allowed) else ()
    needed = dict.fromkeys((*_WINDOW, *screen, "applications", "application", *allowed.fields))
    return tuple(needed)


def narrowed(rows: pa.Table, allowed: Permit, verdicts: Mapping[str, Verdict]) -> pa.Table:
    """Return `rows` (columns as `stored_columns`) as a sample may hold them: `file_schema(allowed)`.

    The gate admits the events of each window by its subject's verdict; what it
    refuses is gone, and so is every field that the permit does not list. The
    windows keep their order.

    Raises KeyError when a row's subject has no verdict: it must not be read.
    """
    schema = file_schema(allowed)
    admitted = _admitted(rows, allowed, verdicts)
    left = np.bincount(admitted.events.batch, minlength=rows.num_rows)
    ends = pa.array(np.r_[0, np.cumsum(left)].astype(np.int32))
    columns = []
    for field in schema:
        if field.name == "events":
            columns.append(pa.array(left.astype(np.int32)))
        elif field.name in allowed.fields:
            columns.append(pa.ListArray.from_arrays(ends, _values(rows, admitted, field.name)).cast(field.type))
        else:
            columns.append(_whole(rows, field.name).cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _admitted(rows: pa.Table, allowed: Permit, verdicts: Mapping[str, Verdict]) -> Admitted:
    starts, _ = _flat(rows, "kind")
    batch = np.repeat(np.arange(rows.num_rows, dtype=np.int32), np.diff(starts))
    columns = {name: _flat(rows, name)[1] for name in dict.fromkeys(("application", *allowed.fields))}
    by_row = [verdicts[subject] for subject in rows.column("subject").to_pylist()]
    admitted, _ = admit(Events(batch, columns), by_row, rows.column("applications").to_pylist())
    return admitted


def _values(rows: pa.Table, admitted: Admitted, name: str) -> pa.Array:
    values = admitted.events.columns[name]
    if name == "application":
        return _application_names(rows, admitted)
    if name in _SYMBOLS:
        return pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int8)), pa.array(_SYMBOLS[name]))
    return pa.array(values).cast(_NUMBERS[name])


def _application_names(rows: pa.Table, admitted: Admitted) -> pa.DictionaryArray:
    """Return each admitted event's application; the dictionary is sorted and holds no name of another event."""
    starts, named = _flat(rows, "applications")
    events = admitted.events
    place = starts[events.batch] + events.columns["application"]
    used, codes = np.unique(place, return_inverse=True)
    names, code_of_place = np.unique(named[used].astype(str), return_inverse=True)
    codes = code_of_place[codes].astype(np.int32) if len(used) else np.empty(0, np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names.tolist(), pa.string()))


def _item(name: str) -> pa.DataType:
    if name == "application":
        return pa.dictionary(pa.int32(), pa.string())
    return pa.dictionary(pa.int8(), pa.string()) if name in _SYMBOLS else _NUMBERS[name]


def _whole(rows: pa.Table, name: str) -> pa.Array:
    return rows.column(name).combine_chunks()


def _flat(rows: pa.Table, name: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return where each row's list begins (one more than there are rows), and all items in one array."""
    lists = _whole(rows, name)
    offsets = np.asarray(lists.offsets).astype(np.int64)
    return offsets - offsets[0], lists.flatten().to_numpy(zero_copy_only=False)


def _shows_positions(allowed: Permit) -> bool:
    return bool({"x", "y"} & set(allowed.fields))
