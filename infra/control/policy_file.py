"""A policy as people write it: a YAML file, checked against the schema before it becomes a record.

The notice and the approvers' public keys may stand in files of their own beside it.
Every problem names the file, the line, the path within it and, where a name is not
known, the nearest one that is. All problems of a file are shown at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from infra.control.keyring import public_key, why_unreadable
from infra.control.purposes import known_purposes, served_fields
from infra.control.records import Approver, Policy, PurposeRule, policy_fault, window_faults
from infra.control.signing import APPROVALS
from infra.control.suggest import unknown
from infra.errors import TidegateError
from schemas.catalogue import POLICY_FIELDS, SOURCES

Path_ = tuple[str | int, ...]
Problem = tuple[Path_, str]
MAX_NOTICE_BYTES = 65_536
"""Every gate holds the notice in memory, and nobody reads a longer one."""
_INT = 2**31 - 1
"""What the record's int fields hold."""
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


class _Notice(_Part):
    version: Text
    file: Text | None = None
    text: Text | None = None


class _Approver(_Part):
    key: Text
    until: Moment | None = None


class _File(_Part):
    name: Text
    version: int
    valid: _Valid
    notice: _Notice
    window: _Window
    minimise: _Minimise
    future_tolerance: Duration
    purposes: dict[str, _Purpose]
    approvers: dict[str, _Approver]
    teams: list[Text] = []


class _Beside(NamedTuple):
    """What stands in files beside the policy."""

    notice: str
    keys: Mapping[str, str]
    """By approver, their public key, hex."""


class _Loader(yaml.SafeLoader):
    """Leaves dates as they are written: a date that does not exist is a problem of its line, not of the file."""


_LEFT = "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != _LEFT]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_policy(path: Path, now_ms: int) -> Policy:
    """Read a policy file, its notice and its keys. `applied_at` and `applied_by` are left empty for whoever applies it.

    Raises TidegateError, one line a problem, when it cannot be read, does not have
    the shape, names what the schema does not know or serve, has run out by `now_ms`
    (UTC epoch ms), or has not two approvers whose keys are good.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TidegateError(f"cannot read the policy file {path}: {why_unreadable(error)}.") from error
    lines: dict[Path_, int] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        problems = list(_number(node, (), lines)) if node is not None else []
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise TidegateError(f"{path}:{line}: not YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TidegateError(f"{path}: not YAML: a character that may not stand there, or too deep.") from error
    policy, more = _policy_of(raw, path.parent, now_ms)
    problems += more
    if problems or policy is None:
        placed = sorted((_line(lines, at), f"{path}:{_line(lines, at)}: {_dotted(at)}{what}") for at, what in problems)
        shown = dict.fromkeys(line for _, line in placed)
        count = "a problem" if len(shown) == 1 else f"{len(shown)} problems"
        raise TidegateError(f"the policy has {count} and was not used:\n  " + "\n  ".join(shown))
    return policy


def _policy_of(raw: object, folder: Path, now_ms: int) -> tuple[Policy | None, list[Problem]]:
    if not isinstance(raw, dict):
        return None, [((), "is not a policy: it has no name, version, purposes and so on")]
    file, problems = _shape(raw)
    if file is None:
        return None, problems
    amiss: list[Problem] = []
    beside = _Beside(_notice(file.notice, folder, amiss), _keys(file.approvers, folder, amiss))
    amiss += [*_check_window(file.window), *_check_purposes(file.purposes), *_check_rest(file, now_ms)]
    amiss += _check_approvers(file.approvers, beside.keys, now_ms)
    # What a stand-in has, or lacks, is no fault of the file's.
    problems += [(at, what) for at, what in amiss if not any(where[: len(at)] == at for where, _ in problems)]
    if problems:
        return None, problems
    policy = _record(file, beside)
    fault = policy_fault(policy)
    return (None, [((), fault)]) if fault else (policy, [])


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


def _shape(raw: dict[Any, Any]) -> tuple[_File | None, list[Problem]]:
    """Read the parts that have the right shape, and say what is wrong with the others.

    In their place stand sound ones, so that all problems can be shown at once;
    None where even that is not possible.
    """
    try:
        return _File.model_validate(raw), []
    except ValidationError as error:
        problems = _explained(error)
    mended = {name: raw.get(name, _STAND_INS[name]) for name in _STAND_INS}
    for (part, *inner), _ in problems:
        if part in ("purposes", "approvers") and inner and isinstance(mended[part], dict):
            mended[part] = {name: value for name, value in mended[part].items() if name != inner[0]}
        elif part in _STAND_INS:
            mended[str(part)] = _STAND_INS[str(part)]
    try:
        return _File.model_validate(mended), problems
    except ValidationError:
        return None, problems


def _record(file: _File, beside: _Beside) -> Policy:
    window = file.window
    return Policy(
        name=file.name,
        version=file.version,
        valid_from=file.valid.begin,
        valid_until=file.valid.until,
        notice=file.notice.version,
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
        approvers=tuple(Approver(name, beside.keys[name], said.until or 0) for name, said in file.approvers.items()),
        applied_at=0,
        applied_by="",
        notice_text=beside.notice,
        teams=tuple(file.teams),
    )


def _notice(notice: _Notice, folder: Path, problems: list[Problem]) -> str:
    """Return the notice's text; what is wrong with it goes to `problems`."""
    at: Path_ = ("notice", "file" if notice.text is None else "text")
    if (notice.file is None) == (notice.text is None):
        problems.append((("notice",), "needs its text: either `file`, a file beside the policy, or `text`"))
        return ""
    text, where = notice.text or "", "it"
    if notice.file is not None:
        where = str(folder / notice.file)
        try:
            text = Path(where).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            problems.append((at, f"cannot read {where}: {why_unreadable(error)}"))
            return ""
    if not text.strip():
        problems.append((at, f"{where} is empty: people could not know what they agree to"))
    elif len(text.encode()) > MAX_NOTICE_BYTES:
        problems.append((at, f"{where} is longer than {MAX_NOTICE_BYTES // 1024} KiB: nobody reads that"))
    return text


def _keys(approvers: Mapping[str, _Approver], folder: Path, problems: list[Problem]) -> dict[str, str]:
    """Return the public keys, hex, by approver; what is wrong with one goes to `problems`."""
    found: dict[str, str] = {}
    for name, said in approvers.items():
        try:
            found[name] = public_key(said.key, folder)
        except ValueError as error:
            problems.append((("approvers", name, "key"), str(error)))
    return found


def _check_window(window: _Window) -> Iterator[Problem]:
    if window.kind == "hopping" and window.step is None:
        yield ("window",), "a hopping window needs a step"
    for part, what in window_faults(window.kind, window.size, window.step_or_size, window.gap or 0, window.lateness):
        yield ("window",) if getattr(window, part) is None else ("window", part), what


def _check_purposes(purposes: Mapping[str, _Purpose]) -> Iterator[Problem]:
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


def _check_rest(file: _File, now_ms: int) -> Iterator[Problem]:
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
    sizes: dict[Path_, int] = {
        ("version",): file.version,
        ("minimise", "grid"): file.minimise.grid,
        ("minimise", "resolution"): file.minimise.resolution,
        ("future_tolerance",): file.future_tolerance,
    }
    sizes |= {("purposes", name, "retention_days"): rule.retention_days for name, rule in file.purposes.items()}
    yield from ((at, "is too large") for at, size in sizes.items() if size > _INT)
    for place, team in enumerate(file.teams):
        if team in file.teams[:place]:
            yield ("teams", place), f"`{team}` stands twice"


def _check_approvers(approvers: Mapping[str, _Approver], keys: Mapping[str, str], now_ms: int) -> Iterator[Problem]:
    if len(approvers) < APPROVALS:
        yield (
            ("approvers",),
            "needs two people or more, or nobody could ever allow anything; "
            "`tidegate keys new NAME` makes the key of one and prints the line for here",
        )
    owners: dict[str, str] = {}
    for name, said in approvers.items():
        if not name.strip():
            yield ("approvers", name), "an approver has no name"
        if said.until is not None and said.until <= now_ms:
            yield ("approvers", name, "until"), f"has passed: the signature of {name} no longer counts"
        if name in keys and owners.setdefault(keys[name], name) != name:
            yield ("approvers", name, "key"), f"is the key of {owners[keys[name]]} too: two people need two keys"


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
    at: Path_ = tuple(problem["loc"])
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


def _keys_at(at: Path_) -> list[str]:
    """The keys that a mapping at this path may have."""
    parts: dict[str, type[_Part]] = {
        "valid": _Valid,
        "notice": _Notice,
        "window": _Window,
        "minimise": _Minimise,
        "purposes": _Purpose,
        "approvers": _Approver,
    }
    part = parts.get(str(at[0]), _File) if at else _File
    return [field.alias or name for name, field in part.model_fields.items()]


def _number(node: yaml.Node, at: Path_, lines: dict[Path_, int]) -> Iterator[Problem]:
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
