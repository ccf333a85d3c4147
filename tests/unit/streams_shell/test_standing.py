"""The translation of consents to pseudonyms."""

from __future__ import annotations

from infra.control.identity import pseudonym_of
from infra.control.records import CONSENT_TOPIC, Consent, Standing, Switch
from infra.control.state import ControlState, Entry, apply
from streams.standing import Translator

KEY = b"k" * 32
ANN, BOB = "a" * 32, "b" * 32
NOW = 1_800_000_000_000


def _state(*entries: Entry, before: ControlState | None = None) -> ControlState:
    return apply(before or ControlState(log="1"), entries, NOW)


def _consent(offset: int, subject: str, granted: bool = True) -> Entry:
    record = Consent(subject, "training", granted, "n1", NOW)
    return Entry(CONSENT_TOPIC, offset, f"{subject}/training", record)


def test_first_everything_then_changes_then_progress():
    """The first translation names everybody; later ones only who changed; the progress record comes last."""
    translator = Translator(KEY)
    state = _state(_consent(0, ANN), _consent(1, BOB))
    first = translator.changes(state, NOW)
    assert first == [
        Standing(pseudonym_of(KEY, ANN), ("training",), ("n1",), 1),
        Standing(pseudonym_of(KEY, BOB), ("training",), ("n1",), 1),
        Standing("", (), (), 1),
    ]
    translator.published(first)
    assert translator.changes(state, NOW) == []
    later = _state(_consent(2, BOB, granted=False), before=state)
    assert translator.changes(later, NOW) == [Standing(pseudonym_of(KEY, BOB), (), (), 2), Standing("", (), (), 2)]


def test_what_was_not_published_is_said_again():
    """A publication that failed leaves everything to be said."""
    translator = Translator(KEY)
    state = _state(_consent(0, ANN))
    assert translator.changes(state, NOW) == translator.changes(state, NOW)


def test_no_consents_still_make_progress():
    """Gates downstream can be fresh although nobody has said anything."""
    assert Translator(KEY).changes(ControlState(log="1"), NOW) == [Standing("", (), (), -1)]


def test_a_switch_over_a_subject_takes_their_consent_away_downstream():
    """Gates that know pseudonyms only cannot recognise the subject that a switch names."""
    translator = Translator(KEY)
    state = _state(_consent(0, ANN))
    translator.published(translator.changes(state, NOW))
    switch = Switch("s", "subject", ANN, True, "asked for it", "on-call", NOW, 0)
    stopped = _state(Entry("control.switch", 0, "s", switch), before=state)
    assert translator.changes(stopped, NOW)[0] == Standing(pseudonym_of(KEY, ANN), (), (), 0)
