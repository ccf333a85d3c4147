"""What the tests of the control plane share: records that make sense, and a moment."""

from __future__ import annotations

import pytest

from infra.control.records import Consent, Policy, PurposeRule, Switch, key_of, topic_of
from infra.control.state import ControlState, Entry, View, apply

NOW = 1_700_000_000_000
SUBJECT = "0" * 31 + "1"
TRAINING, RESEARCH = "assistant-training", "usability-research"


class Make:
    """Makes records; what is not said is ordinary."""

    now, subject, training, research = NOW, SUBJECT, TRAINING, RESEARCH

    def policy(self, **changes) -> Policy:
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
            "approvers": (),
            "applied_at": NOW - 500,
            "applied_by": "test",
        }
        return Policy(**{**values, **changes})

    def consent(self, purpose=TRAINING, granted=True, notice="1", at=NOW - 100, subject=SUBJECT) -> Consent:
        return Consent(subject, purpose, granted, notice, at)

    def switch(self, scope="everything", value="", engaged=True, at=NOW - 50, epoch=0, name="s") -> Switch:
        return Switch(name, scope, value, engaged, "test", "test", at, epoch)

    def state(self, *records, mode="consent", only=None, now=NOW) -> ControlState:
        return self.more(ControlState("1", mode=mode, only=only), *records, now=now)

    def more(self, state, *records, now=NOW) -> ControlState:
        """Apply records, or (topic, key, record) where a key or tombstone matters, at the next offsets."""
        entries, next_offset = [], dict(state.applied)
        for record in records:
            topic, key, value = record if isinstance(record, tuple) else (topic_of(record), key_of(record), record)
            next_offset[topic] = next_offset.get(topic, -1) + 1
            entries.append(Entry(topic, next_offset[topic], key, value))
        return apply(state, entries, now)

    def view(self, *records, fresh=True) -> View:
        return View(self.state(*records), fresh, "" if fresh else "test")


@pytest.fixture
def make() -> Make:
    return Make()
