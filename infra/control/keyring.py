"""Where a person keeps their keys: files that nobody else may read, named when a command needs one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from infra.control.identity import load_key

SUFFIX = ".key"


def folder() -> Path:
    """Return the folder of this person's keys: TIDEGATE_KEYS or, without it, ~/.config/tidegate/keys."""
    given = os.environ.get("TIDEGATE_KEYS")
    return Path(given) if given else Path.home() / ".config" / "tidegate" / "keys"


def path_of(key: str) -> Path:
    """Return the file of a key given by its name in the folder, or by its path."""
    if os.sep in key or key.endswith(SUFFIX):
        return Path(key)
    return folder() / f"{key}{SUFFIX}"


def load(keys: Iterable[str]) -> list[bytes]:
    """Return the 32 bytes of each key. Raises TidegateError when one is not there, no key, or readable by others."""
    return [load_key(path_of(key)) for key in keys]
