"""A policy as people write it: a YAML file, checked against the schema before it becomes a record.

Every problem names the file, the line, the path within it and, where a name is not
known, the nearest one that is. All problems of a file are shown at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from infra.control.purposes import known_purposes, served_fields
from infra.control.records import Policy, PurposeRule, policy_fault, window_faults
from infra.control.suggest import unknown
from infra.errors import TidegateError
from schemas.catalogue import POLICY_FIELDS, SOURCES

Path_ = tuple[str | int, ...]
_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(value: object) -> int:
    """Return the ms of a duration as people write it (`10s`, `250ms`, `1.5 min`). Raises ValueError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", str(value).strip())
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
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is not a date; write 2026-01-31 or 2026-01-31T12:00:00Z") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("has a time of day without a zone; end it with Z for UTC")
        return round(value.timestamp() * 1000)
    if isinstance(value, date):
        return round(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp() * 1000)
    raise ValueError("is not a date; write 2026-01-31")


def _text(value: object) -> str:
    """YAML reads a version such as `1` as a number."""
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    raise ValueError("must be a text that is not empty")


Duration = Annotated[int, BeforeValidator(duration_ms)]
Moment = Annotated[int, BeforeValidator(_moment_ms)]
Text = Annotated[str, BeforeValidator(_text)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Valid(_Part):
    begin: Moment = Field(alias="from")
    until: Moment


class _Window(_Part):
    kind: Literal["tumbling", "hopping", "session"]
    size: Duration
    step: Duration | None = None
    gap: Duration | None = None
    lateness: Duration

    @property
    def step_or_size(self) -> int:
        """From the start of one window to the next, ms: the size, where windows do not hop."""
        return self.size if self.step is None else self.step


class _Minimise(_Part):
    grid: Annotated[int, BeforeValidator(_pixels)]
    resolution: Duration


class _Purpose(_Part):
    description: Text
    sources: list[str]
    fields_: list[str] = Field(alias="fields")
    retention_days: int


class _File(_Part):
    name: Text
    version: int
    valid: _Valid
    notice: Text
    window: _Window
    minimise: _Minimise
    future_tolerance: Duration
    purposes: dict[str, _Purpose]
    approvers: list[Text] = []


def load_policy(path: Path, now_ms: int) -> Policy:
    """Read a policy file. `applied_at` and `applied_by` are left empty for whoever applies it.

    Raises TidegateError, one line a problem, when it cannot be read, does not have
    the shape, names what the schema does not know or serve, or has run out by
    `now_ms` (UTC epoch ms).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TidegateError(f"cannot read the policy file {path}: {_reason(error)}.") from error
    lines: dict[Path_, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        problems = list(_number(node, (), lines)) if node is not None else []
        raw = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise TidegateError(f"{path}:{line}: not YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise TidegateError(f"{path}: not YAML: a character or a date that does not exist.") from error
    policy, more = _policy_of(raw, now_ms)
    problems += more
    if problems or policy is None:
        shown = [f"{path}:{_line(lines, at)}: {_dotted(at)}{what}" for at, what in problems]
        raise TidegateError("the policy has problems and was not used:\n  " + "\n  ".join(shown))
    return policy


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "unreadable").lower() if isinstance(error, OSError) else "it is not UTF-8 text"


def _policy_of(raw: object, now_ms: int) -> tuple[Policy | None, list[tuple[Path_, str]]]:
    if not isinstance(raw, dict):
        return None, [((), "is not a policy: it has no name, version, purposes and so on")]
    try:
        file = _File.model_validate(raw)
    except ValidationError as error:
        return None, [_explain(problem) for problem in error.errors()]
    problems = [*_check_window(file.window), *_check_purposes(file.purposes), *_check_rest(file, now_ms)]
    policy = _record(file)
    if not problems and policy_fault(policy):
        problems.append(((), policy_fault(policy)))
    return policy, problems


def _record(file: _File) -> Policy:
    window = file.window
    return Policy(
        name=file.name,
        version=file.version,
        valid_from=file.valid.begin,
        valid_until=file.valid.until,
        notice=file.notice,
        purposes=tuple(
            PurposeRule(name, rule.description, tuple(rule.sources), tuple(rule.fields_), rule.retention_days)
            for name, rule in file.purposes.items()
        ),
        grid_px=file.minimise.grid,
        resolution_ms=file.minimise.resolution,
        future_tolerance_ms=file.future_tolerance,
        window_kind=window.kind,
        window_size_ms=window.size,
        window_step_ms=window.step_or_size,
        window_gap_ms=window.gap or 0,
        lateness_ms=window.lateness,
        approvers=tuple(file.approvers),
        applied_at=0,
        applied_by="",
    )


def _check_window(window: _Window) -> Iterator[tuple[Path_, str]]:
    if window.kind == "hopping" and window.step is None:
        yield ("window",), "a hopping window needs a step"
    for part, what in window_faults(window.kind, window.size, window.step_or_size, window.gap or 0, window.lateness):
        yield ("window",) if getattr(window, part) is None else ("window", part), what


def _check_purposes(purposes: Mapping[str, _Purpose]) -> Iterator[tuple[Path_, str]]:
    if not purposes:
        yield ("purposes",), "is empty: nothing could be recorded"
    for name, rule in purposes.items():
        at: Path_ = ("purposes", name)
        if name not in known_purposes():
            yield at, unknown("purpose", name, known_purposes()) + " No field of the schema serves it."
            continue
        for place, source in enumerate(rule.sources):
            if source not in SOURCES:
                yield (*at, "sources", place), unknown("source", source, SOURCES)
        for place, listed in enumerate(rule.fields_):
            if listed not in POLICY_FIELDS:
                yield (*at, "fields", place), unknown("field", listed, POLICY_FIELDS)
            elif listed not in served_fields(name):
                yield (*at, "fields", place), f"`{listed}` may not serve {name}: the schema does not list that purpose"
        if rule.retention_days < 1:
            yield (*at, "retention_days"), "must be at least 1"


def _check_rest(file: _File, now_ms: int) -> Iterator[tuple[Path_, str]]:
    if file.version < 1:
        yield ("version",), "must be at least 1"
    if file.valid.until <= file.valid.begin:
        yield ("valid", "until"), "must come after from"
    elif file.valid.until <= now_ms:
        yield ("valid", "until"), "has passed: this policy has run out"
    if file.minimise.grid < 1:
        yield ("minimise", "grid"), "must be at least 1px"
    if file.minimise.resolution < 1:
        yield ("minimise", "resolution"), "must be at least 1ms"


def _explain(problem: Any) -> tuple[Path_, str]:  # pydantic's ErrorDetails, whose location may be anything
    at: Path_ = tuple(problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return at, unknown("key", str(at[-1]), _keys_at(at[:-1]))
        case "missing":
            return at, "is missing"
        case "value_error":
            return at, str(problem["ctx"]["error"])
        case _:
            return at, str(problem["msg"])


def _keys_at(at: Path_) -> list[str]:
    """The keys that a mapping at this path may have."""
    parts: dict[str, type[_Part]] = {"valid": _Valid, "window": _Window, "minimise": _Minimise, "purposes": _Purpose}
    part = parts.get(str(at[0]), _File) if at else _File
    return [field.alias or name for name, field in part.model_fields.items()]


def _number(node: yaml.Node, at: Path_, lines: dict[Path_, int]) -> Iterator[tuple[Path_, str]]:
    """Note each path's line; a key that stands twice is a problem, since YAML would keep the last in silence."""
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*at, str(key.value))
            if path in lines:
                yield path, "stands twice"
            lines[path] = key.start_mark.line + 1
            yield from _number(value, path, lines)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield from _number(value, (*at, place), lines)


def _line(lines: Mapping[Path_, int], at: Path_) -> int:
    """The line of a path, or of the nearest thing around it: what is missing has none."""
    while at and at not in lines:
        at = at[:-1]
    return lines.get(at, 1)


def _dotted(at: Path_) -> str:
    names = [str(step) for step in at if isinstance(step, str)]
    return ".".join(names) + ": " if names else ""
