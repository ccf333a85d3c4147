"""A policy to begin with: valid as it is written, and never written over another."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
import yaml

from infra.control.commands import policy_new
from infra.control.policy_file import load_policy
from infra.control.policy_warnings import foresight
from infra.errors import TidegateError
from tests.approvers import APPROVERS, NOTICE, write_keys

TODAY = date(2026, 5, 1)
NOW = round(datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp() * 1000)


def test_what_is_written_is_a_valid_policy(tmp_path):
    """With its notice beside it, the approvers' public keys, dates from today on, and keys that outlive the policy."""
    paths = write_keys(tmp_path)
    written = policy_new.write(tmp_path / "new" / "team.yaml", "", paths, TODAY)
    policy = load_policy(written.policy, NOW)
    assert (policy.name, policy.version, policy.teams) == ("team", 1, ())
    assert [(each.name, each.key) for each in policy.approvers] == [(each.name, each.key) for each in APPROVERS]
    assert policy.notice_text == NOTICE.read_text()
    assert datetime.fromtimestamp(policy.valid_until / 1000, UTC).date() == TODAY + timedelta(policy_new.POLICY_DAYS)
    assert foresight(policy, NOW) == []
    text = written.policy.read_text()
    assert "Ten years" not in text
    assert "tidegate policy plan" in text


def test_nothing_is_overwritten(tmp_path):
    """A policy that is there is refused; a notice that is there is used as it is, and that is told."""
    paths = write_keys(tmp_path)
    (tmp_path / "notice-1.md").write_text("mine")
    written = policy_new.write(tmp_path / "p.yaml", "", paths, TODAY)
    assert written.notice_was_there
    assert load_policy(written.policy, NOW).notice_text == "mine"
    before = written.policy.read_text()
    with pytest.raises(TidegateError, match="never overwritten"):
        policy_new.write(written.policy, "", paths, TODAY)
    assert written.policy.read_text() == before


def test_one_person_is_not_two(tmp_path):
    """The same key under two names, or one name for two keys, is refused before anything is written."""
    anna, _ = write_keys(tmp_path)
    (tmp_path / "other.key").write_bytes(b"a" * 32)
    (tmp_path / "other.key").chmod(0o600)
    for approvers in ((anna, str(tmp_path / "other.key")), (anna, anna)):
        with pytest.raises(TidegateError, match="two people have two"):
            policy_new.write(tmp_path / "p.yaml", "", approvers, TODAY)
    assert not (tmp_path / "p.yaml").exists()


@pytest.mark.parametrize("name", ["anna", "no", "2026", "anna.b@x", "1e5", "null", 'a"b: {'])
def test_any_name_stands_in_a_policy_as_itself(name):
    """YAML would read some names as a number, a truth or nothing; those are quoted."""
    line = policy_new.approver_line(name, "a" * 64, TODAY)
    assert list(yaml.safe_load(line)) == [name]
    assert yaml.safe_load(policy_new.starter(name, [("anna", "a" * 64)], TODAY))["name"] == name
