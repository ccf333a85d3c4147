"""What the tests of the control plane share: records that make sense and are signed, and a moment."""

from __future__ import annotations

import pytest

from infra.control import signing
from infra.control.identity import subject_of
from infra.control.records import ALL_PURPOSES, Approver, Consent, Policy, PurposeRule, Switch, key_of, topic_of
from infra.control.state import ControlState, Entry, View, apply
from tests.approvers import ANNA, APPROVERS, BEN

NOW = 1_700_000_000_000
KEY, OTHER_KEY = b"s" * 32, b"t" * 32
SUBJECT, OTHER = subject_of(KEY), subject_of(OTHER_KEY)
TRAINING, RESEARCH = "assistant-training", "usability-research"
LOG = "1"
CARL = b"c" * 32


class Make:
    """Makes records; what is not said is ordinary, and what allows more is signed by whom it takes.

    `by` names other keys, for the log of these tests.
    """

    now, log = NOW, LOG
    subject, key, other, other_key = SUBJECT, KEY, OTHER, OTHER_KEY
    training, research = TRAINING, RESEARCH
    anna_and_carl = (APPROVERS[0], Approver("carl", signing.public_of(CARL)))
    """Other approvers than the ordinary policy has."""

    def policy(self, by=(ANNA, BEN), **changes) -> Policy:
        values = {
            "name": "test",
            "version": 1,
            "valid_from": NOW - 1000,
            "valid_until": NOW + 1_000_000,
            "notice": "1",
            "purposes": (
                PurposeRule(TRAINING, "d", ("pointer", "keys"), ("x", "y", "key_class", "application"), 30),
                PurposeRule(RESEARCH, "d", ("pointer", "wheel"), ("x", "application"), 30),
            ),
            "grid_px": 8,
            "resolution_ms": 10,
            "future_tolerance_ms": 1000,
            "window_kind": "tumbling",
            "window_size_ms": 10_000,
            "window_step_ms": 10_000,
            "window_gap_ms": 0,
            "lateness_ms": 5000,
            "approvers": APPROVERS,
            "applied_at": NOW - 500,
            "applied_by": "test",
        }
        return signing.sign(Policy(**{**values, **changes}), LOG, *by)

    @property
    def less(self) -> tuple[PurposeRule, ...]:
        """Fewer purposes than the ordinary policy allows."""
        return self.policy().purposes[:1]

    def consent(
        self, purpose=TRAINING, granted=True, notice="1", at=NOW - 100, subject=SUBJECT, until=0, by=None
    ) -> Consent:
        """A grant is signed by the subject's own key, a withdrawal by nobody."""
        own = [key for key in (KEY, OTHER_KEY) if granted and subject_of(key) == subject]
        record = Consent(subject, purpose, granted, notice, at, until=until)
        return signing.sign(record, LOG, *(own if by is None else by))

    def pause(self, at=NOW - 100, until=0, by=()) -> Consent:
        return self.consent(ALL_PURPOSES, granted=False, notice="", at=at, until=until, by=by)

    def resume(self, at=NOW - 50, by=None) -> Consent:
        return self.consent(ALL_PURPOSES, notice="", at=at, by=by)

    def switch(self, scope="everything", value="", at=NOW - 50, name="s", reason="test") -> Switch:
        return Switch(name, scope, value, True, reason, "test", at, 0)

    def release(self, old: Switch | ControlState, at=NOW - 20, epoch=0, name="s", by=(ANNA, BEN)) -> Switch:
        """Release a switch as it was engaged, or as it stands in a state."""
        one = old.switches[name] if isinstance(old, ControlState) else old
        record = Switch(
            one.id, one.scope, one.value, False, "over", "test", at, epoch, releases=signing.digest(one, LOG)
        )
        return signing.sign(record, LOG, *by)

    def state(self, *records, mode="consent", only=None, teams=None, now=NOW) -> ControlState:
        return self.more(ControlState(LOG, mode=mode, only=only, teams=teams or {}), *records, now=now)

    def more(self, state, *records, now=NOW) -> ControlState:
        """Apply records, or (topic, key, record) where a key or tombstone matters, at the next offsets.

        `now` is when the broker takes them.
        """
        entries, next_offset = [], dict(state.applied)
        for record in records:
            topic, key, value = record if isinstance(record, tuple) else (topic_of(record), key_of(record), record)
            next_offset[topic] = next_offset.get(topic, -1) + 1
            entries.append(Entry(topic, next_offset[topic], key, value, now))
        return apply(state, entries, now)

    def view(self, *records, fresh=True) -> View:
        return View(self.state(*records), fresh, "" if fresh else "test")


@pytest.fixture
def make() -> Make:
    return Make()
