"""Where a person keeps their keys: files that nobody else may read, named when a command needs one.

A key is two files: NAME.key, 32 bytes that never leave it, and NAME.pub, its public
half in hex, for anybody.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from nacl.bindings import crypto_core_ed25519_is_valid_point

from infra.control import signing
from infra.control.identity import create_key, load_key
from infra.control.suggest import unknown
from infra.errors import TidegateError

SUFFIX = ".key"
PUBLIC = ".pub"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Pair(NamedTuple):
    """A key as it lies in a folder."""

    name: str
    key_file: Path | None
    """None where only the public half is there: somebody else's."""
    public: str
    """Hex; empty where it could not be read."""
    problem: str = ""
    """What is wrong with its files, and what to do about it."""


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
    """Return the 32 bytes of each key.

    Raises TidegateError when one is not there (naming the nearest that is), no key, or readable by others.
    """
    return [_load(key) for key in keys]


def _load(key: str) -> bytes:
    path = path_of(key)
    if not os.path.lexists(path):
        if path.parent != folder():
            raise TidegateError(f"there is no key file {path}. `tidegate keys new NAME` makes one.")
        known = sorted(each.stem for each in path.parent.glob(f"*{SUFFIX}"))
        raise TidegateError(
            f"{unknown('key', path.stem, known)} Keys are looked for in {path.parent}; --key also takes the path of "
            "one, and `tidegate keys new NAME` makes one."
        )
    return load_key(path)


def create(name: str, where: Path) -> Pair:
    """Make a key in a folder, which is made for its owner alone if it is not there.

    Raises TidegateError when the name is no name, either file is there already, or
    the folder can be written to by others.
    """
    if _NAME.fullmatch(name) is None or name.endswith((SUFFIX, PUBLIC)):
        raise TidegateError("a key's name is 1 to 64 letters, digits, dots, dashes, underscores or @.", code=2)
    key_file, public_file = where / f"{name}{SUFFIX}", where / f"{name}{PUBLIC}"
    for file in (key_file, public_file):
        if os.path.lexists(file):
            raise TidegateError(f"{file} is there already; a key is never overwritten. Choose another name.")
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        if problem := folder_problem(where):
            raise TidegateError(f"{problem} No key was made.")
        public = signing.public_of(create_key(key_file))
        with public_file.open("x", encoding="utf-8") as written:
            written.write(f"{public}\n")
    except OSError as error:
        raise TidegateError(
            f"cannot write {error.filename or where}: {(error.strerror or 'no reason').lower()}."
        ) from error
    return Pair(name, key_file, public)


def public_of(key: str) -> tuple[str, str]:
    """Return the name and the public key, hex, of a key given by its name in the folder, or by its .key or .pub file.

    Reads the private half only where there is no .pub file. Raises TidegateError when neither can be read.
    """
    path = Path(key) if key.endswith(PUBLIC) else path_of(key)
    public_file = path.with_suffix(PUBLIC)
    if not os.path.lexists(public_file) and not key.endswith(PUBLIC):
        return path.stem, signing.public_of(_load(key))
    try:
        return path.stem, public_key(public_file.name, public_file.parent)
    except ValueError as error:
        raise TidegateError(f"the public key of {path.stem}: {error}.") from error


def public_key(said: str, folder: Path) -> str:
    """Return a public key, hex, given as 64 hex digits or as the name of a .pub file in `folder`.

    Raises ValueError saying what is wrong with it.
    """
    text, found = said.strip(), "is neither 64 hex digits nor the name of a .pub file"
    if text.endswith(SUFFIX):
        raise ValueError(f"names a private key; name its .pub file, {Path(text).stem}.pub, or its 64 hex digits")
    if text.endswith(PUBLIC):
        path = folder / text
        try:
            text, found = path.read_text(encoding="utf-8").strip(), f"{path} does not hold 64 hex digits"
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {path}: {why_unreadable(error)}") from None
    if re.fullmatch(r"[0-9a-fA-F]{64}", text) is None:
        raise ValueError(f"{found}; `tidegate keys new NAME` makes a key and prints the line for a policy")
    if not crypto_core_ed25519_is_valid_point(bytes.fromhex(text)):
        raise ValueError("the 64 hex digits are no Ed25519 public key; copy them again")
    return text.lower()


def why_unreadable(error: OSError | ValueError) -> str:
    """Say why a text file could not be read; a ValueError that is no UnicodeDecodeError speaks of its name."""
    if isinstance(error, OSError):
        return (error.strerror or "unreadable").lower()
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "no name of a file"


def folder_problem(where: Path) -> str:
    """Say what is wrong with a folder of keys, or "": who may write to it may put a key of theirs in one's place."""
    mode = where.stat().st_mode
    if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
        return f"the folder {where} can be written to by others. Run `chmod 700 {where}`."
    return ""


def pairs(where: Path) -> list[Pair]:
    """Return the keys of a folder, by name, those with a problem among them; none where there is no folder.

    Raises TidegateError when it cannot be read.
    """
    try:
        files = [each for each in where.iterdir() if each.suffix in (SUFFIX, PUBLIC)] if where.exists() else []
    except OSError as error:
        raise TidegateError(f"cannot read the folder {where}: {(error.strerror or 'no reason').lower()}.") from error
    return [_pair(where, name) for name in sorted({each.stem for each in files})]


def _pair(where: Path, name: str) -> Pair:
    key_file, public_file = where / f"{name}{SUFFIX}", where / f"{name}{PUBLIC}"
    said, problem = "", ""
    if os.path.lexists(public_file):
        try:
            said = public_key(public_file.name, where)
        except ValueError as error:
            problem = f"{error}."
    if not os.path.lexists(key_file):
        return Pair(name, None, said, problem)
    try:
        public = signing.public_of(load_key(key_file))
    except TidegateError as error:
        return Pair(name, key_file, said, str(error))
    if said and said != public:
        problem = f"{public_file} holds the public half of another key. Delete it, and copy nothing from it."
    return Pair(name, key_file, public, problem)
