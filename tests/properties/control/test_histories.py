"""Random histories of the whole control plane against the model: no history lets through what the model forbids.

What a gate can know is bounded so: a gate that is fresh has heard, within the last
MAX_AGE seconds of its own monotonic clock, a heartbeat that was new to it, and has
applied every offset that it names. So what was in the log when the authority read it
must be obeyed; what came later may be. Between the authority's reading and now there
lie at most MAX_AGE seconds (as long as the machine did not sleep) and the shortest
time that any heartbeat of that authority has taken to arrive: that all of them come
late, or are copies of ones that never arrived, nothing tells a gate up to MAX_SKEW_MS.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from infra.control import signing, verdict
from infra.control.records import (
    ALL_PURPOSES,
    CONSENT_TOPIC,
    HEARTBEAT_TOPIC,
    POLICY_TOPIC,
    STANDING_TOPIC,
    SWITCH_TOPIC,
    Consent,
    Policy,
    Switch,
    consent_key,
    encode,
)
from infra.control.state import TOPICS
from streams import standing
from tests.properties.control import checks
from tests.properties.control.checks import APART_MS, Captured
from tests.properties.control.model import NO_RULES
from tests.properties.control.scribe import RESEARCH, TEAMS, TRAINING, WHO, Scribe
from tests.properties.control.world import BEAT, EVERYTHING, Reader, World

HOUR = 3_600_000
SIGNERS = (
    ("anna", "ben"),
    ("anna", "carl"),
    ("ben", "carl"),
    ("anna",),
    ("carl",),
    ("anna", "anna"),
    ("anna", "eve"),
    (),
)
TARGETS = (
    ("everything", ""),
    ("source", "pointer"),
    ("source", "keys"),
    ("purpose", TRAINING),
    ("application", "mail"),
    ("team", "support"),
    ("team", "research"),
    ("subject", WHO[0]),
    ("subject", WHO[2]),
)
GARBAGE = (
    None,
    b"",
    b"\xc3\x01garbage",
    b"{",
    b'{"scope": "nowhere"}',
    encode(Switch("z", "source", "keys", True, "r", "b", 1, 0)),
)
WRITTEN = (POLICY_TOPIC, CONSENT_TOPIC, SWITCH_TOPIC)
CUTS = (
    frozenset[str](),
    frozenset[str](),
    EVERYTHING,
    EVERYTHING,
    *(frozenset({topic}) for topic in sorted(EVERYTHING)),
)

people = st.sampled_from(WHO)
purposes = st.sampled_from((TRAINING, RESEARCH))
notices = st.sampled_from(("1", "1", "1", "2"))
signers = st.one_of(st.none(), st.none(), st.sampled_from(SIGNERS))
"""None: whose signatures it takes."""
ahead = st.sampled_from((0, 0, 0, 0, -3_000, 3_000, 60_000))
"""How far a writer's clock is ahead of the broker's, ms."""
offs = st.sampled_from((0, -APART_MS, APART_MS))
ticks = st.sampled_from((1, 0, 2, 6))
gates = st.integers(0, 4)
which = st.integers(0, 1)


class Histories(RuleBasedStateMachine):
    """Writes records, meddles with topics, clocks and networks; after each beat, looks at every gate."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(WHO, TEAMS)
        self.scribe = Scribe(self.world.broker)
        self.captured: list[Captured] = []
        self.standing_broken = False
        self.well_at = 0
        self.seen: dict[Reader, object] = {}

    @initialize(off=offs)
    def open_everything(self, off):
        """Begin where something passes, or few histories would ever let anything through."""
        self.world.add_authority(off)
        self._allow(*WHO)
        for _ in range(6):
            self.world.tick()
        for gate in self.world.gates:
            assert gate.passes(WHO, [0]), "every gate is open in the beginning"

    def _allow(self, *subjects: str) -> None:
        policy = self.scribe.policy(version=1, level=0, notice="1", board=0, end=self._ms + HOUR, at=self._ms)
        self.scribe.write(self.scribe.sign(policy, ("anna", "ben")))
        for subject in subjects:
            self.scribe.write(self.scribe.sign(Consent(subject, TRAINING, True, "1", self._ms), (subject,)))

    @property
    def _ms(self) -> int:
        return self.scribe.now

    def _go_on(self, count: int) -> None:
        for _ in range(count):
            self.world.tick()
            self.nothing_forbidden_passes()

    # What people write

    @rule(
        step=st.sampled_from((1, 1, 1, 2, 0, -1)), level=st.integers(0, 2), notice=notices,
        board=st.sampled_from((0, 0, 1, 2)), lasts=st.sampled_from((HOUR, HOUR, 2_000)), by=signers, skew=ahead,
        count=ticks,
    )  # fmt: skip
    def apply_policy(self, step, level, notice, board, lasts, by, skew, count):
        scribe = self.scribe
        version = max(1, scribe.version + step)
        end = scribe.rules.end if scribe.rules is not NO_RULES and lasts == HOUR else self._ms + lasts
        policy = scribe.policy(version=version, level=level, notice=notice, board=board, end=end, at=self._ms + skew)
        scribe.write(scribe.sign(policy, scribe.two() or ("anna", "ben") if by is None else by))
        self._go_on(count)

    @rule(subject=people, purpose=purposes, notice=notices, skew=ahead, by=signers, count=ticks)
    def grant(self, subject, purpose, notice, skew, by, count):
        consent = Consent(subject, purpose, True, notice, self._ms + skew)
        self.scribe.write(self.scribe.sign(consent, (subject,) if by is None else by))
        self._go_on(count)

    @rule(subject=people, purpose=purposes, skew=ahead, count=ticks)
    def withdraw(self, subject, purpose, skew, count):
        self.scribe.write(Consent(subject, purpose, False, "", self._ms + skew))
        self._go_on(count)

    @rule(subject=people, lasts=st.sampled_from((0, 1_000, 5_000)), own=st.booleans(), skew=ahead, count=ticks)
    def pause(self, subject, lasts, own, skew, count):
        pause = Consent(subject, ALL_PURPOSES, False, "", self._ms + skew, until=lasts and self._ms + lasts)
        self.scribe.write(self.scribe.sign(pause, (subject,)) if own else pause)
        self._go_on(count)

    @rule(subject=people, skew=ahead, by=signers, count=ticks)
    def resume(self, subject, skew, by, count):
        consent = Consent(subject, ALL_PURPOSES, True, "", self._ms + skew)
        self.scribe.write(self.scribe.sign(consent, (subject,) if by is None else by))
        self._go_on(count)

    @rule(name=st.sampled_from("xy"), over=st.sampled_from(TARGETS), plain=st.booleans(), skew=ahead, count=ticks)
    def engage(self, name, over, plain, skew, count):
        scope, value = over
        if plain:
            said = json.dumps({"scope": scope, "value": value, "reason": "r"}).encode()
            self.scribe.put(SWITCH_TOPIC, name, said)
        else:
            self.scribe.write(Switch(name, scope, value, True, "r", "b", self._ms + skew, self.scribe.epoch))
        self._go_on(count)

    @rule(over=st.sampled_from(TARGETS), data=st.data(), jump=st.sampled_from((1, 1, 0, 5)), between=ticks, count=ticks)
    def release(self, over, data, jump, between, count):
        """Two approvers release what is engaged, or is engaged only now."""
        if not self.scribe.stops:
            self.engage("x", over, plain=False, skew=0, count=between)
        stop = data.draw(st.sampled_from(sorted(self.scribe.stops)))
        release = self.scribe.release(self.scribe.engaged(stop), self._ms, self.scribe.epoch + jump)
        self.scribe.write(self.scribe.sign(release, self.scribe.two()))
        self._go_on(count)

    @rule(data=st.data(), by=signers, skew=ahead, count=ticks)
    def try_to_release(self, data, by, skew, count):
        """Whatever was ever engaged, as it was engaged then, signed by whoever."""
        if not self.scribe.console.switches:
            self.engage("x", ("everything", ""), plain=True, skew=0, count=1)
        messages = self.world.broker.topics[SWITCH_TOPIC]
        ever = [each.entry.record for each in messages if getattr(each.entry.record, "engaged", False)]
        one = data.draw(st.sampled_from([*ever, *self.scribe.console.switches.values()]))
        release = self.scribe.release(one, self._ms + skew, self.scribe.epoch + 1)
        self.scribe.write(self.scribe.sign(release, self.scribe.two() if by is None else by))
        self._go_on(count)

    @precondition(lambda self: self.scribe.console.pending)
    @rule(data=st.data(), name=st.sampled_from(("anna", "ben", "carl", "eve")), count=ticks)
    def sign_what_waits(self, data, name, count):
        """The second approver, on another machine."""
        key = data.draw(st.sampled_from(sorted(self.scribe.console.pending)))
        self.scribe.write(self.scribe.sign(self.scribe.console.pending[key], (name,)))
        self._go_on(count)

    @rule(
        number=gates, topic=st.sampled_from(WRITTEN), board=st.integers(0, 2), late=st.booleans(), by=signers,
        subject=people, pace=st.integers(0, 2),
    )  # fmt: skip
    def approvers_change(self, number, topic, board, late, by, subject, pace):
        """While a gate does not hear of the policy, or of what it decides; what was signed before may come after."""
        scribe, gate = self.scribe, self.world.gates[number]
        if not scribe.stops:
            self.engage("x", ("source", "pointer"), plain=False, skew=0, count=1)
        cut, gate.cut = gate.cut, frozenset({topic})
        release = scribe.release(scribe.engaged(min(scribe.stops)), self._ms, scribe.epoch + 1)
        consent = Consent(subject, RESEARCH, True, scribe.rules.notice, self._ms)
        signed = [scribe.sign(each, scribe.two() if by is None else by) for each in (release, consent)]
        end = max(scribe.rules.end, self._ms + HOUR)
        policy = scribe.policy(
            version=scribe.version + 1, level=0, notice=scribe.rules.notice or "1", board=board, end=end, at=self._ms
        )
        policy = scribe.sign(policy, scribe.two())
        for record in (policy, *signed) if late else (*signed, policy):
            scribe.write(record)
            self._go_on(pace)
        self._go_on(1)
        gate.cut = cut
        self._go_on(1)

    # What somebody writes who means no good

    @rule(topic=st.sampled_from((*WRITTEN, HEARTBEAT_TOPIC)), data=st.data(), length=st.integers(1, 4))
    def write_again(self, topic, data, length):
        """Some records in a row, of which they have kept copies, at the pace of heartbeats."""
        messages = self.world.broker.topics[topic]
        if messages:
            first = data.draw(st.integers(0, len(messages) - 1))
            for old in messages[first : first + length]:
                if topic == HEARTBEAT_TOPIC:
                    self.world.broker.put(topic, old.entry.key, old.value, old.written)
                else:
                    self.scribe.put(topic, old.entry.key, old.value)
                self._go_on(1)

    @rule(data=st.data(), count=ticks)
    def incident_again(self, data, count):
        """What engaged a switch once and what released it, one after the other."""
        messages = self.world.broker.topics[SWITCH_TOPIC]
        releases = [each for each in messages if getattr(each.entry.record, "releases", "")]
        if releases:
            release = data.draw(st.sampled_from(releases))
            for old in [*messages]:
                record, log = old.entry.record, self.world.broker.log
                if isinstance(record, Switch) and signing.digest(record, log) == release.entry.record.releases:
                    self.scribe.put(SWITCH_TOPIC, old.entry.key, old.value)
            self.scribe.put(SWITCH_TOPIC, release.entry.key, release.value)
        self._go_on(count)

    @rule(topic=st.sampled_from(WRITTEN), data=st.data(), count=ticks)
    def forge(self, topic, data, count):
        """A record that was signed, changed, with the signatures that it had."""
        signed = [each for each in self.world.broker.topics[topic] if getattr(each.entry.record, "signatures", ())]
        if signed:
            record = data.draw(st.sampled_from(signed)).entry.record
            match record:
                case Policy():
                    record = replace(record, version=self.scribe.version + 1, valid_until=record.valid_until + 1)
                case Consent():
                    record = replace(record, at=self._ms, granted=True)
                case Switch() if record.id in self.scribe.console.switches:
                    one = self.scribe.console.switches[record.id]
                    record = replace(record, at=self._ms, releases=signing.digest(one, self.world.broker.log))
            self.scribe.write(record)
        self._go_on(count)

    @rule(
        topic=st.sampled_from((*WRITTEN, STANDING_TOPIC, HEARTBEAT_TOPIC)), value=st.sampled_from(GARBAGE),
        key=st.sampled_from(("x", "policy", "progress", "")), subject=people, purpose=st.sampled_from((TRAINING, "")),
        count=ticks,
    )  # fmt: skip
    def write_garbage(self, topic, value, key, subject, purpose, count):
        """A tombstone, bytes that mean nothing, a record of another kind, or one under another key."""
        self.standing_broken |= topic == STANDING_TOPIC
        self.scribe.put(topic, consent_key(subject, purpose) if topic == CONSENT_TOPIC else key, value)
        self._go_on(count)

    # What happens to machines

    @rule(number=gates, topics=st.sampled_from(CUTS), count=ticks)
    def network(self, number, topics, count):
        """Nothing arrives of some topics any more: the network is cut, or a fetch hangs. Or all arrives again."""
        self.world.gates[number].cut = topics
        self._go_on(count)

    @rule(
        number=gates, pace=st.sampled_from((1, 2, 1_000)), count=ticks,
        order=st.sampled_from((TOPICS["authority"], TOPICS["authority"][::-1])),
    )  # fmt: skip
    def restart(self, number, pace, order, count):
        """A gate starts anew: it must come to know what it knew, however its records arrive."""
        gate = self.world.gates[number]
        checks.knows_the_same(gate, pace)
        gate.pace, gate.order = pace, [topic for topic in order if topic in TOPICS[gate.mode]]
        gate.restart()
        self._go_on(count)

    @rule(number=gates, off=st.sampled_from((0, 4_000, -4_000, HOUR, -HOUR)), count=ticks)
    def set_wall_clock(self, number, off, count):
        self.world.gates[number].wall_off = off
        self._go_on(count)

    @rule(number=gates, gained=st.sampled_from((-0.5, -3.0, 0.3, 2.0)), count=ticks)
    def monotonic_clock(self, number, gained, count):
        """It leaps, or stands still, as the whole machine does that sleeps."""
        gate = self.world.gates[number]
        if gained > 0:
            gate.leap(gained)
        else:
            cut, gate.cut = gate.cut, EVERYTHING
            gate.slept = True
            gate.mono_gained += gained
            for _ in range(round(-gained / BEAT)):
                self.world.tick()
            gate.cut = cut
        self._go_on(count)

    @rule(seconds=st.sampled_from((0.3, 0.7, 1.5, 6.0)), count=ticks)
    def silence(self, seconds, count):
        """No authority beats, and no gate reads."""
        self.world.now += seconds
        self.nothing_forbidden_passes()
        self._go_on(count)

    @rule(
        number=st.sampled_from((0, -1)), what=st.sampled_from(("starts", "ends", "is cut off", "reads no more")), off=offs,
        count=ticks,
    )  # fmt: skip
    def authority(self, number, what, off, count):
        """Two run side by side; a third takes the place of the first."""
        authorities = self.world.authorities
        if what == "starts" or not authorities:
            self.world.add_authority(off)
            del authorities[:-2]
        elif what == "ends":
            del authorities[number]
        else:
            authorities[number].reader.cut = EVERYTHING if what == "is cut off" else frozenset(TOPICS["authority"])
        self._go_on(count)

    @rule(number=which, most=st.integers(0, 2), what=st.sampled_from(("dies", "stops", "goes on")), count=ticks)
    def minimiser(self, number, most, what, count):
        """It ends after some of what it had to publish, or is stopped before all of it, until it goes on."""
        minimiser = self.world.minimisers[number]
        minimiser.read()
        if what == "dies":
            minimiser.translate(most)
            minimiser.restart()
        elif what == "stops":
            minimiser.stop_in_the_midst()
        else:
            minimiser.go_on()
        self._go_on(count)

    @rule(number=which, subject=people, apart=st.booleans(), count=ticks)
    def minimisers_part(self, number, subject, apart, count):
        """One hears of a withdrawal, the other of a stop; or one of a grant, and the other only when it is withdrawn."""
        one, other = self.world.minimisers[number], self.world.minimisers[1 - number]
        self.grant(subject, RESEARCH, self.scribe.rules.notice or "1", 0, None, 1 if apart else 0)
        one.cut, other.cut = (
            (frozenset({SWITCH_TOPIC}), frozenset({CONSENT_TOPIC})) if apart else (frozenset(), EVERYTHING)
        )
        if not apart:
            one.publish_at_once()
        self.withdraw(subject, RESEARCH, 0, 0)
        if apart:
            self.engage("z", ("subject", subject), plain=False, skew=0, count=0)
            one.publish_at_once()
            other.publish_at_once()
        one.cut, other.cut = EVERYTHING, frozenset()
        self._go_on(count)

    @precondition(lambda self: self.world.lives < 3)
    @rule(off=offs, keep=st.booleans(), count=ticks)
    def new_life(self, off, keep, count):
        """The broker begins again with an empty log; somebody may apply the policy and consent once more."""
        self.world.new_life()
        self.scribe = Scribe(self.world.broker)
        self.standing_broken = False
        self.world.add_authority(off)
        if keep:
            self._allow(WHO[0])
        self._go_on(count)

    # What passes

    @rule()
    def capture(self):
        """The producer captures something, which may wait in a spool, a topic or a memory for as long as it likes."""
        control = self.world.producer.state
        if control.log == self.world.broker.log and self.world.producer.passes(WHO[:1], [control.epoch]):
            releases = self.scribe.releases_known_to(control)
            self.captured = [*self.captured, (control.log, control.epoch, releases)][-4:]

    @precondition(lambda self: self.scribe.now - self.well_at > 5_000)
    @rule()
    def all_is_well(self):
        """Whatever was wrong is put right: within two seconds all gates are fresh, and pass what the model allows."""
        world = self.world
        if all(each.reader.cut for each in world.authorities):
            world.add_authority(0)
        for gate in world.gates:
            gate.cut, gate.wall_off = frozenset(), 0
            if gate.leaped or gate.state.log != world.broker.log:
                gate.restart()
        for minimiser in world.minimisers:
            if self.standing_broken:
                minimiser.restart()
            minimiser.go_on()
        self.standing_broken = False
        self._go_on(10)
        epochs = [self.scribe.epoch]
        for gate in world.gates:
            assert gate.view().fresh, gate.view().why
            checks.agrees(gate.passes(WHO, epochs), self.scribe.all(), gate, epochs)
        for one, other in (world.minimisers, world.downstream):
            checks.agree(one.state, other.state)
        self.well_at = self._ms

    @invariant()
    def nothing_forbidden_passes(self):
        for gate in self.world.gates:
            checks.is_recent(gate)
            # Most gates are as they were a moment ago.
            now = (
                gate.state,
                gate.view().fresh,
                self.captured,
                [gate.wall >= at for at in sorted(self.scribe.moments)],
            )
            if self.seen.get(gate) != now:
                self.seen[gate] = now
                checks.obeys(gate, self.scribe, self.captured)
        checks.console_agrees(self.scribe)

    def teardown(self):
        for gate in self.world.gates:
            checks.knows_the_same(gate, 3)


@pytest.fixture(autouse=True)
def remember_signatures(monkeypatch):
    """Every gate checks every signature: to do so once for all of them is slow enough."""
    monkeypatch.setattr(signing, "_is_valid", lru_cache(maxsize=None)(signing._is_valid))


def test_no_history_lets_through_what_the_model_forbids():
    """And every history lets through what the model allows, once all is well again."""
    run_state_machine_as_test(Histories, settings=settings(max_examples=100, stateful_step_count=40))


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (signing, "APPROVALS", 1),
        (verdict, "_stopped", lambda state, stopping, subject, now_ms: ""),
        (standing.Translator, "behind", lambda self, state: False),
    ],
)
def test_the_histories_would_tell(monkeypatch, module, name, broken):
    """With one signature enough, no switch over everything nor pause obeyed, or progress held back, they fail."""
    monkeypatch.setattr(module, name, broken)
    fast = settings(max_examples=200, stateful_step_count=30, phases=[Phase.generate], database=None, derandomize=True)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Histories, settings=fast)
