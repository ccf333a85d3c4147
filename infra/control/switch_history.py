"""What became of every switch, record by record: engaged, proposed to be released, released, ignored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from infra.addresses import Addresses
from infra.control.reader import ControlReader
from infra.control.records import POLICY_TOPIC, SWITCH_TOPIC, Switch
from infra.control.state import ControlState, Entry, apply

What = Literal["engaged", "again", "proposed", "released", "ignored"]


class Event(NamedTuple):
    """What one record of control.switch did."""

    switch: str
    """Which switch it was about."""
    what: What
    offset: int
    at: int
    """When the broker took it, UTC epoch ms."""
    record: Switch | None
    """None where it could not be read and stopped nothing."""
    why: str = ""
    """Why it was ignored, as `ControlState.ignored` names it."""
    epoch: int = 0
    """The epoch after it."""


def history(entries: Iterable[Entry], log: str) -> list[Event]:
    """Return what each record of control.switch did. Pure.

    The rules are those of `state.apply`, taken record by record; policies come
    first, as they do for a gate, since who may sign stands in them.
    """
    state = ControlState(log=log, only=frozenset())
    switches: list[Entry] = []
    for entry in entries:
        if entry.topic == POLICY_TOPIC:
            state = apply(state, [entry], entry.timestamp or 0)
        elif entry.topic == SWITCH_TOPIC:
            switches.append(entry)
    events = []
    for entry in switches:
        after = apply(state, [entry], entry.timestamp or 0)
        events.append(_event(entry, state, after))
        state = after
    return events


def _event(entry: Entry, before: ControlState, after: ControlState) -> Event:
    at = entry.timestamp or 0
    record = entry.record if isinstance(entry.record, Switch) else None
    for name, switch in after.switches.items():
        if switch is not before.switches.get(name):
            what: What = "engaged" if switch.engaged else "released"
            return Event(name, what, entry.offset, at, switch, epoch=after.epoch)
    key = (SWITCH_TOPIC, entry.key)
    why = next((w for (_, w), n in after.ignored.items() if n > before.ignored.get((SWITCH_TOPIC, w), 0)), "")
    if record is not None and after.pending.get(key) is record:
        return Event(entry.key, "proposed", entry.offset, at, record, epoch=after.epoch)
    if record is not None and record.engaged:
        return Event(entry.key, "again", entry.offset, at, record, epoch=after.epoch)
    return Event(entry.key, "ignored", entry.offset, at, record, why, after.epoch)


class Recorder:
    """A reader of the control topics, and every record of policies and switches that it reads."""

    def __init__(self, addresses: Addresses) -> None:
        """Raises TidegateError when the broker's address is not known."""
        while True:
            self.entries: list[Entry] = []
            self._late = False
            self.reader = ControlReader(addresses, "consent", subjects=frozenset())
            self.reader.on_change(self._keep)
            if not self._late:
                return
            # It had read something before anybody listened: begin anew.
            self.reader.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()

    def _keep(self, state: ControlState, entries: Sequence[Entry]) -> None:
        self._late = self._late or bool(state.applied and not entries)
        self.entries += [entry for entry in entries if entry.topic in (POLICY_TOPIC, SWITCH_TOPIC)]
