"""Two people who may allow more, for tests: their keys, what they sign, a policy that names them."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.control import signing
from infra.control.policy_file import load_policy
from infra.control.records import Approver, Policy
from infra.control.signing import Signed

ANNA, BEN, EVE = b"a" * 32, b"b" * 32, b"e" * 32
"""Keys of two approvers, and of somebody who is none."""
APPROVERS = (Approver("anna", signing.public_of(ANNA)), Approver("ben", signing.public_of(BEN)))
ROOT = Path(__file__).parents[1]
DEMO = ROOT / "infra" / "policies" / "demo.yaml"
NOTICE = DEMO.with_name("notice-1.md")


def approve(record: Signed, log: str, *seeds: bytes) -> Signed:
    """Sign as both approvers, or as those named, for one log."""
    return signing.sign(record, log, *(seeds or (ANNA, BEN)))


def demo_policy(folder: Path, log: str, **changes: Any) -> Policy:
    """Return the demo policy with changes, in force from now on, signed by both; `folder` takes its file."""
    now = time.time_ns() // 1_000_000
    policy = replace(load_policy(policy_file(folder), now), applied_at=now, applied_by="test", **changes)
    return approve(policy, log)


def policy_file(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write the demo policy with its approvers, some text replaced, and the keys beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_keys(folder)
    listed = "".join(f"  {each.name}: {{key: {each.key}}}\n" for each in APPROVERS)
    text = DEMO.read_text(encoding="utf-8").replace("approvers: {}\n", f"approvers:\n{listed}")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    shutil.copy(NOTICE, folder)
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def write_keys(folder: Path) -> tuple[str, str]:
    """Write both keys to files of their own and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, seed in (("anna", ANNA), ("ben", BEN)):
        path = folder / f"{name}.key"
        path.write_bytes(seed)
        path.chmod(0o600)
        paths.append(str(path))
    return paths[0], paths[1]
