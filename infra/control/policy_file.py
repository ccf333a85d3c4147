"""A policy as people write it: a YAML file, checked against the schema before it becomes a record.

The notice and the approvers' public keys may stand in files of their own beside it.
Every problem names the file, the line, the path within it and, where a name is not
known, the nearest one that is. All problems of a file are shown at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from infra.control.keyring import public_key, why_unreadable
from infra.control.policy_rules import check
from infra.control.policy_shape import File, Named, Notice, Place, Problem, duration_ms, read_shape
from infra.control.records import Approver, Policy, PurposeRule, policy_fault
from infra.errors import TidegateError

__all__ = ["duration_ms", "load_policy"]

MAX_NOTICE_BYTES = 65_536
"""Every gate holds the notice in memory, and nobody reads a longer one."""


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
    lines: dict[Place, int] = {}
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
    file, problems = read_shape(raw)
    if file is None:
        return None, problems
    amiss: list[Problem] = []
    beside = _Beside(_notice(file.notice, folder, amiss), _keys(file.approvers, folder, amiss))
    amiss += check(file, beside.keys, now_ms)
    # What a stand-in has, or lacks, is no fault of the file's.
    problems += [(at, what) for at, what in amiss if not any(where[: len(at)] == at for where, _ in problems)]
    if problems:
        return None, problems
    policy = _record(file, beside)
    fault = policy_fault(policy)
    return (None, [((), fault)]) if fault else (policy, [])


def _record(file: File, beside: _Beside) -> Policy:
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


def _notice(notice: Notice, folder: Path, problems: list[Problem]) -> str:
    """Return the notice's text; what is wrong with it goes to `problems`."""
    at: Place = ("notice", "file" if notice.text is None else "text")
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


def _keys(approvers: Mapping[str, Named], folder: Path, problems: list[Problem]) -> dict[str, str]:
    """Return the public keys, hex, by approver; what is wrong with one goes to `problems`."""
    found: dict[str, str] = {}
    for name, said in approvers.items():
        try:
            found[name] = public_key(said.key, folder)
        except ValueError as error:
            problems.append((("approvers", name, "key"), str(error)))
    return found


def _number(node: yaml.Node, at: Place, lines: dict[Place, int]) -> Iterator[Problem]:
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


def _line(lines: Mapping[Place, int], at: Place) -> int:
    """The line of a path, or of the nearest thing around it: what is missing has none."""
    while at and at not in lines:
        at = at[:-1]
    return lines.get(at, 1)


def _dotted(at: Place) -> str:
    names = [str(step) for step in at if isinstance(step, str)]
    return ".".join(names) + ": " if names else ""
