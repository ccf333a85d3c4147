"""The shape of a policy file: its parts, how lengths and dates are written, and what is wrong with one, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from infra.control.suggest import unknown

Place = tuple[str | int, ...]
"""The way to a part of the file, by its keys."""
Problem = tuple[Place, str]
"""Where, and what."""
_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(value: object) -> int:
    """Return the ms of a duration as people write it (`10s`, `250ms`, `1.5 min`). Raises ValueError otherwise."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]+)", str(value).strip())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"is not a duration; write a number and one of {', '.join(_UNITS)}, such as 10s")
    return round(float(match[1]) * _UNITS[match[2]])


def _pixels(value: object) -> int:
    match = re.fullmatch(r"(\d+)\s*(?:px)?", str(value).strip())
    if match is None:
        raise ValueError("is not a number of pixels; write 8px")
    return int(match[1])


def _moment_ms(value: object) -> int:
    """A date means its beginning in UTC; a time of day needs its zone."""
    text = str(value)
    try:
        if re.fullmatch(r"\d+-\d+-\d+", text):
            return _epoch_ms(datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC))
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is not a date; write 2026-01-31 or 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("has a time of day without a zone; end it with Z for UTC")
    return _epoch_ms(moment)


def _epoch_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _text(value: object) -> str:
    """YAML reads a version such as `1` as a number."""
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    raise ValueError("must be a text that is not empty; put it in quotes")


Duration = Annotated[int, BeforeValidator(duration_ms)]
Moment = Annotated[int, BeforeValidator(_moment_ms)]
Text = Annotated[str, BeforeValidator(_text)]


class Part(BaseModel):
    """A mapping that knows all its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Valid(Part):
    """From when until when the policy holds."""

    begin: Moment = Field(alias="from")
    until: Moment


class Window(Part):
    """How event time is cut."""

    kind: Literal["tumbling", "hopping", "session"]
    size: Duration
    step: Duration | None = None
    gap: Duration | None = None
    lateness: Duration

    @property
    def step_or_size(self) -> int:
        """From the start of one window to the next, ms: the size, where windows do not hop."""
        return self.size if self.step is None else self.step


class Minimise(Part):
    """How coarse what is kept becomes."""

    grid: Annotated[int, BeforeValidator(_pixels)]
    resolution: Duration


class Purpose(Part):
    """What one purpose may use."""

    description: Text
    sources: list[str]
    fields_: list[str] = Field(alias="fields")
    retention_days: int


class Notice(Part):
    """What people agree to: a file beside the policy, or the text itself."""

    version: Text
    file: Text | None = None
    text: Text | None = None


class Named(Part):
    """An approver's key, and until when it is good."""

    key: Text
    until: Moment | None = None


class File(Part):
    """The whole file."""

    name: Text
    version: int
    valid: Valid
    notice: Notice
    window: Window
    minimise: Minimise
    future_tolerance: Duration
    purposes: dict[str, Purpose]
    approvers: dict[str, Named]
    teams: list[Text] = []


_STAND_INS: Mapping[str, Any] = {
    "name": "x",
    "version": 1,
    "valid": {"from": "2026-01-01", "until": "9999-01-01"},
    "notice": {"version": "1", "text": "x"},
    "window": {"kind": "tumbling", "size": "5s", "lateness": "0s"},
    "minimise": {"grid": "8px", "resolution": "10ms"},
    "future_tolerance": "60s",
    "purposes": {},
    "approvers": {},
    "teams": [],
}


def read_shape(raw: dict[Any, Any]) -> tuple[File | None, list[Problem]]:
    """Read the parts that have the right shape, and say what is wrong with the others.

    In their place stand sound ones, so that all problems can be shown at once;
    None where even that is not possible.
    """
    try:
        return File.model_validate(raw), []
    except ValidationError as error:
        problems = _explained(error)
    mended = {name: raw.get(name, _STAND_INS[name]) for name in _STAND_INS}
    for (part, *inner), _ in problems:
        if part in ("purposes", "approvers") and inner and isinstance(mended[part], dict):
            mended[part] = {name: value for name, value in mended[part].items() if name != inner[0]}
        elif part in _STAND_INS:
            mended[str(part)] = _STAND_INS[str(part)]
    try:
        return File.model_validate(mended), problems
    except ValidationError:
        return None, problems


_SAID = {
    "model_type": "must be a mapping, with the keys {keys}",
    "dict_type": "must be a mapping",
    "list_type": "must be a list, as in [a, b]",
    "string_type": "must be a text; put it in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "literal_error": "must be {expected}",
}


def _explained(error: ValidationError) -> list[Problem]:
    problems = [_explain(problem) for problem in error.errors()]
    # A key with a typo is one problem, not two.
    meant = {(*at[:-1], near[1]) for at, what in problems if (near := re.search(r"did you mean `(.+)`", what))}
    return [(at, what) for at, what in problems if what != _MISSING or at not in meant]


_MISSING = "is missing"


def _explain(problem: Any) -> Problem:  # pydantic's ErrorDetails, whose location may be anything
    at: Place = tuple(problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return at, unknown("key", str(at[-1]), _keys_at(at[:-1]))
        case "missing":
            return at, _MISSING
        case "value_error":
            return at, str(problem["ctx"]["error"])
        case kind:
            said = _SAID.get(kind, str(problem["msg"]).replace("{", "{{").replace("}", "}}"))
            return at, said.format(keys=", ".join(_keys_at(at)), **problem.get("ctx", {}))


def _keys_at(at: Place) -> list[str]:
    """The keys that a mapping at this path may have."""
    parts: dict[str, type[Part]] = {
        "valid": Valid,
        "notice": Notice,
        "window": Window,
        "minimise": Minimise,
        "purposes": Purpose,
        "approvers": Named,
    }
    part = parts.get(str(at[0]), File) if at else File
    return [field.alias or name for name, field in part.model_fields.items()]
