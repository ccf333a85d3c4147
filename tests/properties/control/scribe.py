"""Writes records, and notes for the model what each of them truly is.

What a signature is worth is decided here by who was asked to sign, and what a record
ends by what stands: in plain lines of its own, so that they can disagree with state.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from infra.control import signing
from infra.control.identity import subject_of
from infra.control.records import (
    ALL_PURPOSES,
    CONSENT_TOPIC,
    MAX_SKEW_MS,
    POLICY_TOPIC,
    SWITCH_TOPIC,
    Approver,
    Consent,
    Policy,
    PurposeRule,
    Record,
    Signature,
    Switch,
    consent_key,
)
from infra.control.signing import Signed
from infra.control.state import ControlState, Entry, apply
from tests.properties.control.model import NO_RULES, Grant, Model, Pause, Release, Rules, Stop, Told, Withdrawal, model
from tests.properties.control.world import Broker, Message

APPROVERS = {name: bytes([letter]) * 32 for name, letter in zip(("anna", "ben", "carl", "eve"), b"abce", strict=True)}
"""Eve is never one."""
PEOPLE = {subject_of(seed): seed for seed in (b"s" * 32, b"t" * 32, b"u" * 32)}
WHO = tuple(PEOPLE)
TEAMS = dict(zip(WHO, ("support", "research"), strict=False))
"""Of the third nobody knows the team."""
KEYS = {**APPROVERS, **PEOPLE}
NAMES = {signing.public_of(seed): name for name, seed in KEYS.items()}
TRAINING, RESEARCH = "assistant-training", "usability-research"
RULES: tuple[Mapping[str, set[str]], ...] = (
    {TRAINING: {"session", "pointer", "keys"}, RESEARCH: {"pointer", "wheel"}},
    {TRAINING: {"session", "pointer"}, RESEARCH: {"wheel"}},
    {TRAINING: {"pointer"}},
)
"""From much to little."""
BOARDS = (("anna", "ben"), ("anna", "carl"), ("anna", "ben", "carl"))
FOREVER = float("inf")


class Scribe:
    """Knows all that was written in one life of the log."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.told = Told()
        self.console = ControlState(broker.log, teams=TEAMS)
        """A state that has read every record at once."""
        self.decided_by: dict[tuple[str, int], int] = {}
        """By topic and offset, of what approvers have signed: how many records of control.policy decide about it."""
        self.rules, self.version, self.board = NO_RULES, 0, dict[str, int]()
        """What is in force, the last version, and who may sign until when (0 for no end)."""
        self.moments: set[float] = set()
        """At which time alone changes what may pass."""
        self._said: dict[tuple[str, str], tuple[bool, float, int]] = {}
        """By person and purpose: granted, until when, and the date that a later word must pass."""
        self.stops: dict[int, tuple[str, bool, tuple[str, str]]] = {}
        """By offset: name, whether it is the first of that name, and target."""
        self._spent: set[str] = set()
        self.epoch = 0

    @property
    def now(self) -> int:
        """The broker's clock, UTC epoch ms."""
        return self.broker.ms

    def sign(self, record: Signed, names: Iterable[str]) -> Signed:
        return signing.sign(record, self.broker.log, *(KEYS[name] for name in names))

    def two(self) -> list[str]:
        """Two who may sign now, where there are two."""
        return [name for name, until in self.board.items() if not until or self.now < until][:2]

    def write(self, record: Record) -> Message:
        return self._note(self.broker.write(record))

    def put(self, topic: str, key: str, value: bytes | None) -> Message:
        return self._note(self.broker.put(topic, key, value))

    # What may be written

    def policy(self, *, version: int, level: int, notice: str, board: int, end: int, at: int) -> Policy:
        """Carl's key runs out with the policy."""
        approvers = tuple(
            Approver(name, signing.public_of(APPROVERS[name]), end if name == "carl" else 0) for name in BOARDS[board]
        )
        allowed = tuple(
            PurposeRule(purpose, "d", tuple(sorted(sources)), ("x", "key_class"), 30)
            for purpose, sources in RULES[level].items()
        )
        window = ("tumbling", 10_000, 10_000, 0, 5_000)
        return Policy("p", version, 0, end, notice, allowed, 8, 10, 0, *window, approvers, at, "test")

    def release(self, one: Switch, at: int, epoch: int) -> Switch:
        digest = signing.digest(one, self.broker.log)
        return Switch(one.id, one.scope, one.value, False, "r", "b", at, epoch, releases=digest)

    def engaged(self, offset: int) -> Switch:
        """The switch that stands since that offset: others of one name than the first get an identifier of their own."""
        name, first, target = self.stops[offset]
        return next(
            each
            for each in self.console.switches.values()
            if each.engaged and (each.scope, each.value) == target
            and (each.id == name if first else each.id.startswith(f"{name}+"))
        )  # fmt: skip

    # What it truly is

    def _note(self, message: Message) -> Message:
        entry = message.entry
        record, taken = entry.record, entry.timestamp or 0
        signatures: tuple[Signature, ...] = getattr(record, "signatures", ())
        by = {NAMES[each.key] for each in signatures if each.key in signing.signers(record, self.broker.log)}  # type: ignore[arg-type]
        if entry.topic == POLICY_TOPIC:
            self.told.policies.append(
                self._policy(record, by, taken) if isinstance(record, Policy) else self._lawless()
            )
        elif entry.topic == CONSENT_TOPIC:
            proper = isinstance(record, Consent) and entry.key == consent_key(record.subject, record.purpose)
            self.told.consents.append(self._word(record, by, taken) if proper else self._unsaid(entry.key, taken))  # type: ignore[arg-type]
        elif entry.topic == SWITCH_TOPIC:
            self.told.switches.append(self._switch(entry, by, taken))
        if by & set(APPROVERS):
            self.decided_by[entry.topic, entry.offset] = len(self.told.policies)
        self.console = apply(self.console, [entry], taken)
        return message

    def _enough(self, by: Iterable[str], at: int, board: Mapping[str, int]) -> bool:
        return sum(name in board and (not board[name] or at < board[name]) for name in by) >= 2

    def _policy(self, record: Policy, by: set[str], taken: int) -> Rules | None:
        if record.version <= self.version or record.applied_at > taken + MAX_SKEW_MS:
            return None
        board = {approver.name: approver.until for approver in record.approvers}
        allowed = {rule.name: frozenset(rule.sources) for rule in record.purposes}
        new = Rules(allowed, record.notice, record.valid_until)
        less = (
            self.rules is not NO_RULES
            and all(sources <= self.rules.sources.get(purpose, set()) for purpose, sources in allowed.items())
            and (new.notice, board) == (self.rules.notice, self.board)
            and new.end <= self.rules.end
        )
        if not less and not self._enough(by, max(record.applied_at, taken), self.board or board):
            return None
        self.rules, self.version, self.board = new, record.version, board
        self.moments.add(new.end)
        return new

    def _lawless(self) -> Rules:
        self.rules = NO_RULES
        return NO_RULES

    def _word(self, record: Consent, by: set[str], taken: int) -> Grant | Withdrawal | Pause | None:
        key = record.subject, record.purpose
        granted, until, last = self._said.get(key, (True, 0.0, 0))
        pause = record.purpose == ALL_PURPOSES and not record.granted
        end = record.until or FOREVER
        if record.granted or (pause and not granted and end < until):
            stands = record.subject in by or self._enough(by, max(record.at, taken), self.board)
            if not last < record.at <= taken + MAX_SKEW_MS or not stands:
                return None
        self._said[key] = record.granted, end, max(last, min(record.at, taken + MAX_SKEW_MS))
        self.moments.add(end)
        if record.purpose == ALL_PURPOSES:
            return Pause(record.subject, end if pause else 0)
        return Grant(*key, record.notice) if record.granted else Withdrawal(*key)

    def _unsaid(self, key: str, taken: int) -> Withdrawal | Pause:
        subject, _, purpose = key.partition("/")
        last = self._said.get((subject, purpose), (True, 0.0, 0))[2]
        self._said[subject, purpose] = False, FOREVER, max(last, taken)
        return Withdrawal(subject, purpose) if purpose else Pause(subject, FOREVER)

    def _switch(self, entry: Entry, by: set[str], taken: int) -> Stop | Release | None:
        record = entry.record
        if record is None:
            return None
        if not isinstance(record, Switch) or record.id != entry.key:
            return self._stop(entry.offset, entry.key or f"unreadable-{entry.offset}", ("everything", ""))
        if record.engaged:
            return self._stop(entry.offset, record.id, (record.scope, record.value))
        stop = next((offset for offset in self.stops if self.engaged(offset).id == record.id), None)
        if stop is None or record.releases != signing.digest(self.engaged(stop), self.broker.log):
            return None
        digest = signing.digest(record, self.broker.log)
        in_time = record.at <= taken + MAX_SKEW_MS and self._enough(by, max(record.at, taken), self.board)
        if digest in self._spent or not in_time:
            return None
        del self.stops[stop]
        self._spent.add(digest)
        self.epoch = max(self.epoch + 1, record.epoch)
        return Release(stop, self.epoch)

    def _stop(self, offset: int, name: str, target: tuple[str, str]) -> Stop | None:
        alike = [each for each in self.stops.values() if each[0] == name]
        first = not any(is_first for _, is_first, _ in alike)
        if not first and any(each[2] == target for each in alike):
            return None
        self.stops[offset] = name, first, target
        return Stop(target)

    # What the model makes of it

    def all(self) -> Model:
        return model(self.told.policies, self.told.consents, self.told.switches)

    def known_to(self, control: ControlState) -> Model:
        """What the model makes of what a state has applied."""
        return model(
            self.told.policies[: _count(control, POLICY_TOPIC)],
            self.told.consents[: _count(control, CONSENT_TOPIC)],
            self.told.switches[: _count(control, SWITCH_TOPIC)],
        )

    def releases_known_to(self, control: ControlState) -> int:
        told = self.told.switches[: _count(control, SWITCH_TOPIC)]
        return sum(isinstance(each, Release) for each in told)

    def may_be_known_downstream(self, control: ControlState) -> list[Model]:
        """Gates of pseudonyms may know more of consents, and of whom switches name, than has been promised; never less."""
        policies = self.told.policies[: _count(control, POLICY_TOPIC)]
        read = model([], [], self.told.switches[: _count(control, SWITCH_TOPIC)])
        told = self.told.consents, self.told.switches
        reached = control.consent_reached, control.switch_reached
        consents, switches = (range(at + 1, len(each) + 1) for at, each in zip(reached, told, strict=True))
        models = []
        for consented in consents:
            for switched in switches:
                then = model(policies, self.told.consents[:consented], self.told.switches[:switched])
                stops = {each for each in then.stops if _names_people(each)} | {
                    each for each in read.stops if not _names_people(each)
                }
                models.append(then._replace(stops=frozenset(stops), epoch=read.epoch))
        return models

    def lacks_a_policy(self, control: ControlState) -> bool:
        """Whether a state has applied what a policy decides that it has not."""
        has = _count(control, POLICY_TOPIC)
        return any(
            needed > has and offset < _count(control, topic) for (topic, offset), needed in self.decided_by.items()
        )


def _count(control: ControlState, topic: str) -> int:
    return control.applied.get(topic, -1) + 1


def _names_people(target: tuple[str, str]) -> bool:
    return target[0] in ("subject", "team")
