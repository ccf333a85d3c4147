"""The policy commands on a real broker: plan, propose, complete, apply, show, and what is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer

from infra.control.commands import policy_apply, policy_cli
from infra.control.identity import subject_of
from infra.control.policy_file import load_policy
from infra.control.reader import wall_ms
from infra.control.records import Consent, encode
from infra.control.signing import public_of, sign
from infra.control.writer import ControlWriter
from tests.approvers import ANNA, BEN, DEMO, EVE, policy_file, write_keys
from tests.control_plane import Plane

PURPOSE = "assistant-training"


class Desk:
    """Where policies are written: a folder of files, and the keys of both approvers."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.folder = plane.home / "policies"
        keys = plane.home / "keys"
        keys.mkdir(mode=0o700)
        write_keys(keys)
        (keys / "eve.key").write_bytes(EVE)
        (keys / "eve.key").chmod(0o600)

    def file(self, version: int = 1, *changes: tuple[str, str]) -> str:
        """Write the demo's policy with changes and return its path."""
        return str(policy_file(self.folder, ("version: 1\n", f"version: {version}\n"), *changes))

    def apply(self, file: str, *keys: str, code: int = 0) -> dict:
        options = [word for key in keys for word in ("--key", key)]
        return self.plane.json("policy", "apply", file, *options, code=code)

    def refusal(self, *words: str) -> str:
        done = self.plane.run("policy", *words)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
        return done.stderr

    def shown(self) -> dict:
        return self.plane.json("policy", "show")

    def in_force(self) -> int | None:
        found = self.shown()["policy"]
        return found["version"] if found else None


@pytest.fixture
def desk(plane) -> Desk:
    """Files and keys beside a broker."""
    return Desk(plane)


SOFTER = ("retention_days: 30", "retention_days: 31")
STRICTER = ("retention_days: 30", "retention_days: 29")


def test_a_first_policy_takes_two_of_its_own_approvers(desk):
    """Unsigned, signed by one twice or by nobody it names, it is refused or waits; by both it is in force."""
    file = desk.file()
    refused = desk.refusal("apply", file)
    assert "signatures of anna and ben" in refused
    assert f"tidegate policy apply {file} --key NAME" in refused
    assert "no approver's" in desk.refusal("apply", file, "--key", "eve")
    proposed = desk.apply(file, "anna", "anna", code=3)
    assert (proposed["state"], proposed["signed_by"], proposed["may_sign"]) == ("proposed", ["anna"], ["ben"])
    assert desk.in_force() is None
    done = desk.apply(file, "anna", "ben")
    assert (done["state"], done["changed"], done["signed_by"]) == ("in_force", True, ["anna", "ben"])
    assert desk.apply(file)["changed"] is False
    assert desk.in_force() == 1


def test_two_people_allow_more_one_after_the_other(desk):
    """The first proposes and reads who may complete it, the second completes; meanwhile the old one holds."""
    desk.apply(desk.file(), "anna", "ben")
    file = desk.file(2, SOFTER)
    assert "allows more" in desk.refusal("apply", file)
    first = desk.plane.run("policy", "apply", file, "--key", "anna")
    assert first.returncode == 3
    assert "Proposed, not in force: demo version 2, signed by anna." in first.stdout
    assert "by ben, from any machine with this file" in first.stdout
    assert desk.in_force() == 1
    waiting = desk.shown()["waiting"]
    assert (waiting["version"], waiting["signed_by"]) == (2, ["anna"])
    again = desk.plane.run("policy", "apply", file, "--key", "anna")
    assert (again.returncode, "signed by anna before" in again.stdout) == (3, True)
    assert "anna has signed it already" in desk.refusal("apply", file)
    planned = desk.plane.json("policy", "plan", file)
    assert (planned["signatures_needed"], planned["signed_by"], planned["may_sign"]) == (2, ["anna"], ["anna", "ben"])
    second = desk.plane.run("policy", "apply", file, "--key", "ben")
    assert second.returncode == 0, second.stderr
    assert "In force now, signed by anna and ben:" in second.stdout
    assert desk.shown()["waiting"] is None
    assert "signed by anna and ben" in desk.plane.run("policy", "show").stdout


def test_what_only_forbids_takes_nobody(desk):
    """A shorter retention is in force without a key; the way back needs two again."""
    desk.apply(desk.file(), "anna", "ben")
    file = desk.file(2, STRICTER)
    plan = desk.plane.run("policy", "plan", file).stdout
    assert "Becomes allowed: nothing" in plan
    assert f"- {PURPOSE} keeps what is recorded for 29 days, not 30 days" in plan
    assert "needs nobody's signature" in plan
    done = desk.plane.run("policy", "apply", file)
    assert (done.returncode, "It only forbids" in done.stdout) == (0, True)
    assert desk.in_force() == 2
    assert "allows more" in desk.refusal("apply", desk.file(3))


def test_version_rules(desk):
    """A lower version, and the same with another content, are refused with the version to choose."""
    desk.apply(desk.file(5), "anna", "ben")
    assert "Raise `version` to 6" in desk.refusal("apply", desk.file(4), "--key", "anna", "--key", "ben")
    assert "another content. Raise `version` to 6" in desk.refusal("apply", desk.file(5, STRICTER))
    planned = desk.plane.json("policy", "plan", desk.file(4))
    assert "Raise `version` to 6" in planned["refused"]
    assert desk.in_force() == 5


@pytest.mark.parametrize("value", [b"\x00junk", None])
def test_a_policy_put_out_of_force_needs_a_higher_version_and_signatures(desk, value):
    """After a record that cannot be read, or a removal, the same file no longer does, not even one that forbids more."""
    desk.apply(desk.file(), "anna", "ben")
    stock = Producer({"bootstrap.servers": desk.plane.address, "log_level": 0})
    stock.produce("control.policy", key=b"policy", value=value)
    stock.flush(5)
    assert desk.in_force() is None
    shown = desk.plane.run("policy", "show").stdout
    assert "has put version 1 out of force" in shown
    assert "version 2 or higher, signed by two of anna and ben" in shown
    refused = desk.refusal("apply", desk.file(), "--key", "anna", "--key", "ben")
    assert "put out of force" in refused
    assert "Raise `version` to 2" in refused
    assert "counts as allowing more" in desk.refusal("apply", desk.file(2, STRICTER))
    assert desk.apply(desk.file(2, STRICTER), "anna", "ben")["state"] == "in_force"


def test_a_new_notice_is_planned_with_the_consents_that_lapse(desk):
    """How many consents of how many people lapse, and, back under the old text, how many count again; never whose."""
    log = desk.plane.addresses().log
    desk.apply(desk.file(), "anna", "ben")
    in_force = desk.shown()["policy"]
    seeds = [bytes([number]) * 32 for number in (1, 2)]
    with ControlWriter(desk.plane.addresses()) as writer:
        for seed in seeds:
            for purpose in (PURPOSE, "usability-research"):
                given = Consent(
                    *(subject_of(seed), purpose, True, in_force["notice"], wall_ms()),
                    notice_digest=in_force["notice_digest"],
                )
                writer.write(sign(given, log, seed))
    file = desk.file(2, ("file: notice-1.md", "text: Another text."), ('version: "1"', 'version: "2"'))
    planned = desk.plane.json("policy", "plan", file)
    assert (planned["consents_lapse"], planned["people_lapse"], planned["consents_return"]) == (4, 2, 0)
    told = desk.plane.run("policy", "plan", file).stdout
    assert "4 consents of 2 people lapse" in told
    assert not any(subject_of(seed) in told for seed in seeds)
    desk.apply(file, "anna", "ben")
    back = desk.plane.json("policy", "plan", desk.file(3))
    assert (back["consents_lapse"], back["consents_return"]) == (0, 4)
    same = desk.file(3, ("file: notice-1.md", "text: A third."), ('version: "1"', 'version: "2"'))
    assert any("same version, 2" in note for note in desk.plane.json("policy", "plan", same)["notes"])


def test_a_proposal_that_another_replaces_is_told(desk):
    """Before and after: one proposal waits at a time, and who takes another's place reads so."""
    desk.apply(desk.file(), "anna", "ben")
    desk.apply(desk.file(2, SOFTER), "anna", code=3)
    other = desk.file(2, ("retention_days: 30", "retention_days: 40"))
    assert "would lose its place" in desk.plane.run("policy", "plan", other).stdout
    done = desk.plane.run("policy", "apply", other, "--key", "ben")
    assert (done.returncode, "taken the place of the proposal" in done.stdout) == (3, True)


def later(monkeypatch, hours: float) -> None:
    """Let the commands believe that it is later."""
    for module in (policy_apply, policy_cli):
        monkeypatch.setattr(module, "wall_ms", lambda: wall_ms() + round(hours * 3_600_000))


def test_a_key_that_has_run_out_signs_nothing(desk, monkeypatch):
    """Before, that its end is near; afterwards it is refused by name, and told that nobody can allow more."""
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3_600))
    until = (f"  ben: {{key: {public_of(BEN)}}}", f"  ben: {{key: {public_of(BEN)}, until: {end}}}")
    desk.apply(desk.file(1, until), "anna", "ben")
    assert "the keys of all approvers but one at most run out in 1 hour," in desk.shown()["warnings"][0]
    later(monkeypatch, 2)
    assert "key of ben has run out" in desk.refusal("apply", desk.file(2, SOFTER), "--key", "ben")
    assert "anna is the only one whose key is still good" in desk.refusal("apply", desk.file(2, SOFTER))
    assert "only anna has a key that is still good" in desk.plane.run("policy", "plan", desk.file(2, SOFTER)).stdout


def test_a_policy_that_runs_out_soon_warns(desk):
    """Days left, and a warning with the day, in what is shown and in its JSON."""
    end = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 3 * 86_400))
    desk.apply(desk.file(1, ("until: 2036-01-01", f"until: {end}")), "anna", "ben")
    shown = desk.shown()
    assert 2 <= shown["days_left"] <= 3
    assert "runs out in 2 days" in shown["warnings"][0]
    assert "! The policy runs out in 2 days" in desk.plane.run("policy", "show").stdout


def test_show_tells_the_notice_the_approvers_and_the_teams(desk):
    """By version and digest, by name, and as listed; for a file as for what is in force."""
    file = desk.file()
    desk.apply(file, "anna", "ben")
    for words in (("show",), ("show", file), ("check", file)):
        told = desk.plane.run("policy", *words).stdout
        digest = desk.shown()["policy"]["notice_digest"]
        for part in (f"notice 1, SHA-256 of its text {digest}", "approvers: anna, ben", "teams: support, research"):
            assert part in told, told


def test_from_nothing_to_a_policy_in_force_as_people_do_it(plane, tmp_path):
    """Two keys, a policy from the template, checked, planned, proposed and completed, with the commands alone."""
    for name in ("anna", "ben"):
        assert plane.process("keys", "new", name).returncode == 0
    file = str(tmp_path / "policies" / "support.yaml")
    made = plane.process("policy", "new", file, "--approver", "anna", "--approver", "ben")
    assert made.returncode == 0, made.stderr
    for words, code in [(("check", file), 0), (("plan", file), 0), (("apply", file), 1)]:
        done = plane.process("policy", *words)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        assert "\x1b" not in done.stdout, "no colours where there is no terminal"
    assert plane.process("policy", "apply", file, "--key", "anna").returncode == 3
    assert plane.process("policy", "apply", file, "--key", "ben").returncode == 0
    assert plane.json("policy", "show")["policy"]["name"] == "support"


def test_a_starter_with_one_approver_says_what_is_missing(plane, tmp_path):
    """It is written, and refused until a second one's line is added; the refusal says how to come by it."""
    plane.run("keys", "new", "anna")
    file = str(tmp_path / "p.yaml")
    made = plane.json("policy", "new", file, "--approver", "anna")
    assert made["approvers_missing"] == 1
    done = plane.run("policy", "check", file)
    assert (done.returncode, "tidegate keys new NAME" in done.stderr) == (1, True)
    (Path(file)).unlink()
    assert "did you mean `anna`" in plane.run("policy", "new", file, "--approver", "ana").stderr
    assert not Path(file).exists()


def test_bad_input_changes_nothing(desk):
    """A typo in a field, a date in the past, no approvers, a key that others can read: an error each, and no record."""
    (desk.plane.home / "keys" / "ben.key").chmod(0o644)
    until = "until: 2036-01-01"
    for changes, keys, said in [
        ([("key_class, role]", "keyclass, role]")], ["anna"], "did you mean `key_class`?"),
        ([("size: 5s", "siez: 5s")], ["anna"], "unknown key `siez`; did you mean `size`?"),
        ([(until, "until: 2026-05-01")], ["anna"], "has passed"),
        ([], ["anna", "ben"], "chmod 600"),
        ([], ["carl"], "unknown key `carl`"),
    ]:
        options = [word for key in keys for word in ("--key", key)]
        assert said in desk.refusal("apply", desk.file(1, *changes), *options)
    assert "needs two people or more" in desk.refusal("apply", str(DEMO), "--key", "anna")
    shown = desk.shown()
    assert (shown["policy"], shown["waiting"]) == (None, None)


def test_a_broker_that_is_away_is_said_within_two_seconds(desk):
    """plan, apply and show name its address and what to try, without a traceback."""
    file = desk.file()
    desk.plane.end(desk.plane.broker)
    for words in (("plan", file), ("apply", file, "--key", "anna"), ("show",)):
        started = time.monotonic()
        refused = desk.refusal(*words)
        assert time.monotonic() - started < 4
        assert desk.plane.address in refused
        assert "tidegate status" in refused


def test_a_record_dated_ahead_is_not_taken_and_that_is_said(desk, monkeypatch):
    """A machine whose clock is an hour fast applies nothing, and reads why."""
    later(monkeypatch, 1)
    refused = desk.refusal("apply", desk.file(), "--key", "anna", "--key", "ben")
    assert "ahead of the broker's clock" in refused
    assert desk.in_force() is None


def test_a_loosening_that_a_stranger_signs_is_ignored_counted_and_shown(desk):
    """Signed by one approver and somebody who is none: not in force, and waiting as signed by the one."""
    desk.apply(desk.file(), "anna", "ben")
    new = replace(load_policy(Path(desk.file(2, SOFTER)), wall_ms()), applied_at=wall_ms(), applied_by="stranger")
    with ControlWriter(desk.plane.addresses()) as writer:
        writer.write(sign(new, desk.plane.addresses().log, ANNA, EVE))
    shown = desk.shown()
    assert (shown["policy"]["version"], shown["waiting"]["signed_by"]) == (1, ["anna"])
    assert shown["ignored"] == {"not_approved": 1}
    assert "1 record allowed more, with fewer than two signatures" in desk.plane.run("policy", "show").stdout


def test_what_records_say_cannot_steer_a_terminal(desk):
    """A policy whose name and proposer hold escape sequences and new lines is shown without them."""
    desk.apply(desk.file(), "anna", "ben")
    new = load_policy(Path(desk.file(2, SOFTER)), wall_ms())
    new = replace(new, name="x\x1b[2Jy", applied_at=wall_ms(), applied_by="a\nIn force now: z")
    with ControlWriter(desk.plane.addresses()) as writer:
        writer.write(sign(new, desk.plane.addresses().log, ANNA))
    for words in (("show",), ("plan", desk.file(2))):
        told = desk.plane.run("policy", *words).stdout
        assert "\x1b" not in told
        assert "\nIn force now: z" not in told
        assert "In force now: z" in told


def test_unreadable_bytes_of_another_kind_close_too(desk):
    """A consent written under the policy's key is no policy: nothing is in force after it."""
    desk.apply(desk.file(), "anna", "ben")
    stock = Producer({"bootstrap.servers": desk.plane.address, "log_level": 0})
    stock.produce("control.policy", key=b"policy", value=encode(Consent("a", "b", True, "1", 1)))
    stock.flush(5)
    assert desk.in_force() is None
