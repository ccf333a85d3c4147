"""Who is in which team, so that a switch over a team stops that team and not everybody.

The directory is a YAML file, by team the identifiers of its people:

    support:
      - 94c4d22162636ae7f64d3c92352b7f7e
    research: []

It ties identifiers to an organisation, so it is nobody's but the minimiser's: the
file must be closed to others, and only the minimiser loads it, once, when it starts.
A producer knows no more than its own team. Who stands in no team may be in any: a
switch over a team stops them too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from infra.control.identity import is_subject
from infra.errors import TidegateError

if TYPE_CHECKING:
    import yaml

VARIABLE = "TIDEGATE_TEAMS"
OWN_VARIABLE = "TIDEGATE_TEAM"
FILE = "teams.yaml"
_SHOWN = 6
"""Digits of an identifier that an error shows: enough to find it in the file, not enough to be it."""


def load_teams(home: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return by subject their team: from the file that TIDEGATE_TEAMS names, else `<home>/teams.yaml`, else nothing.

    Raises TidegateError as `read_teams` does, and where the file that TIDEGATE_TEAMS names is not there.
    """
    given = (os.environ if environ is None else environ).get(VARIABLE, "")
    path = Path(given) if given else home / FILE
    if not given and not path.exists():
        return {}
    return read_teams(path)


def own_team(subjects: Iterable[str], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return by subject the team that TIDEGATE_TEAM names for a producer; without it, nothing is known of them."""
    team = (os.environ if environ is None else environ).get(OWN_VARIABLE, "").strip()
    return dict.fromkeys(subjects, team) if team else {}


def read_teams(path: Path) -> dict[str, str]:
    """Read one directory of teams.

    Raises TidegateError, naming the line and never an identifier in full, when it
    cannot be read or can be read by others, is no such file, or puts a subject in two teams.
    """
    import yaml  # not for a producer, which asks for its own team alone

    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read() if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise TidegateError(
            f"cannot read the teams file {path}: {(error.strerror or 'unreadable').lower()}."
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise TidegateError(f"the teams file {path} can be read by others. Run `chmod 600 {path}`.")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise TidegateError(f"{place}: not YAML.") from None  # its own words quote the text
    return _by_subject(path, node)


def _by_subject(path: Path, node: yaml.Node | None) -> dict[str, str]:
    teams: dict[str, str] = {}
    lines: dict[str, int] = {}
    for team, subject, line in _members(path, node):
        before = teams.setdefault(subject, team)
        if before != team:
            raise TidegateError(
                f"{path}:{line}: the subject {subject[:_SHOWN]}… is in two teams, {before} (line {lines[subject]}) "
                f"and {team}. Leave one."
            )
        lines.setdefault(subject, line)
    return teams


def _members(path: Path, node: yaml.Node | None) -> Iterator[tuple[str, str, int]]:
    """Yield team, subject and line; the text as it was written, so that an identifier of digits stays one."""
    import yaml

    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise TidegateError(f"{path}:{_line(node)}: a teams file holds, by team, a list of subject identifiers.")
    names: set[str] = set()
    for key, members in node.value:
        if not isinstance(key, yaml.ScalarNode) or not key.value.strip():
            raise TidegateError(f"{path}:{_line(key)}: the name of a team is a text that is not empty.")
        if key.value in names:
            raise TidegateError(f"{path}:{_line(key)}: the team {key.value} stands twice.")
        names.add(key.value)
        if not isinstance(members, yaml.SequenceNode):
            raise TidegateError(f"{path}:{_line(members)}: the team {key.value} needs a list of subject identifiers.")
        for member in members.value:
            if not isinstance(member, yaml.ScalarNode) or not is_subject(member.value):
                # Not shown: it may be a name.
                raise TidegateError(
                    f"{path}:{_line(member)}: this member of {key.value} is no subject identifier: 32 hex digits."
                )
            yield key.value, member.value, _line(member)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
