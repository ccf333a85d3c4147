"""What a purpose may read, and what the refusals say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.control.records import Policy, PurposeRule, Switch
from infra.control.state import ControlState, View, Word
from infra.errors import TidegateError
from schemas.catalogue import KIND_NAMES, SOURCE_OF_KIND, SOURCES
from streams.reading.permit import permit, verdicts

TRAINING, RESEARCH = "assistant-training", "usability-research"
NOW = 1_795_000_000_000
RULES = (
    PurposeRule(TRAINING, "", SOURCES, ("x", "y", "key_class", "application"), 30),
    PurposeRule(RESEARCH, "", ("pointer",), ("x", "y", "key_class"), 7),
)
POLICY = Policy(
    "demo", 3, NOW - 1, NOW + 1, "n2", RULES, 8, 10, 1000, "tumbling", 10_000, 10_000, 0, 5000, (), 0, "test"
)


def view(policy=POLICY, consents=(), switches=(), fresh=True):
    state = ControlState(
        log="1", mode="standing", policy=policy, consents=dict(consents), switches={s.id: s for s in switches}
    )
    return View(state, fresh, "" if fresh else "no heartbeat for 3 s")


def test_a_permit_lists_kinds_of_the_sources_and_fields_that_serve():
    """Structural columns, and of the policy's fields those that the schema lets serve the purpose."""
    allowed = permit(view(), RESEARCH, NOW)
    assert [KIND_NAMES[code] for code in allowed.kinds] == ["pointer_move", "pointer_button"]
    assert allowed.fields == ("number", "offset_ms", "kind", "x", "y")  # key_class may not serve research
    assert allowed.retention_ms == 7 * 86_400_000


@pytest.mark.parametrize(
    ("seen", "purpose", "message"),
    [
        (view(fresh=False), TRAINING, "no heartbeat for 3 s"),
        (view(policy=None), TRAINING, "no policy is in force"),
        (view(policy=replace(POLICY, valid_until=NOW)), TRAINING, "run out"),
        (view(policy=replace(POLICY, valid_from=NOW + 1)), TRAINING, "not begun"),
        (view(), "asistant-trainig", "did you mean assistant-training"),
        (view(), "marketing", "it has assistant-training, usability-research"),
        (view(switches=[Switch("sw", "source", "pointer", True, "", "", 0, 0)]), RESEARCH, "every source"),
        (view(switches=[Switch("sw", "source", "camera", True, "", "", 0, 0)]), RESEARCH, "sw is engaged"),
        (view(switches=[Switch("sw", "purpose", RESEARCH, True, "", "", 0, 0)]), RESEARCH, "sw is engaged"),
        (view(switches=[Switch("sw", "everything", "", False, "", "", NOW * 2, 0)]), RESEARCH, "sw is engaged"),
    ],
)
def test_refusals_say_what_stands_in_the_way(seen, purpose, message):
    """Each refusal names its cause; a release dated in the future still stops."""
    with pytest.raises(TidegateError, match=message):
        permit(seen, purpose, NOW)


def test_a_switch_over_another_purpose_changes_nothing():
    """Only what covers the purpose stops it; a released switch stops nothing."""
    others = [
        Switch("a", "purpose", RESEARCH, True, "", "", 0, 0),
        Switch("b", "everything", "", False, "", "", 0, 0),
    ]
    assert permit(view(switches=others), TRAINING, NOW).switches == ("a",)


words = st.builds(Word, st.booleans(), st.sampled_from(["n1", "n2"]), st.just(0), st.just(0))
people = st.dictionaries(
    st.sampled_from("abcdef"), st.dictionaries(st.sampled_from([TRAINING, RESEARCH]), words, max_size=2), max_size=6
)
switches = st.lists(
    st.builds(
        Switch,
        id=st.sampled_from(["s1", "s2"]),
        scope=st.sampled_from(["source", "application", "purpose"]),
        value=st.sampled_from(["pointer", "keys", "mail", "a", RESEARCH]),
        engaged=st.booleans(),
        reason=st.just(""),
        by=st.just(""),
        at=st.just(0),
        epoch=st.just(0),
    ),
    max_size=2,
)


@given(consents=people, engaged=switches, purpose=st.sampled_from([TRAINING, RESEARCH]))
def test_never_a_subject_who_has_not_said_yes_to_this_purpose(consents, engaged, purpose):
    """Whatever else is allowed: only a grant for this purpose under the current notice counts, and no stopped kind.

    A switch over a subject or a team comes as a grant that is no longer there: see test_standing.
    """
    seen = view(consents=consents, switches=engaged)
    try:
        allowed = permit(seen, purpose, NOW)
    except TidegateError:
        return
    found = verdicts(seen, allowed, {*consents, "nobody"}, NOW)
    said_yes = {who for who, said in consents.items() if said.get(purpose) == Word(True, "n2", 0)}
    stopped = {s.value for s in seen.state.switches.values() if s.engaged and s.scope == "source"}
    assert set(found) == said_yes
    for verdict in found.values():
        assert verdict.purposes == {purpose}
        open_kinds = tuple(code for code, reason in enumerate(verdict.refusal) if not reason)
        assert open_kinds == allowed.kinds
        sources = {SOURCE_OF_KIND[code] for code in open_kinds}
        assert not sources & stopped
