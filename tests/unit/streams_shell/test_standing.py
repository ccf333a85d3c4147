"""The translation of consents to pseudonyms."""

from __future__ import annotations

from infra.control import signing
from infra.control.identity import pseudonym_of, subject_of
from infra.control.records import (
    ALL_PURPOSES,
    CONSENT_TOPIC,
    STANDING_TOPIC,
    SWITCH_TOPIC,
    Consent,
    Standing,
    Switch,
    consent_key,
    key_of,
)
from infra.control.state import ControlState, Entry, apply
from streams.standing import Translator

KEY = b"k" * 32
SEEDS = {subject_of(seed): seed for seed in (b"a" * 32, b"b" * 32)}
ANN, BOB = SEEDS
NOW = 1_800_000_000_000


def _state(*entries: Entry, before: ControlState | None = None) -> ControlState:
    return apply(before or ControlState(log="1"), entries, NOW)


def _consent(offset: int, subject: str, granted: bool = True, purpose: str = "training", until: int = 0) -> Entry:
    record = Consent(subject, purpose, granted, "n1", NOW + offset, until=until)
    return Entry(CONSENT_TOPIC, offset, consent_key(subject, purpose), signing.sign(record, "1", SEEDS[subject]))


def _switch(offset: int, subject: str) -> Entry:
    return Entry(SWITCH_TOPIC, offset, "s", Switch("s", "subject", subject, True, "asked for it", "on-call", NOW, 0))


def _read(*published: list[Standing]) -> ControlState:
    """What a gate of pseudonyms makes of what several minimisers published, one after the other."""
    records = [record for records in published for record in records]
    entries = [Entry(STANDING_TOPIC, at, key_of(record), record) for at, record in enumerate(records)]
    return apply(ControlState(log="1", mode="standing"), entries, NOW)


def _said(translator: Translator, state: ControlState) -> list[Standing]:
    records = translator.changes(state, NOW)
    translator.published(records)
    return records


def test_first_everything_then_changes_then_progress():
    """The first translation names everybody; later ones only who said something; the progress record comes last."""
    translator = Translator(KEY)
    state = _state(_consent(0, ANN), _consent(1, BOB))
    assert _said(translator, state) == [
        Standing(pseudonym_of(KEY, ANN), ("training",), ("n1",), 1, -1),
        Standing(pseudonym_of(KEY, BOB), ("training",), ("n1",), 1, -1),
        Standing("", (), (), 1, -1),
    ]
    assert translator.changes(state, NOW) == []
    later = _state(_consent(2, BOB, granted=False), before=state)
    assert _said(translator, later) == [Standing(pseudonym_of(KEY, BOB), (), (), 2, -1), Standing("", (), (), 2, -1)]


def test_what_was_not_published_is_said_again():
    """A publication that failed leaves everything to be said, and one cut short what it did not reach."""
    translator = Translator(KEY)
    state = _state(_consent(0, ANN), _consent(1, BOB))
    records = translator.changes(state, NOW)
    assert translator.changes(state, NOW) == records
    translator.published(records[:1])
    assert translator.changes(state, NOW) == records[1:]


def test_no_consents_still_make_progress():
    """Gates downstream can be fresh although nobody has said anything."""
    assert Translator(KEY).changes(ControlState(log="1"), NOW) == [Standing("", (), (), -1, -1)]


def test_a_switch_that_names_nobody_is_progress():
    """Gates downstream wait until every switch has been looked at, for it might have named a subject or a team."""
    translator = Translator(KEY)
    state = _state(_consent(0, ANN))
    _said(translator, state)
    keys = Entry(SWITCH_TOPIC, 0, "k", Switch("k", "source", "keys", True, "r", "b", NOW, 0))
    after = _state(keys, before=state)
    assert translator.behind(after)
    assert _said(translator, after) == [Standing("", (), (), 0, 0)]
    assert not translator.behind(after)


def test_a_switch_over_a_subject_takes_their_consent_away_downstream():
    """Gates that know pseudonyms only cannot recognise the subject that a switch names."""
    translator = Translator(KEY)
    state = _state(_consent(0, ANN), _consent(1, BOB))
    _said(translator, state)
    stopped = _state(_switch(0, ANN), before=state)
    assert _said(translator, stopped) == [Standing(pseudonym_of(KEY, ANN), (), (), 1, 0), Standing("", (), (), 1, 0)]


def test_a_switch_over_a_team_takes_away_the_consents_of_its_people():
    """And of those who stand in no team, since they may be in it."""
    engaged = Entry(SWITCH_TOPIC, 0, "s", Switch("s", "team", "support", True, "r", "b", NOW, 0))
    for teams, stopped in [
        ({ANN: "support", BOB: "research"}, {ANN}),
        ({BOB: "support"}, {ANN, BOB}),
        ({}, {ANN, BOB}),
    ]:
        translator = Translator(KEY)
        state = _state(_consent(0, ANN), _consent(1, BOB), before=ControlState(log="1", teams=teams))
        _said(translator, state)
        said = _said(translator, _state(engaged, before=state))
        assert {each.pseudonym for each in said[:-1]} == {pseudonym_of(KEY, subject) for subject in stopped}


def test_a_pause_takes_all_consents_away_downstream_until_it_ends():
    """It ends by itself: then the translation says so, though no record has come."""
    translator = Translator(KEY)
    state = _state(_consent(0, ANN), _consent(1, ANN, granted=False, purpose=ALL_PURPOSES, until=NOW + 1000))
    assert _said(translator, state)[0].purposes == ()
    assert translator.changes(state, NOW + 999) == []
    resumed = translator.changes(state, NOW + 1000)
    assert resumed == [Standing(pseudonym_of(KEY, ANN), ("training",), ("n1",), 1, -1), Standing("", (), (), 1, -1)]


def test_progress_speaks_for_what_another_minimiser_wrote():
    """One has published a grant and is gone; to the other, which reads it with its withdrawal, nothing has changed."""
    one, other = Translator(KEY), Translator(KEY)
    nothing = _state(_consent(0, ANN, granted=False))
    granted = _state(_consent(1, ANN), before=nothing)
    withdrawn = _state(_consent(2, ANN, granted=False), before=granted)
    topic = [_said(one, nothing), _said(other, nothing), _said(one, granted), _said(other, withdrawn)]
    gate = _read(*topic)
    assert gate.consent_reached == 2
    assert not gate.words_of(pseudonym_of(KEY, ANN))


def test_a_switch_engaged_anew_is_said_again():
    """As with words: another minimiser may have told of the release in between."""
    engaged = Switch("s", "subject", ANN, True, "r", "b", NOW, 0)
    stopped = _state(_consent(0, ANN), Entry(SWITCH_TOPIC, 0, "s", engaged))
    translator = Translator(KEY)
    assert _said(translator, stopped)[0].purposes == ()
    again = Switch("s", "subject", ANN, True, "r", "b", NOW + 5, 0)
    anew = apply(ControlState(log="1"), [_consent(0, ANN), Entry(SWITCH_TOPIC, 2, "s", again)], NOW)
    assert translator.changes(anew, NOW)[0] == Standing(pseudonym_of(KEY, ANN), (), (), 0, 2)


def test_two_minimisers_of_which_each_is_ahead_leave_both_stops():
    """One has read a withdrawal of one purpose, the other a switch over the subject: a gate that hears both goes by both."""
    start = _state(_consent(0, ANN), _consent(1, ANN, purpose="research"))
    one, other = Translator(KEY), Translator(KEY)
    first = [_said(one, start), _said(other, start)]
    consents = _said(one, _state(_consent(2, ANN, granted=False), before=start))
    switches = _said(other, _state(_switch(0, ANN), before=start))
    for order in ([consents, switches], [switches, consents]):
        gate = _read(*first, *order)
        assert (gate.consent_reached, gate.switch_reached) == (2, 0)
        assert not gate.words_of(pseudonym_of(KEY, ANN))
