"""The gate against a model of a few lines: whatever the history, what passes is what the model allows."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.control import signing
from infra.control.gate import admit, judge, kinds_open
from infra.control.identity import subject_of
from infra.control.records import (
    ALL_PURPOSES,
    MAX_SKEW_MS,
    Consent,
    Policy,
    PurposeRule,
    Switch,
    Unreadable,
    key_of,
    topic_of,
)
from infra.control.state import ControlState, Entry, View, apply
from schemas.catalogue import KIND_NAMES, POLICY_FIELDS, SOURCE_OF_KIND, SOURCES
from schemas.events import Events
from tests.approvers import ANNA, APPROVERS, BEN, EVE

NOW = 1_000_000
LOG = "1"
PURPOSES = ("assistant-training", "usability-research")
SEEDS = {subject_of(seed): seed for seed in (b"s" * 32, b"t" * 32)}
SUBJECTS = tuple(SEEDS)
APPLICATIONS = ("", "mail", "editor")
BOTH = (ANNA, BEN)
near = st.sampled_from([NOW - 10_000, NOW - 1, NOW, NOW + 1, NOW + MAX_SKEW_MS, NOW + MAX_SKEW_MS + 1])


class Release(NamedTuple):
    """A release of whatever the name stands for by then: it must name the record that engaged it."""

    name: str
    at: int
    epoch: int
    by: tuple[bytes, ...]


class Said(NamedTuple):
    """A record, and who signs it."""

    record: Policy | Consent | Switch
    by: tuple[bytes, ...] = ()


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
        *(8, 10, 0, "tumbling", 10, 10, 0, 0, APPROVERS, at, "t"),
    ),
    st.integers(1, 3),
    near,
    st.integers(1, 20_000),
    st.sampled_from("12"),
    st.lists(rules, min_size=1, max_size=2),
    near,
)  # fmt: skip
consents = st.builds(
    Consent,
    st.sampled_from(SUBJECTS),
    st.sampled_from([*PURPOSES, ALL_PURPOSES]),
    st.booleans(),
    st.sampled_from("12"),
    near,
    until=st.sampled_from([0, 0, NOW - 1, NOW, NOW + 1]),
)
targets = st.sampled_from(
    [
        *(("source", s) for s in SOURCES),
        *(("purpose", p) for p in PURPOSES),
        *(("everything", ""), ("team", "t"), ("application", "mail"), ("subject", SUBJECTS[0])),
    ]
)
switches = st.builds(
    lambda name, target, at: Switch(name, *target, True, "r", "b", at, 0), st.sampled_from("xy"), targets, near
)
signed = st.one_of(
    policies.map(lambda policy: Said(policy, BOTH)),
    consents.map(lambda consent: Said(consent, (SEEDS[consent.subject],))),
    st.builds(Release, st.sampled_from("xy"), near, st.integers(0, 2), st.just(BOTH)),
)
too_few = st.sampled_from([(), (ANNA,), (ANNA, ANNA), (EVE,), (BEN, EVE)])
# Under a notice of its own a policy always allows something that the one in force does not.
unsigned = st.one_of(
    st.builds(lambda policy, by: Said(replace(policy, notice="3"), by), policies, too_few),
    st.builds(Said, consents, too_few),
    st.builds(Said, switches, st.just(())),
    st.builds(Release, st.sampled_from("xy"), near, st.integers(0, 2), too_few),
)
# Half of the histories begin where something passes, or few would ever let anything through.
_OPEN = [
    Said(Policy("p", 1, 0, 2 * NOW, "1", (PurposeRule(PURPOSES[0], "d", SOURCES, ("x", "key_class"), 1),),
                8, 10, 0, "tumbling", 10, 10, 0, 0, APPROVERS, 0, "t"), BOTH),
    *(Said(Consent(subject, PURPOSES[0], True, "1", 1), (seed,)) for subject, seed in SEEDS.items()),
]  # fmt: skip
histories = st.builds(
    lambda start, rest: [*start, *rest],
    st.sampled_from([[], _OPEN]),
    st.lists(st.one_of(signed, signed, unsigned), max_size=10),
)


def entries_of(history) -> list[Entry]:
    """Write a history down: sign what is to be signed, and let releases name what is engaged by then."""
    entries: list[Entry] = []
    engaged: dict[str, Switch] = {}
    for said in history:
        if isinstance(said, Release):
            old = engaged.get(said.name, Switch(said.name, "everything", "", True, "never", "b", 1, 0))
            digest = signing.digest(old, LOG)
            record = Switch(old.id, old.scope, old.value, False, "r", "b", said.at, said.epoch, releases=digest)
            record = signing.sign(record, LOG, *said.by)
            if said.by == BOTH and said.at <= NOW + MAX_SKEW_MS:
                engaged.pop(said.name, None)
        else:
            record = signing.sign(said.record, LOG, *said.by) if said.by else said.record
            if isinstance(record, Switch):
                engaged.setdefault(record.id, record)
        offset = sum(entry.topic == topic_of(record) for entry in entries)
        entries.append(Entry(topic_of(record), offset, key_of(record), record, NOW))
    return entries


def state_of(history) -> ControlState:
    return apply(ControlState(LOG), entries_of(history), NOW)


def what_stands(history):
    """The model's memory: policy, words by subject and purpose, targets of engaged switches, epoch."""
    in_force, said, stops, more_stops, epochs = None, {}, {}, set(), 0
    for each in history:
        match each:
            case Said(Policy() as policy, by):
                newer = in_force is None or policy.version > in_force.version
                if by == BOTH and newer and policy.applied_at <= NOW + MAX_SKEW_MS:
                    in_force = policy
            case Said(Switch(name, scope, value)):
                if stops.setdefault(name, (scope, value)) != (scope, value):
                    more_stops.add((scope, value))
            case Release(name, at, number, by):
                if name in stops and by == BOTH and at <= NOW + MAX_SKEW_MS:
                    del stops[name]
                    epochs = max(epochs + 1, number)
            case Said(Consent() as consent, by):
                old, last = said.get((consent.subject, consent.purpose), (None, -1))
                own = by == (SEEDS[consent.subject],) and last < consent.at <= NOW + MAX_SKEW_MS
                if own or not (consent.granted or _shorter(consent, old)):
                    date = max(last, min(consent.at, NOW + MAX_SKEW_MS))
                    said[consent.subject, consent.purpose] = (consent, date)
    words = {key: consent for key, (consent, _) in said.items()}
    return in_force, words, {*stops.values(), *more_stops}, epochs


def allowed(history, subject: str, kind: int, application: str, epoch: int) -> bool:
    """The model: who may pass, from what was said and by whom."""
    in_force, words, engaged, epochs = what_stands(history)
    source = SOURCE_OF_KIND[kind]
    pause = words.get((subject, ALL_PURPOSES))
    if in_force is None or not in_force.valid_from <= NOW < in_force.valid_until or epoch < epochs:
        return False
    if pause is not None and not pause.granted and (not pause.until or pause.until > NOW):
        return False
    if engaged & {("everything", ""), ("team", "t"), ("subject", subject), ("source", source)}:
        return False
    if source != "session" and ("application", "mail") in engaged and application in ("", "mail"):
        return False
    return any(
        source in rule.sources
        and ("purpose", rule.name) not in engaged
        and (word := words.get((subject, rule.name))) is not None
        and word.granted
        and word.notice == in_force.notice
        for rule in in_force.purposes
    )


def _shorter(pause: Consent, old: Consent | None) -> bool:
    """Whether a pause ends sooner than the one before."""
    both = pause.purpose == ALL_PURPOSES and old is not None and not old.granted
    return both and bool(pause.until) and (not old.until or pause.until < old.until)


@settings(max_examples=300)
@given(
    histories,
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, len(KIND_NAMES) - 1), st.integers(0, 2))),
    st.integers(0, 2),
)
def test_the_gate_lets_through_what_the_model_allows_and_accounts_for_the_rest(history, rows, epoch):
    """Each event is admitted exactly where the model allows it, and kept + dropped is what came in."""
    view = View(state_of(history), fresh=True)
    verdicts = [judge(view, subject, NOW, epoch) for subject in SUBJECTS]
    batch, kind, application = (
        (np.array(column, np.int64) for column in zip(*rows, strict=True)) if rows else [np.zeros(0, np.int64)] * 3
    )
    number = np.arange(len(rows))
    events = Events(batch.astype(np.int32), {"kind": kind, "application": application, "number": number})
    admitted, drops = admit(events, verdicts, [APPLICATIONS] * 2)
    passed = set(admitted.events.columns["number"].tolist())
    assert passed == {n for n, (b, k, a) in enumerate(rows) if allowed(history, SUBJECTS[b], k, APPLICATIONS[a], epoch)}
    assert len(admitted) + drops.total == len(rows)
    assert sum(drops.by_reason().values()) == drops.total
    assert set(drops.count.tolist()) <= set(range(1, len(rows) + 1))


@settings(max_examples=100)
@given(histories, st.integers(0, 2))
def test_a_view_that_is_not_fresh_opens_nothing(history, epoch):
    """No history makes a stale view let one kind of event through."""
    view = View(state_of(history), fresh=False, why="test")
    assert not any(kinds_open(judge(view, subject, NOW, epoch)).any() for subject in SUBJECTS)


def opens(before: ControlState, after: ControlState, epoch: int) -> bool:
    """Whether anything passes after that did not pass before."""
    for subject in SUBJECTS:
        was, now = (judge(View(state, True), subject, NOW, epoch) for state in (before, after))
        if (kinds_open(now) & ~kinds_open(was)).any() or now.fields - was.fields:
            return True
    return False


@settings(max_examples=100)
@given(histories, st.integers(0, 11), st.integers(0, 2))
def test_tightening_never_opens(history, place, epoch):
    """One more engaged switch anywhere in a history opens no kind that was closed at its end."""
    stop = Said(Switch("z", "source", "keys", True, "r", "b", NOW, 0))
    assert not opens(state_of(history), state_of([*history[:place], stop, *history[place:]]), epoch)


hostile = st.one_of(
    unsigned.map(lambda said: entries_of([said])[0]),
    st.builds(lambda policy, by: entries_of([Said(policy, by)])[0], policies, too_few),
    st.builds(
        lambda topic, key, record: Entry(topic, 0, key, record),
        st.sampled_from(["control.policy", "control.consent", "control.switch"]),
        st.sampled_from(["policy", "x", "", SUBJECTS[0], f"{SUBJECTS[0]}/{PURPOSES[0]}", f"{SUBJECTS[0]}/"]),
        st.one_of(st.none(), st.just(Unreadable("truncated")), consents, policies, switches),
    ),
)  # fmt: skip


@settings(max_examples=300)
@given(histories, hostile, st.booleans(), st.data(), st.integers(0, 2))
def test_what_too_few_have_signed_never_opens(history, entry, replay, data, epoch):
    """No record that is unsigned, signed by one, garbled, removed, under another key or written again opens a kind."""
    entries = entries_of(history)
    if replay and entries:
        entry = data.draw(st.sampled_from(entries))
    before = apply(ControlState(LOG), entries, NOW)
    after = apply(before, [entry._replace(offset=before.applied.get(entry.topic, -1) + 1)], NOW)
    assert not opens(before, after, epoch)
    assert after.epoch == before.epoch


@settings(max_examples=100)
@given(histories, st.integers(1, 5))
def test_records_applied_one_by_one_or_together_give_the_same_state(history, size):
    """How the reader happens to group records makes no difference to what the gate knows."""
    entries, grouped = entries_of(history), ControlState(LOG)
    for start in range(0, len(entries), size):
        grouped = apply(grouped, entries[start : start + size], NOW)
    assert replace(grouped, version=0) == replace(state_of(history), version=0)


@settings(max_examples=100)
@given(histories, st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 40)), min_size=1))
def test_a_field_is_kept_only_where_a_running_purpose_lists_it(history, rows):
    """`allowed` by event agrees with the verdict's own fields for that kind; a kind that is no kind never passes."""
    verdicts = [judge(View(state_of(history), True), subject, NOW, 2) for subject in SUBJECTS]
    batch, kind = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    admitted, _ = admit(Events(batch.astype(np.int32), {"kind": kind}), verdicts, [APPLICATIONS] * 2)
    for name in POLICY_FIELDS:
        by_event = admitted.allowed(name).tolist()
        pairs = zip(admitted.events.batch.tolist(), admitted.events.columns["kind"].tolist(), strict=True)
        assert by_event == [name in verdicts[b].kind_fields[k] for b, k in pairs]
    assert set(admitted.events.columns["kind"].tolist()) <= set(range(1, len(KIND_NAMES)))
