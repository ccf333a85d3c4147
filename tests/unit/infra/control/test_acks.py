"""Who can be open and who has applied what, from words on control.ack: every moment is given."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from infra.control.commands.answers_shown import details, headline
from infra.control.records import SWITCH_TOPIC, Ack
from infra.control.roll import Answers, Asked, Word, answers, gates, latency_ms
from infra.control.writer import Written

NOW = 1_700_000_000_000
LEASE = 10_000
GRACE = 1_000
"""A lease is judged by another clock than the gate's."""


def said(gate="minimiser-1", applied=4, at=NOW, offset=0, **changes) -> Word:
    values = {
        "gate": gate,
        "role": gate.partition("-")[0],
        "host": "" if gate.startswith("producer") else "vm:1",
        "log": "1",
        "started_at": NOW - 60_000,
        "at": at,
        "lease_ms": LEASE,
        "applied": {SWITCH_TOPIC: applied},
        "open": True,
        "why": "",
        "sources": ("keys",),
        "switches": (),
        "epoch": 0,
        "policy_version": 1,
    }
    return Word(offset, Ack(**{**values, **changes}), at, time.monotonic())


def asked(offset=5, since=NOW, **changes) -> Asked:
    return Asked(SWITCH_TOPIC, offset, "1", since)._replace(**changes)


def answered(*words: Word, now=NOW + 100, **changes) -> Answers:
    return answers(gates(words), asked(**changes), now)


def how(found: Answers) -> dict[str, str]:
    return {each.gate.name: each.how for each in found.all}


def test_a_gate_is_known_from_its_word_until_its_lease_runs_out_or_it_leaves():
    """Known: announced in this log, not left, lease not run out; the moment decides, not the order of reading."""
    (gate,) = gates([said(), said(at=NOW + 3_000, offset=1)])
    assert gate.is_known(NOW + 3_000 + LEASE, "1")
    assert not gate.is_known(NOW + 3_000 + LEASE + GRACE, "1")
    assert not gate.is_known(NOW, "2")
    assert gate.at(NOW).last.at == NOW
    assert gate.at(NOW - 1) is None
    (left,) = gates([said(), said(at=NOW + 1, lease_ms=0)])
    assert left.left
    assert not left.is_known(NOW + 2, "1")


def test_the_last_word_of_each_gate_counts():
    """Words of several gates interleave; each gate is told by what it said itself."""
    found = gates([said("minimiser-1"), said("windower-1"), said("minimiser-1", 5, NOW + 1)])
    assert [(gate.name, gate.last.ack.applied[SWITCH_TOPIC]) for gate in found] == [
        ("minimiser-1", 5),
        ("windower-1", 4),
    ]


def test_who_has_applied_an_offset_and_when():
    """The first word that reaches the offset tells when; one of another log, with offsets of its own, does not."""
    (gate,) = gates(
        [
            said(applied=9, log="0"),
            said(applied=4, at=NOW + 1),
            said(applied=6, at=NOW + 2),
            said(applied=7, at=NOW + 3),
        ]
    )
    assert gate.applied(SWITCH_TOPIC, 5, "1").at == NOW + 2
    assert gate.applied(SWITCH_TOPIC, 8, "1") is None
    assert gate.applied("control.policy", 0, "1") is None


def test_a_record_is_complete_when_every_gate_that_could_be_open_goes_by_it():
    """One applied, one not: incomplete, and it is named; once it has applied it too, complete."""
    words = [said("minimiser-1"), said("windower-1"), said("minimiser-1", 5, NOW + 10)]
    found = answered(*words)
    assert how(found) == {"minimiser-1": "applied", "windower-1": "missing"}
    assert (found.done, found.complete) == (1, False)
    assert answered(*words, said("windower-1", 5, NOW + 20)).complete


def test_a_gate_that_leaves_or_whose_lease_runs_out_is_waited_for_no_longer():
    """Having ended, or having shut itself, is an answer too; which one is said."""
    ended = answered(said(), said(at=NOW + 5, lease_ms=0))
    assert (how(ended), ended.complete) == ({"minimiser-1": "left"}, True)
    silent = [said(at=NOW - 5_000)]
    assert how(answered(*silent, now=NOW + 5_999)) == {"minimiser-1": "missing"}
    assert how(answered(*silent, now=NOW + 6_000)) == {"minimiser-1": "closed"}


def test_a_gate_whose_lease_had_run_out_is_listed_and_not_counted():
    """It cannot have been open when the record was written; one that had left is not even listed."""
    found = answered(said("minimiser-1", at=NOW - LEASE - GRACE), said("windower-1", at=NOW - 9, lease_ms=0))
    assert (found.all, [gate.name for gate in found.lapsed]) == ((), ["minimiser-1"])
    assert found.complete
    assert "lease has run out" in "".join(details(found, lambda _: False))


def test_a_gate_that_joins_after_the_record_is_waited_for_once_it_is_heard():
    """Its announcement comes before it has read anything, so it counts, and answers in a moment."""
    joined = said("sampler-1", -1, NOW + 3)
    assert how(answered(joined)) == {"sampler-1": "missing"}
    assert answered(joined, said("sampler-1", 5, NOW + 9)).complete


def test_a_gate_that_speaks_again_after_its_lease_ran_out_is_waited_for():
    """A machine that was asleep: closed when the record was written, and not any more."""
    woken = [said(at=NOW - LEASE - GRACE), said(at=NOW + 5)]
    assert how(answered(*woken)) == {"minimiser-1": "missing"}
    assert answered(*woken, said(at=NOW + 9, applied=5)).complete


def test_a_gate_of_another_log_counts_while_it_says_that_it_is_open():
    """Offsets of another life of the broker say nothing; closed it stays closed, open it is a gate that disagrees."""
    assert how(answered(said(applied=99, log="0"))) == {"minimiser-1": "missing"}
    assert how(answered(said(applied=99, log="0", open=False))) == {"minimiser-1": "closed"}


def test_roles_that_say_nothing_of_a_topic_are_not_asked():
    """Producers do not acknowledge consents: with `roles` they neither count nor hold anything up."""
    found = answered(said("producer-1"), said("minimiser-1", 5, NOW + 1), roles=("minimiser", "windower"))
    assert (how(found), found.complete) == ({"minimiser-1": "applied"}, True)


def test_what_could_not_be_read_is_never_complete():
    """Without control.ack read to its end nobody knows who is missing, whatever has been read says."""
    found = replace(answered(said("minimiser-1", 5, NOW + 1)), read=False, trouble="no answer")
    assert not found.complete
    assert "not known" in headline("stopped", found)


@pytest.mark.parametrize(
    ("ack_after", "seen_after", "expected"),
    [(12, 0.040, 12), (0, 0.040, 0), (-3, 0.040, 40), (90_000, 0.040, 40), (40, 0.040, 40)],
)
def test_latency_is_the_brokers_unless_the_clocks_are_apart(ack_after, seen_after, expected):
    """By the dates where they make sense; never below nothing, never above what was measured here."""
    written = Written(5, NOW, 100.0, 100.001)
    word = said(at=NOW + ack_after)._replace(arrived=100.0 + seen_after)
    assert latency_ms(word, written) == expected


def test_the_headline_names_the_slowest_and_the_details_the_missing():
    """What on-call reads: how many, how fast; many gates of a role in one row; every missing one by name and way."""
    written = Written(5, NOW, time.monotonic() - 10, time.monotonic() - 10)
    words = [said(f"producer-{n}", 5, NOW + 10 * n) for n in range(1, 6)]
    done = answered(*words, written=written, since=NOW - 1)
    assert headline("stopped", done) == "stopped: 5/5 gates in 50 ms"
    assert "\n".join(details(done, lambda _: True)).count("producer") == 1
    late = [said("minimiser-1", at=NOW - 2_000), said("windower-1"), said("windower-1", 4, NOW + 9, switches=("s",))]
    found = answered(*words, *late, said("sampler-1", 4, NOW + 50), written=written)
    text = "\n".join(details(found, lambda ack: "s" in ack.switches))
    assert "not stopped everywhere yet: 5/8 gates in 50 ms; 3 not answered" in headline("stopped", found)
    lines = {line.split()[0]: line.split()[-1] for line in text.splitlines() if " ago, " in line}
    assert lines == {"minimiser-1": "silent", "windower-1": "finishing", "sampler-1": "behind"}
    assert "no gate has announced itself" in headline("stopped", answered())
