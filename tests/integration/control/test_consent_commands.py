"""The consent commands on a real broker: a person with their own key, others with two approvers, and what is refused."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from infra.control.commands import consent_cli
from infra.control.identity import load_key, subject_of
from infra.control.keeper import GateKeeper
from infra.control.reader import ControlReader, wall_ms
from infra.control.reasons import NO_CONSENT, PAUSED, SOURCE_NOT_ALLOWED
from infra.control.records import CONSENT_TOPIC, Policy
from infra.control.state import ControlState, View
from infra.control.verdict import judge
from infra.control.writer import ControlWriter
from schemas.catalogue import KINDS
from streams.standing import Translator
from tests.approvers import EVE, approve, demo_policy, write_keys
from tests.control_plane import ROOT, Plane
from tests.support import PURPOSE

SOMEBODY, ELSE = "a" * 32, "b" * 32


class Desk:
    """A policy in force, a person's key that is not made yet, and the keys of both approvers."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.mine = str(plane.home / "me.key")
        keys = plane.home / "keys"
        keys.mkdir(mode=0o700)
        write_keys(keys)
        self.policy = demo_policy(plane.home / "policy", "1", notice="1", notice_text="We record the pointer.")
        self._put(self.policy)
        self.reader = ControlReader(plane.addresses(), "consent")

    def change(self, **changes: object) -> Policy:
        """Put the next version of the policy in force."""
        later = replace(self.policy, version=self.policy.version + 1, applied_at=wall_ms(), signatures=(), **changes)
        self.policy = approve(later, "1")
        self._put(self.policy)
        return self.policy

    def _put(self, policy: Policy) -> None:
        with ControlWriter(self.plane.addresses()) as writer:
            writer.write(policy)

    def say(self, *words: str, code: int = 0) -> dict:
        """Run a consent command with one's own key."""
        return self.plane.json("consent", *words, "--subject-key", self.mine, code=code)

    def others(
        self, *words: str, keys: str = "", given: str = f"{SOMEBODY}\n{ELSE}\n{SOMEBODY}\n", code: int = 0
    ) -> dict:
        """Run a consent command about two others, one of whom is listed twice."""
        signed = [word for key in keys.split() for word in ("--key", key)]
        return self.plane.json("consent", *words, "--file", "-", *signed, given=given, code=code)

    def refused(self, *words: str, code: int = 1, given: str | None = None) -> str:
        """Run a consent command that must change nothing and say why."""
        before = self.written()
        done = self.plane.run("consent", *words, given=given)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        assert self.written() == before
        return done.stderr

    def written(self) -> int:
        """The offset of the last record on control.consent."""
        with ControlReader(self.plane.addresses(), "authority") as reader:
            reader.wait_for(lambda _: reader.read_to_end, 10)
            return reader.applied[CONSENT_TOPIC]

    def fate(self, subject: str = "", *, until: str | None = None) -> str:
        """Why what `subject` types is refused, "" where it is not; waits for it to become `until`."""
        who = subject or subject_of(load_key(Path(self.mine)))

        def refusal(view: View) -> str:
            return judge(view, who, wall_ms(), view.state.epoch).refusal[KINDS["key"]]

        return refusal(self.reader.wait_for(lambda view: view.fresh and until in (None, refusal(view)), 10))


@pytest.fixture
def desk(plane: Plane) -> Iterator[Desk]:
    made = Desk(plane)
    yield made
    made.reader.close()


@contextmanager
def _workers(plane: Plane, minimisers: int = 2) -> Iterator[list[GateKeeper]]:
    """The gates of some minimisers, one of which translates, and of a windower."""
    with ExitStack() as open_, ControlWriter(plane.addresses()) as writer:
        made = [open_.enter_context(GateKeeper(plane.addresses(), "minimiser", "consent")) for _ in range(minimisers)]
        translator = Translator(b"k" * 32)

        def translate(state: ControlState, _: object) -> None:
            records = translator.changes(state, wall_ms())
            writer.write(*records)
            translator.published(records)

        made[0].on_change(translate)
        made.append(open_.enter_context(GateKeeper(plane.addresses(), "windower", "standing")))
        for gate in made:
            assert gate.wait_fresh(15).fresh, gate.view().why
        yield made


def test_a_person_needs_nothing_but_their_key(desk):
    """Grant, pause, resume, withdraw: each is written, shown, and what a gate goes by; the key is made when asked for."""
    assert "no key file" in desk.refused("grant", "--purpose", PURPOSE, "--subject-key", desk.mine)
    assert desk.say("grant", "--purpose", PURPOSE, "--create-key")["granted"]
    assert desk.fate(until="") == ""
    assert desk.say("grant", "--purpose", PURPOSE)["already"] == 1
    shown = desk.say("show")
    assert [(row["purpose"], row["stands"]) for row in shown["consents"]] == [(PURPOSE, True)]
    assert (shown["subject"], shown["pause"]) == (subject_of(load_key(Path(desk.mine))), None)
    assert desk.say("pause")["paused"]
    assert desk.fate(until=PAUSED) == PAUSED
    assert (
        "You have paused"
        in desk.plane.run("consent", "grant", "--purpose", "usability-research", "--subject-key", desk.mine).stdout
    )
    assert desk.plane.json("consent", "show")["paused"] == 1
    desk.say("resume")
    assert desk.fate(until="") == ""
    assert desk.say("withdraw")["purposes"] == [PURPOSE, "usability-research"]
    assert desk.fate(until=NO_CONSENT) == NO_CONSENT
    desk.say("grant", "--purpose", "usability-research")
    assert desk.fate(until=SOURCE_NOT_ALLOWED) == SOURCE_NOT_ALLOWED
    assert desk.plane.json("consent", "show")["purposes"] == [
        {"purpose": PURPOSE, "granted": 0, "lapsed": 0, "withdrawn": 1},
        {"purpose": "usability-research", "granted": 1, "lapsed": 0, "withdrawn": 0},
    ]


def test_a_pause_is_told_when_the_workers_go_by_it(desk):
    """`3/3 gates in 60 ms`; one that still stores what it judged before is named, with exit code 3; producers are not asked."""
    desk.say("grant", "--purpose", PURPOSE, "--create-key")
    with _workers(desk.plane) as gates, GateKeeper(desk.plane.addresses(), "producer", "consent") as producer:
        assert producer.wait_fresh(15).fresh
        producer.enter()
        done = desk.plane.run("consent", "pause", "--for", "2h", "--subject-key", desk.mine)
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        assert first.startswith("paused: 3/3 gates in ")
        assert first.endswith(" ms")
        assert second.startswith("  until 20")
        busy = gates[0].enter()
        slow = desk.say("resume", "--wait", "0.5", code=3)
        assert [(each["role"], each["answer"]) for each in slow["answers"]].count(("minimiser", "missing")) == 1
        assert (slow["complete"], slow["done"], slow["gates"]) == (False, 2, 3)
        done = desk.plane.run("consent", "withdraw", "--subject-key", desk.mine, "--wait", "0.3")
        assert (done.returncode, gates[0].gate in done.stdout, "It is written" in done.stdout) == (3, True, True)
        busy.leave()
        assert desk.say("withdraw")["complete"]


def test_for_others_to_allow_takes_two_and_to_forbid_nobody(desk):
    """In one command or two, of whoever is listed twice once; the same approver again is no second person."""
    assert "takes the keys of two approvers" in desk.refused(
        "grant", "--purpose", PURPOSE, "--subject", SOMEBODY, code=2
    )
    half = desk.others("grant", "--purpose", PURPOSE, keys="anna", code=3)
    assert (half["waiting"], half["signed_by"], half["may_sign"], half["subjects"]) == (2, ["anna"], ["ben"], 2)
    before = desk.written()
    assert desk.others("grant", "--purpose", PURPOSE, keys="anna", code=3)["waiting"] == 2
    assert desk.written() == before
    assert desk.fate(SOMEBODY) == NO_CONSENT
    assert desk.others("grant", "--purpose", PURPOSE, keys="ben")["granted"]
    assert desk.fate(SOMEBODY, until="") == desk.fate(ELSE, until="") == ""
    again = desk.others("grant", "--purpose", PURPOSE, keys="anna ben", given=f"{SOMEBODY}\n{'c' * 32}\n")
    assert (again["subjects"], again["already"], again["granted"]) == (2, 1, True)
    desk.others("pause")
    assert desk.fate(SOMEBODY, until=PAUSED) == PAUSED
    assert desk.others("resume", keys="ben", code=3)["paused"]
    assert desk.others("resume", keys="anna")["paused"] is False
    assert desk.fate(ELSE, until="") == ""
    desk.others("withdraw", "--purpose", PURPOSE)
    assert desk.fate(ELSE, until=NO_CONSENT) == NO_CONSENT


def test_a_stranger_or_a_key_that_the_policy_names_is_refused(desk):
    """Neither can sign for others, and an approver's key is no subject's: everybody could tell whose words those were."""
    (desk.plane.home / "keys" / "eve.key").write_bytes(EVE)
    (desk.plane.home / "keys" / "eve.key").chmod(0o600)
    words = ("grant", "--purpose", PURPOSE, "--subject", SOMEBODY)
    assert "is no approver's" in desk.refused(*words, "--key", "eve", "--key", "anna")
    anna = str(desk.plane.home / "keys" / "anna.key")
    assert "by name" in desk.refused("grant", "--purpose", PURPOSE, "--subject-key", anna)
    assert "for others' words" in desk.refused(
        "grant", "--purpose", PURPOSE, "--subject-key", anna, "--key", "ben", code=2
    )


def test_a_pause_ends_when_it_was_said_to_and_sooner_by_ones_own_key_alone(desk):
    """By itself at its end; longer by anybody's word, shorter by the subject's."""
    desk.say("grant", "--purpose", PURPOSE, "--create-key")
    me = subject_of(load_key(Path(desk.mine)))
    desk.say("pause", "--for", "1h")
    assert "already paused for longer" in desk.refused("pause", "--for", "30m", "--subject", me)
    assert desk.plane.json("consent", "pause", "--for", "2h", "--subject", me)["paused"]
    until = desk.say("show")["pause"]["until"]
    assert 7_100_000 < until - wall_ms() <= 7_200_000
    desk.say("pause", "--for", "3s")
    assert desk.fate(until=PAUSED) == PAUSED
    assert desk.fate(until="") == "", "it has ended by itself"
    assert "no pause to end" in desk.refused("resume", "--subject-key", desk.mine)
    moment = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(time.time() + 7200))
    assert desk.say("pause", "--until", moment)["until"] % 60_000 == 0
    desk.say("pause")
    assert desk.say("show")["pause"]["until"] == 0


def test_a_notice_can_be_read_again_for_as_long_as_the_log_lasts(desk):
    """Another text lapses the consent, which says so; what was agreed to is shown by version or digest, then and now."""
    desk.say("grant", "--purpose", PURPOSE, "--create-key", "--notice", "1")
    old = desk.policy.notice_digest
    assert desk.plane.json("consent", "notice") == {
        "version": "1", "digest": old, "in_force": True, "text": "We record the pointer."
    }  # fmt: skip
    new = desk.change(notice="1", notice_text="We record\tkeys too.\x1b[2J").notice_digest
    shown = desk.plane.run("consent", "show", "--subject-key", desk.mine).stdout
    assert "lapsed: the notice has changed" in shown
    assert old[:12] in shown
    assert desk.plane.json("consent", "show")["purposes"][0]["lapsed"] == 1
    both = desk.refused("notice", "1")
    assert old in both
    assert new in both
    assert desk.plane.json("consent", "notice", old[:12])["text"] == "We record the pointer."
    told = desk.plane.run("consent", "notice").stdout
    assert "keys too." in told
    assert "\x1b" not in told, "a notice cannot steer the terminal"
    assert "no longer in force" in desk.plane.run("consent", "notice", old).stdout
    assert "did you mean" in desk.refused("notice", f"{old[:11]}x")
    assert "nothing. Read it" in desk.refused(
        "grant", "--purpose", PURPOSE, "--subject-key", desk.mine, "--notice", old
    )
    assert desk.say("grant", "--purpose", PURPOSE, "--notice", new[:8])["granted"]


def test_on_a_terminal_the_notice_is_shown_before_anything_is_granted(desk):
    """Whoever says no has granted nothing, nor made a key; whoever says yes has read it; --yes does not ask."""
    words = ("consent", "grant", "--purpose", PURPOSE, "--subject-key", desk.mine, "--create-key")
    for said, code in (("n\n", 1), ("\n", 1), ("y\n", 0)):
        told, ended = _at_a_terminal(desk.plane, said, *words)
        assert "We record the pointer." in told
        assert f"Do you allow {PURPOSE}" in told
        assert (ended, os.path.exists(desk.mine), desk.written()) == (code, code == 0, -1 if code else 0)
    told, ended = _at_a_terminal(desk.plane, "", *words[:3], "usability-research", *words[4:], "--yes")
    assert (ended, "We record" in told) == (0, False)


def _at_a_terminal(plane: Plane, said: str, *words: str) -> tuple[str, int]:
    """Run a command on a pseudo-terminal, type `said` once it asks, and return what it shows and its exit code."""
    ours, its = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "tidegate", *words], env=plane.env(), cwd=ROOT, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
            if said and b"[y/N]" in shown:
                os.write(ours, said.encode())
                said = ""
    except OSError:  # the other end is closed: the command has ended
        pass
    os.close(ours)
    return shown.decode(), child.wait(30)


def test_what_makes_no_sense_is_named_and_changes_nothing(desk):
    """Unknown purposes and notices with the nearest, ends that have passed, what is no duration, key or identifier."""
    desk.say("grant", "--purpose", PURPOSE, "--create-key")
    text = desk.plane.home / "people"
    text.write_text(f"{SOMEBODY}\nJane Doe\n")
    open_key = desk.plane.home / "open.key"
    open_key.write_bytes(b"x" * 32)
    open_key.chmod(0o644)
    own = ("--subject-key", desk.mine)
    grant = ("grant", "--purpose", PURPOSE)
    for words, code, said in [
        (("grant", "--purpose", "assistant-trainin", *own), 1, f"did you mean `{PURPOSE}`"),
        (("withdraw", "--purpose", "assistant-trainin", *own), 1, f"did you mean `{PURPOSE}`"),
        ((*grant, *own, "--notice", "2"), 1, "unknown notice `2`"),
        ((*grant,), 2, "say who"),
        ((*grant, *own, "--subject", SOMEBODY), 2, "say who"),
        ((*grant, "--subject", "Jane"), 1, "--subject is not a subject identifier"),
        ((*grant, "--file", str(text), "--key", "anna"), 1, "line 2 of"),
        ((*grant, "--file", str(desk.plane.home), "--key", "anna"), 1, "cannot read"),
        ((*grant, "--subject-key", str(open_key)), 1, "chmod 600"),
        ((*grant, "--subject-key", str(text)), 1, "can be read by others"),
        ((*grant, "--subject-key", "/dev/zero"), 1, "not a file"),
        (("pause", *own, "--for", "soon"), 2, "is no duration"),
        (("pause", *own, "--for", "0m"), 2, "before it begins"),
        (("pause", *own, "--until", "2020-01-01T00:00Z"), 2, "before it begins"),
        (("pause", *own, "--until", "2099-01-01T00:00"), 2, "in which zone"),
        (("pause", *own, "--until", "teatime"), 2, "is no moment"),
        (("pause", *own, "--until", "9999-01-01T00:00Z"), 2, "ten years"),
        (("pause", *own, "--for", "1h", "--until", "2099-01-01T00:00Z"), 2, "exclude each other"),
        (("resume", *own), 1, "no pause to end"),
        (("withdraw", "--subject", SOMEBODY), 1, "no consent to withdraw"),
    ]:
        assert said in (told := desk.refused(*words, code=code)), told
        assert "Jane" not in told
    assert "stdin names no subject" in desk.refused(*grant, "--file", "-", "--key", "anna", given="\n\n")


def test_without_a_policy_nothing_can_be_granted_and_anything_be_stopped(plane):
    """A grant says why; a pause and a withdrawal hold before there is a first policy."""
    for words, said in ((("grant", "--purpose", PURPOSE), "no policy is in force"), (("notice",), "None ever was")):
        who = () if words == ("notice",) else ("--subject", SOMEBODY)
        done = plane.run("consent", *words, *who)
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert plane.json("consent", "pause", "--subject", SOMEBODY)["paused"]
    assert plane.json("consent", "show", "--subject", SOMEBODY)["pause"]["until"] == 0


def test_a_grant_that_no_gate_takes_is_told_as_such(desk, monkeypatch):
    """With a clock a minute ahead it would be ignored as a word from the future: the command reads back, and says so."""
    monkeypatch.setattr(consent_cli, "wall_ms", lambda: wall_ms() + 60_000)
    done = desk.plane.run("consent", "grant", "--purpose", PURPOSE, "--subject-key", desk.mine, "--create-key")
    assert (done.returncode, "clock is ahead of the broker's" in done.stderr) == (1, True), done.stderr
    assert desk.fate() == NO_CONSENT


def test_made_up_people_sign_for_themselves(desk):
    """`produce simulate` and `replay` write their grants and say how many; again, none is written."""
    words = ("simulate", "--people", "5", "--seed", "3", "--subjects-only")
    people = _produce(desk, *words).stdout.split()
    assert desk.written() == -1
    said = _produce(desk, *words, "--consent", PURPOSE, "--consent", "usability-research")
    assert "5 people consent to assistant-training and usability-research" in said.stderr
    assert said.stdout.split() == people
    assert [desk.fate(each, until="") for each in people] == [""] * 5
    before = desk.written()
    assert "5 of these consents stood already" in _produce(desk, *words, "--consent", PURPOSE).stderr
    assert desk.written() == before
    recorded = ("replay", str(ROOT / "producers" / "recordings"), "--subjects-only", "--consent", PURPOSE)
    for each in set(_produce(desk, *recorded).stdout.split()):
        assert desk.fate(each, until="") == ""
    typo = _produce(desk, *words, "--consent", "assistant-trainin")
    assert (typo.returncode, f"did you mean `{PURPOSE}`" in typo.stderr) == (1, True)


def _produce(desk: Desk, *words: str) -> subprocess.CompletedProcess[str]:
    return desk.plane.run("produce", *words)
