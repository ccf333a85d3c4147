"""What the authority tells of: each thing once, and never more than what it is."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from infra.control.alarms import Alarms, overdue
from infra.control.records import Switch
from infra.control.state import ControlState
from infra.metrics import AuthorityMetrics
from infra.redaction import guard
from tests.approvers import demo_policy

DAY = 86_400_000


@pytest.fixture
def told():
    """Reads the log lines since it was last called."""
    with capture_logs() as lines:

        def read() -> list[dict]:
            new, lines[:] = list(lines), []
            return [guard(line) for line in new]

        yield read


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def alarms(registry) -> Alarms:
    return Alarms(AuthorityMetrics(registry))


@pytest.fixture
def state() -> ControlState:
    with tempfile.TemporaryDirectory() as folder:
        return ControlState("1", mode="authority", policy=demo_policy(Path(folder), "1"))


def test_a_policy_is_told_of_14_and_3_days_before_its_end_and_when_it_is_over(alarms, state, told, registry):
    """Three lines, however often it looks; the metric counts down to 0."""
    end = state.policy.valid_until
    days = []
    for left in (20, 14.5, 13.9, 13, 10, 3.1, 2.9, 1, 0.1, -0.1, -5):
        alarms.look(state, end - int(left * DAY))
        days += [line["days"] for line in told() if "policy" in line["event"]]
    assert days == [13.9, 2.9, -0.1]
    assert registry.get_sample_value("tidegate_policy_left_seconds") == 0


def test_a_switch_past_its_time_is_told_of_once_and_goes_on_stopping(alarms, state, told, registry):
    """The expiry warns by log and metric; the switch stays engaged in the state, and a released one is quiet."""
    late = Switch("late", "everything", "", True, "r", "b", 1, 0, expires_at=50)
    others = [
        replace(late, id="early", expires_at=500),
        replace(late, id="none", expires_at=0),
        replace(late, id="over", engaged=False),
    ]
    state = replace(state, policy=None, switches={each.id: each for each in (late, *others)})
    alarms.look(state, 49)
    assert told() == []
    for now in (50, 51, 60):
        alarms.look(state, now)
    (line,) = told()
    assert line["switch_id"] == "late"
    assert registry.get_sample_value("tidegate_switches_overdue") == 1
    assert registry.get_sample_value("tidegate_switches_engaged") == 3
    assert [each.id for each in overdue(state, 1000)] == ["late", "early"]
    assert late.stops(10**15)


def test_loosening_that_is_not_taken_is_counted_by_why(alarms, state, told, registry):
    """A line and a count for what is new since the last look; what waits for signatures is a number."""
    state = replace(state, policy=None, ignored={("control.switch", "not_approved"): 2}, pending={("t", "k"): object()})
    alarms.look(state, 1)
    alarms.look(state, 2)
    (line,) = told()
    assert (line["topic"], line["reason"], line["count"]) == ("control.switch", "not_approved", 2)
    labels = {"topic": "control.switch", "reason": "not_approved"}
    assert registry.get_sample_value("tidegate_control_ignored_total", labels) == 2
    assert registry.get_sample_value("tidegate_control_pending") == 1
