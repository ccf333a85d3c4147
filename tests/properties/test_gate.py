"""The gate against a model of a few lines: whatever the history, what passes is what the model allows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.control.gate import admit, judge, kinds_open
from infra.control.records import MAX_SKEW_MS, Consent, Policy, PurposeRule, Switch, key_of, topic_of
from infra.control.state import ControlState, Entry, View, apply
from schemas.catalogue import KIND_NAMES, POLICY_FIELDS, SOURCE_OF_KIND, SOURCES
from schemas.events import Events

NOW = 1_000_000
PURPOSES = ("assistant-training", "usability-research")
SUBJECTS = ("a", "b")
APPLICATIONS = ("", "mail", "editor")
near = st.sampled_from([NOW - 10_000, NOW - 1, NOW, NOW + 1, NOW + MAX_SKEW_MS, NOW + MAX_SKEW_MS + 1])
rules = st.builds(
    PurposeRule,
    st.none(),
    st.just("d"),
    st.lists(st.sampled_from(SOURCES), unique=True).map(tuple),
    st.lists(st.sampled_from(POLICY_FIELDS), unique=True).map(tuple),
    st.just(1),
)
policies = st.builds(
    lambda version, begin, length, notice, allowed, at: Policy(
        *("p", version, begin, begin + length, notice),
        tuple(PurposeRule(name, r.description, r.sources, r.fields, 1) for name, r in zip(PURPOSES, allowed, strict=False)),
        *(8, 10, 0, "tumbling", 10, 10, 0, 0, (), at, "t"),
    ),
    st.integers(1, 3),
    near,
    st.integers(1, 20_000),
    st.sampled_from("12"),
    st.lists(rules, min_size=1, max_size=2),
    near,
)  # fmt: skip
consents = st.builds(
    Consent, st.sampled_from(SUBJECTS), st.sampled_from(PURPOSES), st.booleans(), st.sampled_from("12"), near
)
targets = st.sampled_from(
    [
        *(("source", s) for s in SOURCES),
        *(("purpose", p) for p in PURPOSES),
        *(("everything", ""), ("team", "t"), ("application", "mail"), ("subject", "a")),
    ]
)
switches = st.builds(
    lambda name, target, engaged, at, epoch: Switch(name, *target, engaged, "r", "b", at, epoch),
    st.sampled_from("xy"),
    targets,
    st.booleans(),
    near,
    st.integers(0, 2),
)
# Half of the histories begin where something passes, or few would ever let anything through.
_OPEN = [
    Policy("p", 1, 0, 2 * NOW, "1", (PurposeRule(PURPOSES[0], "d", SOURCES, ("x", "key_class"), 1),),
           8, 10, 0, "tumbling", 10, 10, 0, 0, (), 0, "t"),
    *(Consent(subject, PURPOSES[0], True, "1", 0) for subject in SUBJECTS),
]  # fmt: skip
histories = st.builds(
    lambda start, rest: [*start, *rest],
    st.sampled_from([[], _OPEN]),
    st.lists(st.one_of(policies, consents, switches), max_size=8),
)


def state_of(records) -> ControlState:
    state, offsets = ControlState("1"), {}
    for record in records:
        offset = offsets[topic_of(record)] = offsets.get(topic_of(record), -1) + 1
        state = apply(state, [Entry(topic_of(record), offset, key_of(record), record)], NOW)
    return state


def allowed(records, subject: str, kind: int, application: str, epoch: int) -> bool:
    """The model: who may pass, from the records themselves."""
    versions = [r for r in records if isinstance(r, Policy)]
    in_force = None
    for p in versions:
        if (
            in_force is None
            or p.version > in_force.version
            or (p.version == in_force.version and p.content() == in_force.content())
        ):
            in_force = p
    said = {(r.subject, r.purpose): r for r in records if isinstance(r, Consent)}
    last = {r.id: r for r in records if isinstance(r, Switch)}
    stops = {(s.scope, s.value) for s in last.values() if s.engaged or s.at > NOW + MAX_SKEW_MS}
    source = SOURCE_OF_KIND[kind]
    if (
        in_force is None
        or in_force.applied_at > NOW + MAX_SKEW_MS
        or not in_force.valid_from <= NOW < in_force.valid_until
    ):
        return False
    if epoch < max([r.epoch for r in records if isinstance(r, Switch)], default=0):
        return False
    if stops & {("everything", ""), ("team", "t"), ("subject", subject), ("source", source)}:
        return False
    if source != "session" and ("application", "mail") in stops and application in ("", "mail"):
        return False
    return any(
        source in rule.sources
        and ("purpose", rule.name) not in stops
        and (word := said.get((subject, rule.name))) is not None
        and word.granted
        and word.notice == in_force.notice
        and word.at <= NOW + MAX_SKEW_MS
        for rule in in_force.purposes
    )  # fmt: skip


@settings(max_examples=300)
@given(
    histories,
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, len(KIND_NAMES) - 1), st.integers(0, 2))),
    st.integers(0, 2),
)
def test_the_gate_lets_through_what_the_model_allows_and_accounts_for_the_rest(records, rows, epoch):
    """Each event is admitted exactly where the model allows it, and kept + dropped is what came in."""
    view = View(state_of(records), fresh=True)
    verdicts = [judge(view, subject, NOW, epoch) for subject in SUBJECTS]
    batch, kind, application = (
        (np.array(column, np.int64) for column in zip(*rows, strict=True)) if rows else [np.zeros(0, np.int64)] * 3
    )
    number = np.arange(len(rows))
    events = Events(batch.astype(np.int32), {"kind": kind, "application": application, "number": number})
    admitted, drops = admit(events, verdicts, [APPLICATIONS] * 2)
    passed = set(admitted.events.columns["number"].tolist())
    assert passed == {n for n, (b, k, a) in enumerate(rows) if allowed(records, SUBJECTS[b], k, APPLICATIONS[a], epoch)}
    assert len(admitted) + drops.total == len(rows)
    assert sum(drops.by_reason().values()) == drops.total
    assert set(drops.count.tolist()) <= set(range(1, len(rows) + 1))


@settings(max_examples=100)
@given(histories, st.integers(0, 2))
def test_a_view_that_is_not_fresh_opens_nothing(records, epoch):
    """No history makes a stale view let one kind of event through."""
    view = View(state_of(records), fresh=False, why="test")
    assert not any(kinds_open(judge(view, subject, NOW, epoch)).any() for subject in SUBJECTS)


@settings(max_examples=100)
@given(histories, st.integers(0, 11), st.integers(0, 2))
def test_tightening_never_opens(records, place, epoch):
    """One more engaged switch anywhere in a history opens no kind that was closed at its end."""
    tighter = [*records[:place], Switch("z", "source", "keys", True, "r", "b", NOW, 0), *records[place:]]
    for subject in SUBJECTS:
        before = kinds_open(judge(View(state_of(records), True), subject, NOW, epoch))
        after = kinds_open(judge(View(state_of(tighter), True), subject, NOW, epoch))
        assert not (after & ~before).any()


@settings(max_examples=100)
@given(histories, st.integers(1, 5))
def test_records_applied_one_by_one_or_together_give_the_same_state(records, size):
    """How the reader happens to group records makes no difference to what the gate knows."""
    offsets: dict[str, int] = {}
    entries = []
    for record in records:
        offsets[topic_of(record)] = offsets.get(topic_of(record), -1) + 1
        entries.append(Entry(topic_of(record), offsets[topic_of(record)], key_of(record), record))
    grouped = ControlState("1")
    for start in range(0, len(entries), size):
        grouped = apply(grouped, entries[start : start + size], NOW)
    single = state_of(records)
    for name in ("policy", "consents", "switches", "epoch", "applied", "ignored"):
        assert getattr(grouped, name) == getattr(single, name)


@settings(max_examples=100)
@given(histories, st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 40)), min_size=1))
def test_a_field_is_kept_only_where_a_running_purpose_lists_it(records, rows):
    """`allowed` by event agrees with the verdict's own fields for that kind; a kind that is no kind never passes."""
    verdicts = [judge(View(state_of(records), True), subject, NOW, 2) for subject in SUBJECTS]
    batch, kind = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    admitted, _ = admit(Events(batch.astype(np.int32), {"kind": kind}), verdicts, [APPLICATIONS] * 2)
    for name in POLICY_FIELDS:
        by_event = admitted.allowed(name).tolist()
        pairs = zip(admitted.events.batch.tolist(), admitted.events.columns["kind"].tolist(), strict=True)
        assert by_event == [name in verdicts[b].kind_fields[k] for b, k in pairs]
    assert set(admitted.events.columns["kind"].tolist()) <= set(range(1, len(KIND_NAMES)))
