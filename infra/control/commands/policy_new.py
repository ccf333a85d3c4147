"""A policy to begin with: the template, with a name, dates and the approvers' keys filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

from infra.control import keyring
from infra.control.policy_warnings import WARN_DAYS
from infra.errors import TidegateError

TEMPLATE = Path(__file__).parents[2] / "policies" / "demo.yaml"
NOTICE = TEMPLATE.with_name("notice-1.md")
POLICY_DAYS = 180
"""For how long the policy holds: less than the keys, or nobody could sign the next one."""
KEY_DAYS = 365
_WORDS_OF_YAML = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


class Written(NamedTuple):
    """What was written, and what was there."""

    policy: Path
    notice: Path
    notice_was_there: bool


def approver_line(name: str, public: str, until: date) -> str:
    """Return an approver's line as it stands in a policy."""
    return f"{_quoted(name)}: {{key: {public}, until: {until.isoformat()}}}"


def starter(name: str, approvers: Sequence[tuple[str, str]], today: date) -> str:
    """Return the text of a policy that names these approvers: (name, public key)."""
    text = TEMPLATE.read_text(encoding="utf-8")
    listed = [f"  {approver_line(who, public, today + timedelta(days=KEY_DAYS))}\n" for who, public in approvers]
    begin, end = text.index("# Nothing passes before"), text.index("# What people read")
    holds = (
        "# Nothing passes before `from`, nor from `until` on: a date at which somebody looks again.\n"
        f"# `tidegate policy show` warns {' and '.join(map(str, WARN_DAYS))} days before.\n"
        f"valid:\n  from: {today.isoformat()}\n  until: {(today + timedelta(days=POLICY_DAYS)).isoformat()}\n\n"
    )
    text = text[:begin] + holds + text[end:]
    for old, new in (
        ("name: demo\n", f"name: {_quoted(name)}\n"),
        ("approvers: {}\n", f"approvers:\n{''.join(listed)}"),
        ("teams: [support, research]\n", "teams: []\n"),
    ):
        before, _, after = text.partition(old)
        text = before + new + after
    return text


def write(path: Path, name: str, approvers: Sequence[str], today: date) -> Written:
    """Write a starter policy and the notice beside it. The approvers are given by name or by .key or .pub file.

    Raises TidegateError when the file is there already, when a key cannot be read, or
    when two approvers have one name or one key. A notice that is there is left as it is.
    """
    if path.exists() or path.is_symlink():
        raise TidegateError(f"{path} is there already; a policy is never overwritten. Choose another name.")
    found = [keyring.public_of(each) for each in approvers]
    for part, what in ((0, "name"), (1, "key")):
        if len({each[part] for each in found}) < len(found):
            raise TidegateError(f"two of the approvers have one {what}: two people have two. Nothing was written.")
    notice = path.with_name(NOTICE.name)
    was_there = notice.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not was_there:
            notice.write_text(NOTICE.read_text(encoding="utf-8"), encoding="utf-8")
        with path.open("x", encoding="utf-8") as file:
            file.write(starter(name or path.stem, found, today))
    except OSError as error:
        raise TidegateError(
            f"cannot write {error.filename or path}: {(error.strerror or 'no reason').lower()}."
        ) from error
    return Written(path, notice, was_there)


def _quoted(name: str) -> str:
    """Return a name as YAML reads it as a text: `no` and 2026 are none without quotes, which are those of JSON."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z_-]*", name) is not None and name.lower() not in _WORDS_OF_YAML
    return name if plain else json.dumps(name)
