"""`tidegate switch list`, `show` and `watch`: what stops, what was done to it, and as it changes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace

from confluent_kafka import Producer

from infra.control.records import Switch
from tests.approvers import approve
from tests.control_plane import ROOT
from tests.switching import ALL, WAIT, engage, engaged, refused, release, write


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


def _record(row: dict) -> Switch:
    return Switch(row["id"], row["scope"], row["value"], True, row["reason"], row["by"], row["at"], 0)


def test_what_somebody_wrote_into_a_record_does_not_steer_the_terminal(plane):
    """A name and a reason that hold escape sequences and lines are shown harmless, and quoted to be pasted."""
    stock = Producer({"bootstrap.servers": plane.address, "log_level": 0})
    forged = {"scope": "everything", "reason": "\x1b[2J\nstopped: 8/8 gates", "by": "\x1b]0;x\x07"}
    stock.produce("control.switch", key="a b\x1b[1m", value=json.dumps(forged))
    stock.flush(10)
    for words in (("list",), ("show", "a b\x1b[1m"), ("engage", *ALL)):
        done = plane.run("switch", *words)
        assert done.returncode == 0, done.stderr
        assert not {"\x1b", "\x07"} & set(done.stdout)
        assert not any(line.startswith("stopped: 8/8") for line in done.stdout.splitlines())
    assert "tidegate switch proof 'a b" in done.stdout


def test_watch_gives_a_line_for_each_change_until_ctrl_c(plane, gate):
    """What there is, then a new switch, then each gate that holds it; Ctrl-C ends it without a traceback."""
    gate("minimiser")
    watching = subprocess.Popen(
        [sys.executable, "-m", "tidegate", "switch", "watch", "--json"],
        env=plane.env(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
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
        _, errors = watching.communicate(timeout=20)
        assert (watching.returncode, "Traceback" in errors) == (0, False), errors
    finally:
        watching.kill()
        watching.wait()
