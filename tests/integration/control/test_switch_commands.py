"""`tidegate switch engage` on a real broker with real gates: who answers, who does not, and what is refused."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import threading
import time

import pytest
from confluent_kafka.admin import AdminClient

from infra.control.reader import wall_ms
from infra.control.records import Consent
from tests.approvers import write_keys
from tests.control_plane import ROOT, Plane
from tests.support import wait_until
from tests.switching import ALL, WAIT, engage, engaged, refused, write

ROLES = ("producer", "minimiser", "windower", "sampler")


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


def test_a_gate_that_leaves_while_it_is_waited_for_is_done(plane, gate, ghost):
    """A worker that lets go and ends, and one that ends without having applied it, are waited for no longer."""
    busy, lazy = gate("minimiser"), ghost("windower-lazy")
    passage = busy.enter()

    def leave() -> None:
        busy.wait_for(lambda view: bool(view.state.switches), 20)
        passage.leave()
        busy.close()
        ghost(lazy, lease_ms=0)

    leaving = threading.Thread(target=leave)
    leaving.start()
    told = engage(plane, *ALL, *WAIT)
    leaving.join()
    answers = {each["gate"]: each["answer"] for each in told["answers"]}
    assert answers[busy.gate] in ("applied", "left")
    assert answers[lazy] == "left"


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
    admin = AdminClient({"bootstrap.servers": plane.address, "log_level": 0})
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
