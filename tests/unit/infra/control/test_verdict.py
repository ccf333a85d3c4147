"""The rules of the gate, one by one: what is missing means no."""

from __future__ import annotations

import numpy as np
import pytest

from infra.control import reasons
from infra.control.gate import Admitted, Drops, Judge, admit, judge, kinds_open
from infra.control.records import MAX_SKEW_MS, PurposeRule, Standing
from infra.control.state import View
from schemas.catalogue import KINDS
from schemas.events import Events

MOVE, KEY, WHEEL, FOCUS = KINDS["pointer_move"], KINDS["key"], KINDS["wheel"], KINDS["focus"]


def refusals(verdict) -> set[str]:
    return set(verdict.refusal)


def test_open_for_the_sources_and_fields_of_a_consented_purpose(make):
    """With all conditions met, exactly the purpose's sources pass, with its fields."""
    verdict = judge(make.view(make.policy(), make.consent()), make.subject, make.now, 0)
    assert verdict.purposes == {make.training}
    assert verdict.fields == {"x", "y", "key_class", "application"}
    assert [verdict.refusal[k] for k in (MOVE, KEY)] == ["", ""]
    assert [verdict.refusal[k] for k in (WHEEL, FOCUS, 0)] == [reasons.SOURCE_NOT_ALLOWED] * 3
    assert kinds_open(verdict)[[MOVE, KEY, WHEEL]].tolist() == [True, True, False]


def test_without_a_fresh_view_nothing_passes(make):
    """A view that is not fresh refuses every kind, whatever its state says."""
    view = make.view(make.policy(), make.consent(), fresh=False)
    assert refusals(judge(view, make.subject, make.now, 0)) == {reasons.STALE}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"valid_from": 1_700_000_000_001}, reasons.POLICY_NOT_YET),
        ({"valid_until": 1_700_000_000_000}, reasons.POLICY_EXPIRED),
        ({"notice": "2"}, reasons.NOTICE_CHANGED),
        ({"notice_text": "another text under the same version"}, reasons.NOTICE_CHANGED),
    ],
)
def test_a_policy_out_of_force_lets_nothing_pass(make, changes, reason):
    """Not begun, run out, or under another notice or another text of it: each refuses with its own reason."""
    verdict = judge(make.view(make.policy(**changes), make.consent()), make.subject, make.now, 0)
    assert refusals(verdict) == {reason}


@pytest.mark.parametrize("ahead", [MAX_SKEW_MS, MAX_SKEW_MS + 1])
def test_what_is_dated_ahead_of_the_gates_own_clock_has_not_happened(make, ahead):
    """A policy, a grant or a release from the future of a slow clock: closed beyond what clocks may differ by."""
    later = make.now + ahead
    known = make.state(make.policy(), make.consent(), make.switch())
    for state, reason in [
        (make.state(make.policy(applied_at=later), make.consent(), now=later), reasons.NO_POLICY),
        (make.state(make.policy(), make.consent(at=later), now=later), reasons.NO_CONSENT),
        (make.more(known, make.release(known, at=later), now=later), reasons.SWITCH),
    ]:
        verdict = judge(View(state, True), make.subject, make.now, 1)
        assert verdict.refusal[MOVE] == (reason if ahead > MAX_SKEW_MS else "")
        assert verdict.until <= later - MAX_SKEW_MS or ahead <= MAX_SKEW_MS, "it is judged again when that has come"


def test_a_pause_stops_all_that_a_subject_does_until_it_ends(make):
    """Every kind is refused, with a reason of its own; at its end, or once resumed, what was granted passes again."""
    state = make.state(make.policy(), make.consent(), make.pause(until=make.now + 1000))
    view, ask = View(state, True), Judge()
    assert refusals(ask(view, make.subject, make.now, 0)) == {reasons.PAUSED}
    assert refusals(ask(view, make.subject, make.now + 999, 0)) == {reasons.PAUSED}
    assert ask(view, make.subject, make.now + 1000, 0).refusal[MOVE] == "", "time alone ends it, remembered or not"
    assert refusals(ask(view, make.subject, make.now, 0)) == {reasons.PAUSED}, "a clock set back"
    resumed = make.view(make.policy(), make.consent(), make.pause(), make.resume())
    assert judge(resumed, make.subject, make.now, 0).refusal[MOVE] == ""
    others = make.view(make.policy(), make.consent(subject=make.other), make.pause())
    assert judge(others, make.other, make.now, 0).refusal[MOVE] == "", "a pause is its subject's alone"


def test_without_policy_or_consent_nothing_passes(make):
    """No policy, no consent, another's consent, a withdrawn or future-dated one: refused."""
    for records, reason in [
        ((make.consent(),), reasons.NO_POLICY),
        ((make.policy(),), reasons.NO_CONSENT),
        ((make.policy(), make.consent(subject=make.other)), reasons.NO_CONSENT),
        ((make.policy(), make.consent(by=())), reasons.NO_CONSENT),
        ((make.policy(), make.consent(), make.consent(granted=False)), reasons.NO_CONSENT),
        ((make.policy(), make.consent("unheard-of")), reasons.NO_CONSENT),
    ]:
        assert refusals(judge(make.view(*records), make.subject, make.now, 0)) == {reason}


def test_what_was_captured_in_an_earlier_epoch_is_refused(make):
    """After a release starts epoch 2, events of epoch 1 stay out and those of epoch 2 pass."""
    state = make.state(make.policy(), make.consent(), make.switch())
    view = View(make.more(state, make.release(state, epoch=2)), True)
    assert refusals(judge(view, make.subject, make.now, 1)) == {reasons.EPOCH}
    assert judge(view, make.subject, make.now, 2).refusal[MOVE] == ""


@pytest.mark.parametrize(
    ("scope", "value"),
    [("everything", ""), ("team", "anybody"), ("source", "a source of tomorrow"), ("subject", None)],
)
def test_switches_that_cover_all_that_a_subject_does(make, scope, value):
    """Everything, the subject itself, a team while nobody knows who is in it, and a source unknown here."""
    value = make.subject if value is None else value
    view = make.view(make.policy(), make.consent(), make.switch(scope, value))
    assert refusals(judge(view, make.subject, make.now, 0)) == {reasons.SWITCH}


def test_a_switch_for_another_subject_covers_nobody_else(make):
    """A subject's switch stops that subject only."""
    view = make.view(make.policy(), make.consent(), make.switch("subject", make.other))
    assert judge(view, make.subject, make.now, 0).refusal[MOVE] == ""


def test_a_team_switch_stops_the_team_and_whoever_may_be_in_it(make):
    """Where a directory says who is in which team, people of others go on; of whom it says nothing, nothing passes."""
    grants = [make.consent(), make.consent(subject=make.other)]
    teams = {make.subject: "support"}
    for team, passes in [("support", False), ("research", True)]:
        view = View(make.state(make.policy(), *grants, make.switch("team", team), teams=teams), True)
        assert (judge(view, make.subject, make.now, 0).refusal[MOVE] == "") is passes
        assert refusals(judge(view, make.other, make.now, 0)) == {reasons.SWITCH}


def test_gates_of_pseudonyms_leave_subjects_and_teams_to_the_translation(make):
    """They cannot tell who is meant: `standing_of` takes the consent away, and these switches stop nobody else."""
    standing = Standing("p", (make.training,), ("1",), 0, 0)
    for switch in (make.switch("subject", make.subject), make.switch("team", "support")):
        view = View(make.state(make.policy(), standing, switch, mode="standing"), True)
        assert judge(view, "p", make.now, 0).refusal[MOVE] == ""
    everything = View(make.state(make.policy(), standing, make.switch(), mode="standing"), True)
    assert refusals(judge(everything, "p", make.now, 0)) == {reasons.SWITCH}


def test_a_source_switch_stops_that_source(make):
    """Keys are stopped, the pointer goes on; released, both do."""
    state = make.state(make.policy(), make.consent(), make.switch("source", "keys"))
    verdict = judge(View(state, True), make.subject, make.now, 0)
    assert (verdict.refusal[KEY], verdict.refusal[MOVE]) == (reasons.SWITCH, "")
    released = judge(View(make.more(state, make.release(state)), True), make.subject, make.now, 1)
    assert (released.refusal[KEY], released.refusal[MOVE]) == ("", "")


def test_a_purpose_switch_leaves_what_another_purpose_allows(make):
    """With training stopped, research decides: no keys, fewer fields; with both stopped, nothing."""
    records = (make.policy(), make.consent(), make.consent(make.research), make.switch("purpose", make.training))
    verdict = judge(make.view(*records), make.subject, make.now, 0)
    assert verdict.purposes == {make.research}
    assert verdict.fields == {"x", "application"}
    assert (verdict.refusal[KEY], verdict.refusal[MOVE], verdict.refusal[WHEEL]) == (reasons.SWITCH, "", "")
    both = make.view(*records, make.switch("purpose", make.research, name="t"))
    assert judge(both, make.subject, make.now, 0).refusal[MOVE] == reasons.SWITCH


def test_a_field_passes_only_with_a_purpose_that_may_use_the_events_source(make):
    """A field that only research lists does not come along with keys, which only training may record."""
    policy = make.policy(
        purposes=(
            PurposeRule(make.training, "d", ("keys",), ("key_class",), 30),
            PurposeRule(make.research, "d", ("pointer",), ("x", "application"), 30),
        )
    )
    verdict = judge(make.view(policy, make.consent(), make.consent(make.research)), make.subject, make.now, 0)
    assert verdict.kind_fields[KEY] == {"key_class"}
    assert verdict.kind_fields[MOVE] == {"x", "application"}
    assert verdict.fields == {"key_class", "x", "application"}


def test_the_schema_outranks_the_policy(make):
    """A policy that lists a field for a purpose that the field may not serve gives nothing more."""
    policy = make.policy(purposes=(PurposeRule(make.research, "d", ("pointer",), ("x", "key_class"), 30),))
    verdict = judge(make.view(policy, make.consent(make.research)), make.subject, make.now, 0)
    assert verdict.fields == {"x"}


def test_a_remembered_verdict_ends_with_the_policy(make):
    """The cache judges again once time alone changes the answer, in either direction of the clock."""
    view, ask = make.view(make.policy(), make.consent()), Judge()
    end = view.state.policy.valid_until
    assert ask(view, make.subject, make.now, 0).refusal[MOVE] == ""
    assert ask(view, make.subject, end - 1, 0).refusal[MOVE] == ""
    assert ask(view, make.subject, end, 0).refusal[MOVE] == reasons.POLICY_EXPIRED
    assert ask(view, make.subject, make.now - 2000, 0).refusal[MOVE] == reasons.POLICY_NOT_YET


def test_a_remembered_verdict_ends_with_freshness_and_with_the_state(make):
    """Going stale, or any change of the state, is seen at once."""
    view, ask = make.view(make.policy(), make.consent()), Judge()
    assert ask(view, make.subject, make.now, 0) is ask(view, make.subject, make.now, 0)
    assert refusals(ask(View(view.state, False, "x"), make.subject, make.now, 0)) == {reasons.STALE}
    stopped = View(make.more(view.state, make.switch()), True)
    assert refusals(ask(stopped, make.subject, make.now, 0)) == {reasons.SWITCH}


def events(batch, kind, **columns) -> Events:
    return Events(np.array(batch, np.int32), {"kind": np.array(kind), **{n: np.array(c) for n, c in columns.items()}})


def test_an_application_switch_stops_that_application_and_the_unknown(make):
    """Events in the application, in none that is known, or at an index out of the table are refused; others pass."""
    view = make.view(make.policy(), make.consent(), make.switch("application", "mail"))
    verdict = judge(view, make.subject, make.now, 0)
    given = events([0, 0, 0, 0, 0], [MOVE] * 5, application=[0, 1, 2, 7, -1])
    admitted, drops = admit(given, [verdict], [["", "mail", "editor"]])
    assert admitted.events.columns["application"].tolist() == [2]
    assert drops.by_reason() == {reasons.SWITCH: 4}
    assert len(admit(given, [verdict])[0]) == 0, "without the tables no application is known"


def test_an_application_switch_leaves_the_sessions_own_events(make):
    """A session's start belongs to no application, so a switch over one does not stop it."""
    policy = make.policy(purposes=(PurposeRule(make.training, "d", ("session", "pointer"), (), 30),))
    view = make.view(policy, make.consent(), make.switch("application", "mail"))
    given = events([0, 0], [KINDS["session_start"], MOVE], application=[0, 0])
    admitted, _ = admit(given, [judge(view, make.subject, make.now, 0)], [["", "mail"]])
    assert admitted.events.columns["kind"].tolist() == [KINDS["session_start"]]


def test_only_the_gate_makes_an_admitted(make):
    """The constructor refuses whoever does not hold the module's token."""
    with pytest.raises(TypeError):
        Admitted(object(), events([], []), ())


def test_an_admitted_can_only_lose(make):
    """No event can be taken twice, no column or kind put in; columns that are there can be made coarser."""
    verdict = judge(make.view(make.policy(), make.consent()), make.subject, make.now, 0)
    admitted, _ = admit(events([0, 0], [MOVE, KEY], x=[5, 6]), [verdict])
    with pytest.raises(ValueError, match="twice"):
        admitted.take(np.array([0, 0]))
    with pytest.raises(ValueError, match="twice"):
        admitted.take(np.array([1, -1]))
    for wrong in ({"kind": np.array([KEY, KEY])}, {"label": np.array([1, 1])}):
        with pytest.raises(ValueError, match="cannot be set"):
            admitted.with_columns(wrong)
    coarser = admitted.with_columns({"x": np.array([0, 0])})
    assert coarser.take(np.array([1, 0])).events.columns["kind"].tolist() == [KEY, MOVE]
    assert "x" not in coarser.without("x").events.columns
    with pytest.raises(ValueError, match="read-only"):
        coarser.events.columns["x"][0] = 3


def test_an_event_without_a_verdict_is_a_bug(make):
    """A batch index beyond the verdicts raises: it is never let through."""
    with pytest.raises(ValueError, match="no verdict"):
        admit(events([1], [MOVE]), [judge(make.view(), make.subject, make.now, 0)])


def test_drops_merge_by_batch_and_reason():
    """Merged drops add up the counts of equal batch and reason and keep the rest apart."""
    one = Drops.of(np.array([0, 0, 2]), np.array([1, 1, 5]))
    both = one.merge(Drops.of(np.array([0, 1]), np.array([1, 5])), Drops.none())
    assert list(zip(both.batch, both.reason, both.count, strict=True)) == [(0, 1, 3), (1, 5, 1), (2, 5, 1)]
    assert both.total == 5
    assert both.by_reason() == {reasons.REASONS[1]: 3, reasons.REASONS[5]: 2}
