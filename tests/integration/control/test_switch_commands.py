"""The switch commands on a real broker with real gates: engage and its answers, release by two, show, watch."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from confluent_kafka.admin import AdminClient

from infra.control import signing
from infra.control.reader import wall_ms
from infra.control.records import Approver, Consent
from infra.control.writer import ControlWriter
from tests.approvers import APPROVERS, EVE, approve, demo_policy, write_keys
from tests.control_plane import ROOT, Plane
from tests.support import wait_until

ROLES = ("producer", "minimiser", "windower", "sampler")
ALL = ("--scope", "everything", "--reason", "test")
WAIT = ("--wait", "20")
"""Long enough for a machine under load; it ends as soon as every gate has answered."""


def write(plane: Plane, *records) -> None:
    with ControlWriter(plane.addresses(), timeout=10) as writer:
        writer.write(*records)


@pytest.fixture
def policy(plane):
    """The demo's policy in force, and the keys of both approvers, of eve and of an approver whose key runs out."""
    keys = plane.home / "keys"
    keys.mkdir(mode=0o700)
    write_keys(keys)
    for name, seed in (("eve", EVE), ("old", b"o" * 32)):
        (keys / f"{name}.key").write_bytes(seed)
        (keys / f"{name}.key").chmod(0o600)
    old = Approver("old", signing.public_of(b"o" * 32), wall_ms() - 1000)
    in_force = approve(replace(demo_policy(plane.home / "policy", "1"), approvers=(*APPROVERS, old), signatures=()), "1")
    write(plane, in_force)
    return in_force


def refused(plane: Plane, *words: str, code: int = 1) -> str:
    """Run a switch command that must end with this code, and return what it said."""
    done = plane.run("switch", *words)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stdout + done.stderr
    return done.stderr


def engage(plane: Plane, *words: str, code: int = 0) -> dict:
    return plane.json("switch", "engage", *words, code=code)


def engaged(plane: Plane) -> list[str]:
    return [row["id"] for row in plane.json("switch", "list")["switches"]]


# -- engaging ----------------------------------------------------------------


def test_every_gate_of_every_role_answers_and_the_latencies_are_those_of_the_way(plane, gate):
    """`stopped: 4/4 gates in N ms`, N no more than the command took; by then every gate holds the switch."""
    gates = [gate(role) for role in ROLES]
    began = time.monotonic()
    told = engage(plane, *ALL, *WAIT)
    took = (time.monotonic() - began) * 1000
    assert all(told["id"] in each.view().state.switches for each in gates)
    assert (told["complete"], told["done"], told["gates"]) == (True, 4, 4)
    assert sorted(each["role"] for each in told["answers"]) == sorted(ROLES)
    assert all(each["answer"] == "applied" and 0 <= each["latency_ms"] <= took for each in told["answers"])
    assert told["slowest_ms"] == max(each["latency_ms"] for each in told["answers"])
    said = plane.run("switch", "engage", "--scope", "source:keys", "--reason", "test", *WAIT)
    assert said.returncode == 0
    assert "stopped: 4/4 gates in " in said.stdout
    assert f"tidegate switch proof {engaged(plane)[1]}" in said.stdout


def test_the_same_engaged_again_writes_nothing_and_asks_the_gates_anew(plane, gate):
    """Another person's same stop is named with who and when, nothing is written, and a gate that came later answers."""
    gate("producer")
    first = engage(plane, *ALL, *WAIT, "--by", "anna")
    gate("minimiser")
    again = engage(plane, "--scope", "everything", "--reason", "other", *WAIT, "--by", "ben")
    assert (again["already"], again["id"], again["by"], again["offset"]) == (True, first["id"], "anna", first["offset"])
    assert (again["complete"], again["gates"], again["slowest_ms"]) == (True, 2, None)
    said = plane.run("switch", "engage", *ALL, *WAIT).stdout
    assert "already, by anna since" in said
    assert "Nothing new was written" in said
    assert engaged(plane) == [first["id"]]
    other = engage(plane, *ALL, *WAIT, "--id", "mine")
    assert (other["already"], other["id"]) == (False, "mine"), "an --id of its own is a switch of its own"


def test_a_gate_with_something_under_way_has_not_answered_until_that_is_over(plane, gate):
    """What was judged before is still on its way: exit 3 and its name; it answers once the passage is left."""
    busy, _ = gate("minimiser"), gate("windower")
    passage = busy.enter()
    done = plane.run("switch", "engage", *ALL, "--wait", "1.5")
    assert done.returncode == 3, done.stderr
    assert "not stopped everywhere yet: 1/2 gates" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if busy.gate in line]
    assert line.endswith("finishing")
    passage.leave()
    assert engage(plane, *ALL, *WAIT)["complete"]


def test_a_gate_that_leaves_while_it_is_waited_for_is_done(plane, gate):
    """A worker that ends with something under way says so, and is waited for no longer; it counts as ended."""
    busy = gate("minimiser")
    busy.enter()

    def leave() -> None:
        busy.wait_for(lambda view: bool(view.state.switches), 20)
        busy.close()

    leaving = threading.Thread(target=leave)
    leaving.start()
    told = engage(plane, *ALL, *WAIT)
    leaving.join()
    assert [each["answer"] for each in told["answers"]] == ["left"]


def test_a_killed_gate_is_missing_until_its_lease_has_run_out(plane, gate):
    """Nobody hears of its end: it is named, with when it was last heard and its lease; then it is closed."""
    gate("producer")
    child = subprocess.Popen(
        [
            sys.executable, "-c",
            "import time; from infra.addresses import Addresses; from infra.control.keeper import GateKeeper\n"
            "keeper = GateKeeper(Addresses.load(), 'sampler', 'standing')\n"
            "print(keeper.gate, flush=True)\n"
            "while keeper._last is None: time.sleep(0.01)\n"
            "print('announced', flush=True); time.sleep(60)",
        ],
        env=plane.env(), cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    name = child.stdout.readline().strip()
    assert child.stdout.readline() == "announced\n"
    plane.end(child)
    done = plane.run("switch", "engage", *ALL, "--wait", "1")
    assert done.returncode == 3
    (line,) = [line for line in done.stdout.splitlines() if name in line]
    assert line.endswith("silent")
    assert "certainly closed when its lease has run out" in done.stdout
    told = engage(plane, *ALL, *WAIT)
    assert told["complete"]
    assert {each["gate"]: each["answer"] for each in told["answers"]}[name] == "closed"


def test_a_gate_whose_lease_had_run_out_is_listed_and_not_waited_for(plane, gate, ghost):
    """It closed itself before: mentioned as closed, not counted; one that said it had ended is not mentioned."""
    gate("minimiser")
    ghost("windower-old", lease_ms=1000, at=wall_ms() - 10_000)
    ghost("windower-left", lease_ms=0)
    # The broker here dates no records, and the writer says now: an old word is one whose lease was short.
    wait_until(lambda: "windower-old" not in _known(plane), 10, "the lease ran out")
    told = engage(plane, *ALL, *WAIT)
    assert (told["gates"], [each["gate"] for each in told["lapsed"]]) == (1, ["windower-old"])


def _known(plane: Plane) -> list[str]:
    done = plane.run("gates", "list", "--json")
    return [row["gate"] for row in json.loads(done.stdout)["gates"]]


def test_with_no_gate_there_is_nothing_to_wait_for(plane):
    """No gate has announced itself, so none is open: said so at once, and exit 0."""
    done = plane.run("switch", "engage", *ALL)
    assert (done.returncode, "no gate has announced itself" in done.stdout) == (0, True)


def test_stopping_needs_the_broker_alone(plane, gate):
    """With the authority dead the gates are closed already, and acknowledge the switch all the same."""
    gates = [gate(role) for role in ROLES]
    plane.end(plane.authority)
    wait_until(lambda: not any(each.view().fresh for each in gates), 5, "every gate closed")
    done = plane.process("switch", "engage", *ALL, *WAIT)
    assert (done.returncode, "stopped: 4/4 gates" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--scope", "everithing", "--reason", "x"), "`everything`"),
        (("--scope", "everything:now", "--reason", "x"), "no value"),
        (("--scope", "source:key", "--reason", "x"), "`keys`"),
        (("--scope", "source", "--reason", "x"), "needs a value"),
        (("--scope", "purpose:assistant-trainin", "--reason", "x"), "`assistant-training`"),
        (("--scope", "team:suport", "--reason", "x"), "`support`"),
        (("--scope", "subject:Jane Doe", "--reason", "x"), "32 hex digits"),
        (("--scope", "everything", "--reason", " \n"), "a reason is needed"),
        (("--scope", "everything", "--reason", "x", "--id", "a b"), "--id"),
        (("--scope", "everything", "--reason", "x", "--expires", "soon"), "--expires"),
        (("--scope", "everything", "--reason", "x", "--expires", "0h"), "--expires"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_nearest_name_and_changes_nothing(plane, policy, words, said):
    """Exit 2, the nearest known name where there is one, and nothing on the topic."""
    told = refused(plane, "engage", *words, code=2)
    assert said in told
    assert "Nothing was changed" in told
    assert "Jane" not in told
    assert engaged(plane) == []


def test_an_unknown_subject_is_refused_and_others_are_not_given_away(plane):
    """A slip in a digit is pointed out; an identifier out of nowhere brings up nobody else's."""
    people = [secrets.token_hex(16) for _ in range(50)]
    write(plane, *(Consent(each, "assistant-training", False, "1", wall_ms()) for each in people))
    slip = people[7][:-1] + ("0" if people[7][-1] != "0" else "1")
    assert people[7] in refused(plane, "engage", "--scope", f"subject:{slip}", "--reason", "x", code=2)
    nobody = refused(plane, "engage", "--scope", f"subject:{secrets.token_hex(16)}", "--reason", "x", code=2)
    assert not any(each in nobody for each in people)
    told = engage(plane, "--scope", f"subject:{people[7]}", "--reason", "x")
    assert told["id"].startswith("subject-")
    assert people[7] not in plane.run("switch", "list").stdout


def test_a_stop_is_not_held_up_by_topics_that_cannot_be_read(plane):
    """With control.policy gone nobody can tell whether there is such a team: engaged all the same, and said."""
    admin = AdminClient({"bootstrap.servers": plane.address})
    admin.delete_topics(["control.policy"])["control.policy"].result(10)
    began = time.monotonic()
    done = plane.run("switch", "engage", "--scope", "team:support", "--reason", "x", "--id", "t", "--wait", "0.2")
    assert time.monotonic() - began < 4
    assert "engaged t: team support" in done.stdout, done.stderr
    assert "whether there is such a team is unknown" in done.stdout


def test_a_broker_that_does_not_answer_is_said_within_two_seconds(plane):
    """Dead, or alive and silent: exit 1, its address, what to try next, no traceback."""
    for end in (lambda: plane.broker.send_signal(signal.SIGSTOP), lambda: plane.end(plane.broker)):
        end()
        for words in (("engage", *ALL), ("release", "x", "--reason", "x", "--key", _a_key(plane)), ("list",)):
            began = time.monotonic()
            told = refused(plane, *words)
            assert time.monotonic() - began < 2.5, words  # 2 s, and what a busy machine takes
            assert plane.address in told
            assert "tidegate status" in told


def _a_key(plane: Plane) -> str:
    return write_keys(plane.home)[0]


def test_an_expiry_warns_and_never_releases(plane):
    """Overdue: exit 1 of `list --overdue`, marked in the list, and it stops as before."""
    engage(plane, "--scope", "source:keys", "--reason", "x", "--id", "later", "--expires", "4h")
    assert plane.run("switch", "list", "--overdue").returncode == 0
    told = engage(plane, *ALL, "--id", "now", "--expires", "50ms")
    assert told["expires_at"] > 0
    wait_until(lambda: wall_ms() > told["expires_at"], 5, "the expiry came")
    overdue = plane.json("switch", "list", "--overdue", code=1)
    assert [(row["id"], row["overdue"]) for row in overdue["switches"]] == [("now", True)]
    assert "OVERDUE" in plane.run("switch", "list").stdout
    assert sorted(engaged(plane)) == ["later", "now"]


# -- releasing ---------------------------------------------------------------


def release(plane: Plane, *words: str, code: int = 0) -> dict:
    return plane.json("switch", "release", *words, code=code)


def test_two_approvers_release_one_after_the_other(plane, policy, gate):
    """The first proposes and learns who else may sign and how; the second needs a key alone; then a new epoch."""
    keeper = gate("minimiser")
    engage(plane, *ALL, *WAIT, "--id", "s")
    engage(plane, "--scope", "source:keys", "--reason", "x", *WAIT, "--id", "keys")
    proposed = release(plane, "s", "--reason", "mended", "--key", "anna", code=3)
    assert (proposed["engaged"], proposed["signed_by"], proposed["may_sign"]) == (True, ["anna"], ["ben"])
    assert proposed["next"] == "tidegate switch release s --key ben"
    assert keeper.view().state.switches["s"].engaged
    listed = plane.run("switch", "list").stdout
    assert '"mended"' in listed
    assert proposed["next"] in listed
    done = release(plane, "s", "--key", "ben", *WAIT)
    assert (done["complete"], done["epoch"], done["signed_by"]) == (True, 1, ["anna", "ben"])
    assert (done["reason"], done["by"], done["still_engaged"]) == ("mended", "anna", ["keys"])
    assert not keeper.view().state.switches["s"].engaged
    assert engaged(plane) == ["keys"]
    assert plane.json("switch", "list")["ignored"] == {}, "a proposal that was completed was not ignored"


def test_two_keys_release_in_one_command_and_what_else_stops_is_said(plane, policy):
    """Both at once; engaged again under the same name, the old signatures are worth nothing."""
    engage(plane, *ALL, "--id", "s")
    engage(plane, "--scope", "source:keys", "--reason", "x", "--id", "keys")
    done = plane.run("switch", "release", "s", "--reason", "mended", "--key", "anna", "--key", "ben")
    assert done.returncode == 0, done.stderr
    assert "1 switch still engaged: keys stops source keys." in done.stdout
    engage(plane, *ALL, "--id", "s")
    assert "a reason is needed" in refused(plane, "release", "s", "--key", "anna", "--key", "ben", code=2)
    assert set(engaged(plane)) == {"keys", "s"}


def test_a_release_that_may_not_be_is_refused_in_words_and_changes_nothing(plane, policy, tmp_path):
    """One person twice, the engager alone, an expired, unknown or open key, no key, no reason, nothing to release."""
    engage(plane, *ALL, "--id", "s", "--by", "anna")
    open_key = tmp_path / "open.key"
    open_key.write_bytes(EVE)
    open_key.chmod(0o644)
    twin = tmp_path / "twin.key"
    twin.write_bytes(b"a" * 32)
    twin.chmod(0o600)
    why = ("--reason", "x")
    for words, said, code in [
        (("s", *why, "--key", "anna", "--key", str(twin)), "one and the same key", 1),
        (("s", *why, "--key", "anna"), "anna engaged s", 1),
        (("s", *why, "--key", "ben", "--key", "old"), "has run out", 1),
        (("s", *why, "--key", "eve", "--key", "ben"), "is no approver's", 1),
        (("s", *why, "--key", str(open_key)), "can be read by others", 1),
        (("s", *why, "--key", "bem"), "`ben`", 1),
        (("s", *why), "two different approvers", 2),
        (("s", "--reason", "", "--key", "ben"), "a reason is needed", 2),
        (("sss", *why, "--key", "ben"), "`s`", 1),
    ]:
        assert said in refused(plane, "release", *words, code=code), words
    shown = plane.json("switch", "show", "s")
    assert (shown["engaged"], shown["pending"], len(shown["history"])) == (True, None, 1)
    release(plane, "s", *why, "--key", "ben", code=3)
    assert "second, different person (anna)" in refused(plane, "release", "s", "--key", "ben")
    assert "leave --reason out" in refused(plane, "release", "s", "--reason", "y", "--key", "anna")
    assert release(plane, "s", "--key", "anna")["signed_by"] == ["anna", "ben"]
    assert "is not engaged" in refused(plane, "release", "s", *why, "--key", "anna", "--key", "ben")


def test_who_proposed_may_give_another_reason(plane, policy):
    """The new proposal takes the place of the old one, and is what the second person signs."""
    engage(plane, *ALL, "--id", "s")
    release(plane, "s", "--reason", "one", "--key", "anna", code=3)
    assert release(plane, "s", "--reason", "two", "--key", "anna", code=3)["reason"] == "two"
    assert release(plane, "s", "--key", "ben")["reason"] == "two"


# -- looking -----------------------------------------------------------------


def test_show_tells_everything_of_one_switch(plane, policy, gate, ghost):
    """Scope, reason, who, when, expiry, digest, what was done to it since, and which gates hold it."""
    gate("minimiser")
    engage(plane, *ALL, *WAIT, "--id", "s", "--by", "anna", "--expires", "4h")
    ghost("windower-deaf", applied={"control.switch": -1})
    shown = plane.json("switch", "show", "s")
    assert (shown["scope"], shown["reason"], shown["by"], shown["engaged"]) == ("everything", "test", "anna", True)
    assert shown["expires_at"] - shown["at"] == 4 * 3_600_000
    assert len(shown["digest"]) == 64
    assert {each["role"]: each["holds"] for each in shown["gates"]} == {"minimiser": True, "windower": False}
    text = plane.run("switch", "show", "s").stdout
    assert "Held by 1 of 2 gates; not by windower-deaf (vm:1)." in text
    write(plane, replace(policy, version=1))  # the same policy again: no switch's business
    release(plane, "s", "--reason", "mended", "--key", "ben", code=3)
    assert plane.json("switch", "show", "s")["pending"]["may_sign"] == ["anna"]
    release(plane, "s", "--key", "anna", "--wait", "0", code=3)  # the deaf one has not come to it
    after = plane.json("switch", "show", "s")
    assert [each["what"] for each in after["history"]] == ["engaged", "proposed", "released"]
    assert (after["engaged"], after["by"], after["reason"]) == (False, "anna", "test"), "who engaged it is still there"
    assert "signed by anna and ben, beginning epoch 1" in plane.run("switch", "show", "s").stdout
    assert "`s`" in refused(plane, "show", "ss")


def test_records_that_were_ignored_are_counted_in_words(plane, policy):
    """An unsigned release, and one signed for another engagement, change nothing and are shown."""
    engage(plane, *ALL, "--id", "s")
    (one,) = plane.json("switch", "list")["switches"]
    old = _record(one)
    unsigned = replace(old, engaged=False, releases=one["digest"], epoch=1)
    write(plane, unsigned, approve(replace(unsigned, releases="0" * 64), "1"))
    assert plane.json("switch", "list")["ignored"] == {"not_approved": 1, "replayed": 1}
    text = plane.run("switch", "list").stdout
    assert "1 x  a release without two approvers' valid signatures" in text
    assert "1 x  a release of another engagement" in text
    assert engaged(plane) == ["s"]


def _record(row: dict):
    from infra.control.records import Switch

    return Switch(row["id"], row["scope"], row["value"], True, row["reason"], row["by"], row["at"], 0)


@pytest.fixture
def follow(plane) -> Callable[..., subprocess.Popen[str]]:
    """Starts a command that goes on, as its user does; ended at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tidegate", *words],
                env=plane.env(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        )
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait()


def test_watch_gives_a_line_for_each_change_until_ctrl_c(plane, gate, follow):
    """What there is, then a new switch, then each gate that holds it; Ctrl-C ends it without a traceback."""
    gate("minimiser")
    watching = follow("switch", "watch", "--json")
    first = json.loads(watching.stdout.readline())
    assert (first["what"], first["change"], first["role"]) == ("gate", "is", "minimiser")
    engage(plane, *ALL, *WAIT, "--id", "s")
    seen: set[tuple[str, str]] = set()
    while {("switch", "new"), ("gate", "changed")} - seen:
        line = json.loads(watching.stdout.readline())
        seen.add((line["what"], line["change"]))
        if line["what"] == "gate":
            assert line["switches"] in ([], ["s"])
    watching.send_signal(signal.SIGINT)
    rest, errors = watching.communicate(timeout=20)
    assert (watching.returncode, "Traceback" in errors) == (0, False), errors
