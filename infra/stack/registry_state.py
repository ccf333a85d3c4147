"""What the embedded registry knows, and the file that it keeps it in.

The state is immutable: a change makes a new one, which is written and synced to
disk before anybody sees it. So an id that was once given out is there after any
crash, and a disk that is full changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infra.errors import TidegateError
from schemas.compatibility import incompatibilities, parse

DEFAULT_LEVEL = "BACKWARD_TRANSITIVE"
LEVELS = ("NONE", *(way + reach for way in ("BACKWARD", "FORWARD", "FULL") for reach in ("", "_TRANSITIVE")))


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a subject."""

    version: int
    schema_id: int
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Everything the registry knows. Ids and version numbers are never used twice."""

    next_id: int = 1
    schemas: Mapping[int, str] = field(default_factory=dict)
    """JSON text by id, as it was first sent."""
    subjects: Mapping[str, tuple[Version, ...]] = field(default_factory=dict)
    levels: Mapping[str, str] = field(default_factory=dict)
    """Compatibility level by subject; the empty subject holds everybody's."""

    def level(self, subject: str) -> str:
        """Return the compatibility level that holds for a subject."""
        return self.levels.get(subject) or self.levels.get("", DEFAULT_LEVEL)

    def versions(self, subject: str, *, deleted: bool = False) -> tuple[Version, ...]:
        """Return a subject's versions, oldest first, those deleted softly only when asked for."""
        return tuple(v for v in self.subjects.get(subject, ()) if deleted or not v.deleted)

    def find(self, subject: str, raw: str, *, deleted: bool = False) -> Version | None:
        """Return the version of a subject that has this schema, whatever its white space and order of keys."""
        wanted = _canonical(raw)
        same = (v for v in self.versions(subject, deleted=deleted) if _canonical(self.schemas[v.schema_id]) == wanted)
        return next(same, None)

    def objections(self, subject: str, raw: str, against: tuple[Version, ...], *, transitive: bool = True) -> list[str]:
        """Say what speaks against a schema beside some versions of its subject, at the subject's level."""
        level = self.level(subject)
        if not (transitive and level.endswith("_TRANSITIVE")):
            against = against[-1:]
        new, found = parse(raw), []
        for version in against:
            old = parse(self.schemas[version.schema_id])
            if level.startswith(("BACKWARD", "FULL")):
                found += [f"{i} (against version {version.version})" for i in incompatibilities(new, old)]
            if level.startswith(("FORWARD", "FULL")):
                found += [f"{i} (read by version {version.version})" for i in incompatibilities(old, new)]
        return found

    def registered(self, subject: str, raw: str) -> tuple[State, Version]:
        """Return the state with one version more. The same schema has the same id under every subject."""
        wanted = _canonical(raw)
        known = (number for number, text in self.schemas.items() if _canonical(text) == wanted)
        schema_id = next(known, self.next_id)
        past = self.subjects.get(subject, ())
        version = Version(past[-1].version + 1 if past else 1, schema_id)
        state = replace(
            self,
            next_id=max(self.next_id, schema_id + 1),
            schemas={schema_id: raw, **self.schemas},
            subjects={**self.subjects, subject: (*past, version)},
        )
        return state, version

    def without(self, subject: str, gone: tuple[Version, ...], *, permanent: bool) -> State:
        """Return the state with some versions deleted: hidden, or for good. Messages of either stay readable."""
        kept = tuple(
            replace(v, deleted=True) if v in gone else v
            for v in self.subjects[subject]
            if not (permanent and v in gone)
        )
        subjects = {name: versions for name, versions in {**self.subjects, subject: kept}.items() if versions}
        return replace(self, subjects=subjects)

    def with_level(self, subject: str, level: str | None) -> State:
        """Return the state with another level for a subject, or with none of its own."""
        levels = {name: known for name, known in self.levels.items() if name != subject}
        return replace(self, levels=levels if level is None else {**levels, subject: level})


class StateFile:
    """The state on disk. `state` is what was last written."""

    def __init__(self, path: Path) -> None:
        """Read the file, or begin anew where there is none. Raises TidegateError when it cannot be read."""
        self._path = path
        self.state = _read(path)

    def write(self, state: State) -> None:
        """Put a state on disk, whole or not at all, and take it over. Raises OSError; then nothing has changed."""
        text = json.dumps(_to_json(state), indent=1)
        beside = self._path.with_suffix(".new")
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.state = state


def _canonical(raw: str) -> str:
    return json.dumps(json.loads(raw), sort_keys=True)


def _to_json(state: State) -> dict[str, Any]:
    return {
        "next_id": state.next_id,
        "schemas": {str(number): raw for number, raw in sorted(state.schemas.items())},
        "subjects": {
            n: [[v.version, v.schema_id, v.deleted] for v in versions] for n, versions in state.subjects.items()
        },
        "levels": dict(state.levels),
    }


def _read(path: Path) -> State:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return State(
            next_id=int(stored["next_id"]),
            schemas={int(number): str(raw) for number, raw in stored["schemas"].items()},
            subjects={
                n: tuple(Version(*version) for version in versions) for n, versions in stored["subjects"].items()
            },
            levels=dict(stored["levels"]),
        )
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TidegateError(
            f"{path} is not what the registry wrote ({type(error).__name__}). Without it, stored messages cannot be "
            "read: restore it, or remove it to begin anew with an empty broker."
        ) from error
