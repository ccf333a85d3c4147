"""What may stand in a log line.

Logs are read by more people, and kept for longer, than the events themselves,
so a field gets in only by being named here. A deny-list would let the next new
field through; this list lets nothing through that nobody thought about. What
is left out is named (`withheld`), so that a missing field is seen and, where
it is harmless, added here in review.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from infra.errors import TidegateError

Scalar = str | int | float | bool | None

# Who speaks; where in the log and the store (never which session); by which
# rules; how much and how long; and what operating a process needs.
_NAMES = """
    event level timestamp component logger worker authority part role pid host version

    topic topics partition partitions offset offsets raw_offset raw_from raw_through block_offset log replay_from
    closed_through watermark append_time slot table database schema schema_id group generation

    policy policy_version notice epoch sequence switch_id reason reasons

    count events batches blocks rows windows kept dropped late refused stored bytes size limit depth attempt attempts
    days restarts seconds milliseconds age_seconds lag_seconds wait_seconds interval_seconds deadline_seconds take
    retry_num wait_for waited_so_far

    address url port path file command exit_code signal state status method outcome error error_type at
    migration checksum query_id setting option stage loop
"""
ALLOWED = frozenset(_NAMES.split())
"""The fields that a log line may have."""

LONGEST = 400
"""Characters of a string that are kept: room for a path or an error message, not for a payload."""


def guard(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that may be logged; the names of the others stand under `withheld`.

    A field passes when its name is in ALLOWED and its value is a scalar or a
    short list of scalars. Mappings, bytes and objects are withheld even under an
    allowed name: their insides were never looked at.
    """
    kept: dict[str, Any] = {}
    withheld: list[str] = []
    for name, value in fields.items():
        if name in ALLOWED and _plain(value):
            kept[name] = value[:LONGEST] if isinstance(value, str) else value
        else:
            withheld.append(name if name.isidentifier() else "?")
    if withheld:
        kept["withheld"] = sorted(withheld)
    return kept


def _plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 32 and all(isinstance(item, Scalar) for item in value)
    return isinstance(value, Scalar)


def describe(error: BaseException) -> dict[str, Any]:
    """Say which error and where, without its text: a `ValueError` likes to quote the value.

    A TidegateError keeps its message, which by its contract holds no personal data.
    """
    described: dict[str, Any] = {"error_type": type(error).__name__, "at": _places(error.__traceback__)}
    if isinstance(error, TidegateError):
        described["error"] = str(error)
    return described


def _places(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-8:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
