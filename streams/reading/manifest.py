"""A sample's manifest: what was read, for what, by which query, and the digest of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.errors import TidegateError

FILE = "manifest.json"
FORMAT = 1
"""Version of the manifest's and the files' layout."""
_CHUNK = 1 << 20


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with `digest`: SHA-256 over its canonical JSON (keys sorted, no spaces) without `digest`."""
    return {**document, "digest": _digest(document)}


def _digest(document: Mapping[str, Any]) -> str:
    content = {name: value for name, value in document.items() if name != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def text_of(document: Mapping[str, Any]) -> str:
    """Return the manifest as it is written."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def describe_file(path: Path) -> dict[str, Any]:
    """Return a file's name, size in bytes and SHA-256, reading it once in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest of a sample. Raises TidegateError when it is missing or is none."""
    path = folder / FILE
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TidegateError(
            f"{path} is not there, so {folder} is no sample. Name the folder given as --out."
        ) from error
    except (OSError, ValueError) as error:
        raise TidegateError(f"{path} cannot be read as JSON ({error}).") from error
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, list) or not all(
        isinstance(f, dict) and {"name", "bytes", "sha256"} <= f.keys() for f in files
    ):
        raise TidegateError(f"{path} is not a sample's manifest: it lists no files.")
    return document


def problems(folder: Path) -> list[str]:
    """Compare a sample with its manifest; return what differs, naming the file, or nothing.

    Raises TidegateError when there is no manifest to compare with.
    """
    document = read(folder)
    found = []
    if document.get("digest") != _digest(document):
        found.append(f"{FILE}: its digest does not fit its content")
    listed = {str(entry["name"]): entry for entry in document["files"]}
    for name, entry in listed.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            found.append(f"{name}: not there")
            continue
        there = describe_file(path)
        found += [f"{name}: its {what} differs" for what in ("bytes", "sha256") if there[what] != entry[what]][:1]
    extra = sorted(path.name for path in folder.iterdir() if path.name not in {*listed, FILE})
    return found + [f"{name}: not in the manifest" for name in extra]
