"""What must hold at any moment of any history."""

from __future__ import annotations

from collections.abc import Iterable

from infra.control.freshness import MAX_AGE
from infra.control.records import CONSENT_TOPIC, SWITCH_TOPIC
from infra.control.state import TOPICS, ControlState, View
from tests.properties.control.model import Model
from tests.properties.control.scribe import TEAMS, WHO, Scribe
from tests.properties.control.world import APPLICATIONS, SOURCES_TRIED, Passed, Reader, passes

APART_MS = 2_000
"""How far authorities' clocks are off."""
SAME = (
    *("policy", "last_policy", "approvers", "notices", "switches", "consent_reached", "switch_reached", "based_on"),
    *("pending", "spent"),
)
"""Of a state: what gates must agree upon beside words and epochs."""

Captured = tuple[str, int, int]
"""The log, the epoch and the number of releases that the producer knew when it captured something."""


def is_recent(gate: Reader) -> None:
    """A fresh gate goes by all that an authority has named just now; see test_histories.py for what that means."""
    if not gate.view().fresh:
        return
    recent = [each for arrived, each in gate.heard if gate.mono - arrived <= MAX_AGE + 1e-6]
    assert any(each.heartbeat.log == gate.state.log for each in recent), "nothing recent was heard"  # type: ignore[union-attr]
    reached = {topic: gate.state.applied.get(topic, -1) for topic in TOPICS[gate.mode]}
    if gate.mode == "standing":
        reached[CONSENT_TOPIC] = gate.state.consent_reached
        reached[SWITCH_TOPIC] = min(reached[SWITCH_TOPIC], gate.state.switch_reached)
    assert all(gate.named[topic] <= at for topic, at in reached.items()), "it knows less than was named"
    if not gate.slept:
        late = {name: gate.world.now - MAX_AGE - best - 0.02 for name, best in gate.quickest.items()}
        assert any(each.written >= late[each.heartbeat.authority] for each in recent), "all of them came late"  # type: ignore[union-attr]


def obeys(gate: Reader, scribe: Scribe, captured: Iterable[Captured]) -> None:
    """What passes is what the model allows, by all that the gate has applied; nothing that is older than a release."""
    assert not gate.epoch_fell
    control = gate.state
    if control.log != scribe.broker.log or scribe.lacks_a_policy(control):
        return
    known = {epoch: releases for log, epoch, releases in captured if log == control.log}
    epochs = sorted({control.epoch, max(0, control.epoch - 1), *known})
    passed, fresh = gate.passes(WHO, epochs, View(control, True)), gate.view().fresh
    assert fresh or not gate.passes(WHO, epochs), "it is not fresh"
    late = {epoch for epoch, releases in known.items() if releases < scribe.releases_known_to(control)}
    assert not any(epoch in late for *_, epoch in passed), "captured before a release"
    if gate.mode == "consent":
        agrees(passed, scribe.known_to(control), gate, epochs)
    elif fresh:
        models = (_pauses(each, -APART_MS) for each in scribe.may_be_known_downstream(control))
        allowed = frozenset[tuple[str, str, str, int]]().union(
            *(_allowed(each, WHO, epochs, gate.wall) for each in models)
        )
        assert passed <= allowed, "more passes downstream than may"


def agrees(passed: Passed, known: Model, gate: Reader, epochs: Iterable[int]) -> None:
    """Exactly what the model allows passes, downstream but for how pauses end: by the authority's clock, a little later."""
    subjects = WHO if gate.only is None else sorted(gate.only)
    early, late = (-APART_MS, APART_MS + 500) if gate.mode == "standing" else (0, 0)
    assert passed <= _allowed(_pauses(known, early), subjects, epochs, gate.wall), "more passes than may"
    # To a clock that is behind, what is dated now is in the future.
    least = _allowed(_pauses(known, late), subjects, epochs, gate.wall)
    assert gate.wall_off < 0 or passed >= least, "less passes than may"


def console_agrees(scribe: Scribe) -> None:
    """A state that has read everything in the order in which it was written allows what the model allows."""
    epochs = [scribe.console.epoch]
    passed = passes(View(scribe.console, True), WHO, epochs, scribe.now)
    assert passed == _allowed(scribe.all(), WHO, epochs, scribe.now)


def knows_the_same(gate: Reader, pace: int) -> None:
    """A gate that starts now, and reads as far in other portions, comes to the same state."""
    if gate.state.log != gate.world.broker.log:
        return
    anew = gate.read_anew(pace)
    agree(anew, gate.state)
    # An epoch that a release began stays, also where a policy that came late has undone the release.
    epochs = (anew.epoch, anew.epoch_since), (gate.state.epoch, gate.state.epoch_since)
    assert epochs[0] == epochs[1] or (gate.late_policy and epochs[0] < epochs[1])


def agree(one: ControlState, other: ControlState) -> None:
    """Gates that have applied the same records know the same."""
    for name in SAME:
        assert getattr(one, name) == getattr(other, name), name
    assert _words(one) == _words(other)


def _words(control: ControlState) -> dict[str, object]:
    return {subject: dict(words) for subject, words in control.consents.items() if words}


def _pauses(known: Model, later_ms: int) -> Model:
    """Return the model with all pauses ending that much later."""
    return known._replace(paused={who: until + later_ms for who, until in known.paused.items()})


def _allowed(known: Model, subjects: Iterable[str], epochs: Iterable[int], ms: int) -> Passed:
    return frozenset(
        (subject, source, application, epoch)
        for subject in subjects
        for source in SOURCES_TRIED
        for application in APPLICATIONS
        if known.may_pass(subject, source, application, ms, TEAMS)
        for epoch in epochs
        if epoch >= known.epoch
    )
