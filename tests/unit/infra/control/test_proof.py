"""What the proof makes of the log and of counts: when the interval begins, what must be zero, which verdict follows."""

from __future__ import annotations

import json

import pytest

from infra.control import proof_sql
from infra.control.proof import (
    HELD,
    OPEN,
    STARTING_MS,
    VIOLATED,
    CannotTellError,
    Clocks,
    Column,
    Covers,
    Engagement,
    Figure,
    Proof,
    broker_ahead,
    clock_trouble,
    covers_of,
    engagements,
    fates,
    figures_of,
)
from infra.control.records import SWITCH_TOPIC, Ack, key_of, topic_of
from infra.control.roll import Word, gates
from infra.control.state import Entry
from tests.approvers import ANNA

NOW = 1_700_000_000_000
LOG = "1"
KEY = b"k" * 32
SWITCH_OFFSET = 5
SCOPES = ("everything", "source", "purpose", "application", "subject", "others")


def entries(*records, at=NOW):
    """The records at the offsets of their topics, each a second after the one before."""
    made, offsets = [], {}
    for second, record in enumerate(records):
        topic = topic_of(record)
        offsets[topic] = offsets.get(topic, -1) + 1
        made.append(Entry(topic, offsets[topic], key_of(record), record, at + second * 1000))
    return made


def word(gate, at, applied=-1, *, lease=30_000, log=LOG, number=0):
    """What a gate said at `at` ms after NOW."""
    ack = Ack(gate, "windower", "host:1", log, NOW, NOW + at, lease, {SWITCH_TOPIC: applied}, True, "", (), (), 0, 1)
    return Word(number, ack, NOW + at, 0.0)


@pytest.fixture
def engaged(make) -> Engagement:
    return Engagement(make.switch(), SWITCH_OFFSET, NOW)


def fate_of(engaged, *words, end=NOW + 60_000):
    """What became of the one gate that said these words; None where it was not expected to answer."""
    found = fates(gates(words), engaged, LOG, end)
    return (found[0].how, found[0].at - NOW) if found else None


# -- the history -------------------------------------------------------------


def test_a_release_ends_the_engagement_that_it_names(make):
    """The interval ends with the record that two approvers signed, at the time at which the broker took it."""
    one = make.switch()
    found = engagements(entries(make.policy(), one, make.release(one, epoch=1)), LOG)["s"]
    assert (found.switch, found.offset, found.at) == (one, 0, NOW + 1000)
    assert (found.release.epoch, found.release_offset, found.released_at) == (1, 1, NOW + 2000)


def test_a_release_that_counts_for_no_gate_ends_nothing(make):
    """Signed by one, or not at all, it is counted and the switch stays engaged."""
    one = make.switch()
    weak = (make.release(one, by=()), make.release(one, by=(ANNA,)))
    found = engagements(entries(make.policy(), one, *weak), LOG)["s"]
    assert found.release is None
    assert found.ignored == {"not_approved": 1, "too few signatures": 1}


def test_the_last_engagement_is_the_one_that_is_proved(make):
    """Engaged, released and engaged again: the second time, with nothing of the first release."""
    one, two = make.switch(), make.switch(reason="again", at=NOW)
    found = engagements(entries(make.policy(), one, make.release(one, epoch=1), two), LOG)["s"]
    assert (found.switch, found.release, found.times) == (two, None, 2)


def test_times_of_events_are_as_coarse_as_the_coarsest_policy_since(make):
    """The policy in force when it was engaged counts, a finer one before it does not."""
    policies = [make.policy(version=n, resolution_ms=ms) for n, ms in ((1, 500), (2, 20), (3, 50))]
    listed = entries(policies[0], policies[1], make.switch(), policies[2])
    assert engagements(listed, LOG)["s"].resolution_ms == 50
    assert engagements(listed[:3], LOG)["s"].resolution_ms == 20


# -- the gates ---------------------------------------------------------------


def test_a_gate_has_answered_with_its_first_word_that_names_the_offset(engaged):
    """Not by an earlier word, and not by a later one."""
    words = word("g", -100, 4), word("g", 20, 4), word("g", 143, 5), word("g", 900, 6)
    assert fate_of(engaged, *words) == ("acknowledged", 143)


def test_a_gate_that_leaves_needs_no_acknowledgement(engaged):
    """Its last word says that nothing of it is on its way."""
    assert fate_of(engaged, word("g", -100, 4), word("g", 50, 4, lease=0)) == ("left", 50)


def test_a_silent_gate_holds_the_interval_up_until_its_lease_has_run_out(engaged):
    """Killed, it is waited for as long as it could be open; then the interval begins."""
    silent = word("g", -100, 4, lease=10_000)
    closed = silent.lease_until - NOW
    assert fate_of(engaged, silent, end=NOW + 5_000) == ("waiting", closed)
    assert fate_of(engaged, silent, end=NOW + 20_000) == ("lease ran out", closed)


def test_a_gate_that_wakes_after_its_lease_was_closed_meanwhile(engaged):
    """Its late acknowledgement does not move the beginning: it could let nothing through since its lease ran out."""
    silent = word("g", -100, 4, lease=10_000)
    assert fate_of(engaged, silent, word("g", 40_000, 5)) == ("lease ran out", silent.lease_until - NOW)


def test_a_word_without_the_switch_prolongs_the_waiting(engaged):
    """A gate that renews its lease without having applied the switch is still waited for."""
    words = word("g", -100, 4, lease=10_000), word("g", 8_000, 4, lease=10_000)
    assert fate_of(engaged, *words, end=NOW + 12_000) == ("waiting", words[1].lease_until - NOW)
    assert fate_of(engaged, *words, word("g", 13_000, 5)) == ("acknowledged", 13_000)


@pytest.mark.parametrize(
    "said",
    [
        [("g", -60_000, 4)],
        [("g", -100, 4, 0)],
        [("g", STARTING_MS + 1, -1), ("g", STARTING_MS + 200, 5)],
    ],
    ids=["lease over", "had left", "started later"],
)
def test_gates_that_could_not_be_open_are_not_waited_for(engaged, said):
    """Neither one that was closed before, nor one that came later and reads the switch before it opens."""
    words = [word(gate, at, applied, lease=lease[0] if lease else 30_000) for gate, at, applied, *lease in said]
    assert fate_of(engaged, *words) is None


def test_a_gate_that_starts_as_the_switch_is_engaged_is_waited_for(engaged):
    """It may open on what it had read before."""
    assert fate_of(engaged, word("g", 50, -1), word("g", 300, 5)) == ("acknowledged", 300)


def test_gates_of_another_log_are_no_part_of_it(engaged):
    """Their offsets mean something else."""
    assert fate_of(engaged, word("g", -100, 9, log="other")) is None


def test_an_acknowledgement_dated_before_its_switch_is_of_the_same_moment(engaged):
    """Clocks part by some ms; a gate is not waited for because of that."""
    assert fate_of(engaged, word("g", -100, 4), word("g", -3, 5)) == ("acknowledged", 0)


# -- what is covered ---------------------------------------------------------


def test_a_subject_is_told_by_the_key_alone(make):
    """Without the key it is said that it cannot be told here; with it, no pseudonym shows in a repr."""
    one = make.switch("subject", make.subject)
    with pytest.raises(CannotTellError, match="pseudonym key"):
        covers_of(one, None, {})
    covers = covers_of(one, KEY, {})
    assert len(covers.pseudonyms) == 1
    assert covers.pseudonyms[0] not in repr(covers)


def test_a_team_is_everybody_but_the_people_of_others(make):
    """As for a gate, who is in no team may be in any; without a directory nothing found is certain."""
    one = make.switch("team", "support")
    covers = covers_of(one, KEY, {make.subject: "support", make.other: "research"})
    assert (covers.scope, covers.sure) == ("others", True)
    assert covers.pseudonyms == covers_of(make.switch("subject", make.other), KEY, {}).pseudonyms
    assert covers_of(one, None, {}).sure is False


def test_a_source_that_is_not_known_may_be_any(make):
    """As for a gate, it stops everything, and so everything is counted."""
    assert covers_of(make.switch("source", "smell"), None, {}).scope == "everything"
    assert covers_of(make.switch("source", "keys"), None, {}).kinds == (8,)


# -- the queries -------------------------------------------------------------


def test_values_are_filled_in_as_literals_and_pseudonyms_never():
    """A name with quotes, a backslash or braces stays a name; a subject's pseudonym stands in no query."""
    name = "it's \\ {engaged:Int64}\x1b\u202e"
    texts = [query.sql for query in proof_sql.queries(Covers("application", name), "s")]
    assert any(r"'it\'s \\ {engaged:Int64}\x1B\xE2\x80\xAE'" in text for text in texts)
    hidden = "ab" * 16
    of_subject = [query.sql for query in proof_sql.queries(Covers("subject", pseudonyms=(hidden,)), "s")]
    assert any("{pseudonyms:Array(String)}" in text for text in of_subject)
    assert not any(hidden in text for text in of_subject)


@pytest.mark.parametrize("scope", SCOPES)
def test_every_scope_looks_at_rows_events_and_samples(scope):
    """None may pass for having been left out."""
    must = {
        (column.where, column.name)
        for query in proof_sql.queries(Covers(scope, "x", (1,), ("p",)), "s")
        for column in query.columns
        if column.must_be_zero
    }
    assert {("windows", "stored"), ("windows", "captured"), ("manifests", "taken")} <= must


# -- the verdict -------------------------------------------------------------

ROWS = Column("stored", "windows", "rows stored", True, "near")


def proof(engaged, *figures, unseen=(), waiting=False, end=NOW + 10_000):
    said = [word("g", -100, 4)] if waiting else [word("g", -100, 4), word("g", 143, 5)]
    return Proof(engaged, fates(gates(said), engaged, LOG, end), end, figures=figures, unseen=unseen)


def test_it_held_when_all_that_must_be_zero_is(engaged):
    """Figures that may be anything change nothing, and the sentence says for how long it held."""
    found = proof(engaged, Figure("windows", "rows stored", 0, True), Figure("windows", "refused", 9, False))
    assert (found.code, found.verdict) == (HELD, "held")
    assert found.begin == NOW + 143
    assert "held: from the last acknowledgement to now, 9.857 s" in found.sentence


def test_one_figure_that_is_not_zero_violates_it(engaged):
    """Whatever else could not be looked at; the sentence names table and figure."""
    found = proof(engaged, Figure("windows", "rows stored", 1, True), unseen=["the registry"])
    assert found.code == VIOLATED
    assert found.sentence == "s did NOT hold: windows, rows stored: 1."


def test_what_the_clocks_cannot_decide_is_not_called_either():
    """Rows so near the ends that the clocks' difference covers them decide nothing; one beyond does."""
    assert figures_of([ROWS], {"stored": 2, "near": 2})[0].verdict == "UNDECIDED"
    assert figures_of([ROWS], {"stored": 3, "near": 2})[0].verdict == "VIOLATED"
    assert figures_of([ROWS], {"stored": 0, "near": 0})[0].verdict == "ok"
    assert figures_of([ROWS], {"stored": 3, "near": 0}, sure=False)[0].verdict == "UNDECIDED"


def test_it_is_not_proved_while_a_gate_is_waited_for(engaged):
    """The gate is named, and no interval is claimed."""
    found = proof(engaged, waiting=True)
    assert (found.code, found.begin) == (OPEN, None)
    assert "0 of 1 gates had applied it, not g" in found.sentence


def test_it_is_not_proved_where_something_could_not_be_looked_at(engaged):
    """Nothing found is not nothing there."""
    found = proof(engaged, Figure("windows", "rows stored", 0, True), unseen=["the store does not answer"])
    assert found.code == OPEN
    assert "the store does not answer" in found.sentence


def test_a_release_before_the_last_acknowledgement_leaves_nothing_to_prove(engaged):
    """There is no interval, and no figure is taken for one."""
    found = proof(engaged, end=NOW + 143)
    assert (found.code, found.begin) == (OPEN, None)
    assert "released before the last gate had applied it" in found.sentence


def test_no_gate_at_all_begins_at_once(engaged):
    """Where none could be open, nothing could pass from the moment of engaging."""
    assert Proof(engaged, [], NOW + 5_000).begin == NOW


def test_clocks_are_compared_and_a_wrong_one_is_said():
    """What may be decided narrows with the difference; beyond 5 s nothing is compared; a silent authority is named."""
    assert Clocks(store=20, trip=4, authority=-10, broker=5).apart == 28
    assert clock_trouble(Clocks(store=20, trip=4, authority=0, broker=0)) == ""
    assert "9.0 s" in clock_trouble(Clocks(store=9_000, trip=0, authority=0, broker=0))
    assert "no heartbeat" in clock_trouble(Clocks(store=0))
    assert broker_ahead(gates([word("g", 0), word("h", 5)])) == 0


def test_the_document_names_no_subject(make):
    """The JSON document of a switch over a subject holds neither identifier nor pseudonym."""
    one = make.switch("subject", make.subject)
    covers = covers_of(one, KEY, {})
    found = Proof(
        Engagement(one, SWITCH_OFFSET, NOW), [], NOW + 10,
        queries=[(query.title, query.sql) for query in proof_sql.queries(covers, one.id)],
    )  # fmt: skip
    text = json.dumps(found.document())
    assert make.subject not in text
    assert covers.pseudonyms[0] not in text
