"""The keys commands, with and without a broker: what they print, and what they never do."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.approvers import APPROVERS, policy_file, write_keys
from tests.control_plane import ROOT, Plane


def tidegate(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as its user does, where no stack runs."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    env = {**clean, "TIDEGATE_HOME": str(home), "TIDEGATE_KEYS": str(home / "keys")}
    return subprocess.run(
        [sys.executable, "-m", "tidegate", *words],
        env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_new_key_comes_with_the_line_for_a_policy_and_is_never_printed(tmp_path):
    """The line is read by a policy as it stands; the private half appears in no form."""
    told = tidegate(tmp_path, "keys", "new", "no")
    assert told.returncode == 0, told.stderr
    seed, public = (tmp_path / "keys" / "no.key").read_bytes(), (tmp_path / "keys" / "no.pub").read_text().strip()
    assert stat.S_IMODE((tmp_path / "keys" / "no.key").stat().st_mode) == 0o600
    assert seed.hex() not in told.stdout + told.stderr
    (line,) = (line for line in told.stdout.splitlines() if "{key:" in line)
    ((name, said),) = yaml.safe_load(line).items()
    assert (name, said["key"]) == ("no", public)
    assert "consent grant --subject-key" in told.stdout
    policy_file(tmp_path, ("approvers:\n", f"approvers:\n{line}\n"))
    assert tidegate(tmp_path, "policy", "check", str(tmp_path / "policy.yaml")).returncode == 0
    again = tidegate(tmp_path, "keys", "new", "no")
    assert (again.returncode, "never overwritten" in again.stderr) == (1, True)
    assert (tmp_path / "keys" / "no.key").read_bytes() == seed


def test_how_long_a_key_holds_is_chosen(tmp_path):
    """--valid-days sets the line's end; none at all is refused as wrong usage."""
    made = json.loads(tidegate(tmp_path, "keys", "new", "a", "--valid-days", "30", "--json").stdout)
    until = time.mktime(time.strptime(made["until"], "%Y-%m-%d"))
    assert 28 < (until - time.time()) / 86_400 < 31
    assert made["line"].endswith(f"until: {made['until']}}}")
    assert tidegate(tmp_path, "keys", "new", "b", "--valid-days", "0").returncode == 2


def test_keys_are_listed_without_a_broker(tmp_path):
    """Public halves and files, and that whose they are could not be looked up; no keys is no error."""
    empty = tidegate(tmp_path, "keys", "list")
    assert (empty.returncode, "There are no keys" in empty.stdout) == (0, True)
    tidegate(tmp_path, "keys", "new", "anna")
    listed = tidegate(tmp_path, "keys", "list")
    assert listed.returncode == 0
    assert (tmp_path / "keys" / "anna.pub").read_text().strip() in listed.stdout
    assert "could not be looked up" in listed.stdout
    document = json.loads(tidegate(tmp_path, "keys", "list", "--json").stdout)
    assert (document["keys"][0]["approver"], document["keys"][0]["good"]) == (None, None)
    assert document["why"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda keys: (keys / "anna.key").chmod(0o644), "can be read by others. Run `chmod 600"),
        (lambda keys: (keys / "anna.key").write_bytes(b"x"), "It is not a key"),
        (lambda keys: keys.chmod(0o777), "can be written to by others. Run `chmod 700"),
    ],
)
def test_a_file_that_is_not_as_it_must_be_is_told_and_exits_1(tmp_path, spoil, said):
    """Readable by others, no key, in a folder that others may write to: shown, with what to run."""
    tidegate(tmp_path, "keys", "new", "anna")
    spoil(tmp_path / "keys")
    done = tidegate(tmp_path, "keys", "list")
    assert (done.returncode, said in done.stdout, "Traceback" in done.stderr) == (1, True, False), done.stdout
    as_json = tidegate(tmp_path, "keys", "list", "--json")
    assert as_json.returncode == 1
    assert said.split(". Run")[0] in as_json.stdout


def test_whose_approver_a_key_is_comes_from_the_policy_in_force(plane: Plane):
    """By name, with the end and that it is near; a key that the policy does not name is told as that."""
    keys = plane.home / "keys"
    keys.mkdir(mode=0o700)
    write_keys(keys)
    none = plane.run("keys", "list").stdout
    assert "no policy was ever in force" in none
    end = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 10 * 86_400))
    anna = APPROVERS[0].key
    file = policy_file(plane.home / "p", (f"anna: {{key: {anna}}}", f"a.n: {{key: {anna}, until: {end}}}"))
    assert plane.run("policy", "apply", str(file), "--key", "anna", "--key", "ben").returncode == 0
    plane.run("keys", "new", "eve")
    listed = plane.run("keys", "list").stdout
    assert f"anna: approver a.n until {end} 00:00:00 UTC (in 9 days: a new key is due)" in listed
    assert "ben: approver ben, without an end" in listed
    assert "eve: no approver in the policy in force (version 1)" in listed
    rows = {row["name"]: row for row in plane.json("keys", "list")["keys"]}
    assert [(rows[name]["approver"], rows[name]["good"]) for name in ("anna", "ben", "eve")] == [
        *(("a.n", True), ("ben", True), (None, False)),
    ]


def test_a_broker_that_does_not_answer_delays_the_list_by_a_second(plane: Plane):
    """The keys are listed all the same, and why nothing is known of them is said."""
    plane.run("keys", "new", "anna")
    plane.end(plane.broker)
    started = time.monotonic()
    done = plane.run("keys", "list")
    assert time.monotonic() - started < 3
    assert (done.returncode, "did not answer within 1 s" in done.stdout) == (0, True)
