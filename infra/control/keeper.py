"""A gate in a process: its reader, what is under way through it, and its word to the others.

Whoever waits for a stop must know whom to wait for without asking the one who is
missing. So a gate announces itself on `control.ack` before it opens and renews that
in time, and **it is closed unless the broker has its word**: who reads the topic to
its end knows every gate that can be open. What it says is what it has applied, as
far as nothing judged by less is still under way (`passages.py`).

A producer says nothing of consents, neither their offsets nor its own machine's
name: either would tell those who can read the topic whose word was just applied.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Literal

from confluent_kafka import KafkaError, Producer

from infra.addresses import Addresses
from infra.control.freshness import MAX_AGE
from infra.control.openness import openness
from infra.control.passages import Passage, Passages
from infra.control.reader import ControlReader, OnChange, wall_ms
from infra.control.records import CONSENT_TOPIC, POLICY_TOPIC, SWITCH_TOPIC, Ack, encode, key_of, topic_of
from infra.control.state import TOPICS, Mode, View

Role = Literal["producer", "minimiser", "windower", "sampler"]

LEASE_SECONDS: Mapping[Role, float] = {"producer": 120.0, "minimiser": 10.0, "windower": 10.0, "sampler": 10.0}
"""How long a gate may stay open on its last word, and how long one that was killed is waited for. Producers are
many: 1,600 of them, renewing every 40 s, write some 0.7 GB a day."""
_RENEW = 1 / 3
"""Of its lease, after which a gate renews its word."""
_LOOK = 0.1
"""Seconds until a change that nobody announces, such as a policy that runs out, is told."""
_RETRY = 0.25
"""Seconds until a word that the broker did not take is said again."""
_TIMEOUT_MS = 2_000


class GateKeeper:
    """The gate of one process.

    `mode`, `subjects`, `teams` and `adopt_log` are the reader's. Close it, or it is
    waited for until its lease runs out. Raises TidegateError when the broker's
    address is not known.
    """

    def __init__(
        self,
        addresses: Addresses,
        role: Role,
        mode: Mode,
        *,
        subjects: frozenset[str] | None = None,
        adopt_log: bool = False,
        teams: Mapping[str, str] | None = None,
        reader: ControlReader | None = None,
    ) -> None:
        self.gate = f"{role}-{secrets.token_hex(4)}"
        """Identifier of this gate, new with each start."""
        self.reader = reader or ControlReader(addresses, mode, subjects=subjects, adopt_log=adopt_log, teams=teams)
        self._role = role
        self._host = "" if role == "producer" else f"{socket.gethostname()}:{os.getpid()}"
        self._lease = LEASE_SECONDS[role]
        self._started_at = wall_ms()
        self._passages = Passages(self.view)
        self._told: tuple[str, float] = ("", 0.0)
        self._renew_at = 0.0
        self._last: Ack | None = None
        self._closing = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": addresses.need("kafka"),
                "acks": "all",
                "linger.ms": 0,
                "message.timeout.ms": _TIMEOUT_MS,
                "queue.buffering.max.kbytes": 1024,
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 1000,
                "topic.metadata.refresh.interval.ms": 1000,
                "log_level": 0,  # the gate is closed while it cannot be heard, and `view` says why
            }
        )
        self.reader.on_change(lambda _state, _entries: self._passages.nudge())
        self._thread = threading.Thread(target=self._run, name="tidegate-ack", daemon=True)
        self._thread.start()

    def __enter__(self) -> GateKeeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def view(self) -> View:
        """Return what may be gone by now; not fresh while the broker does not have this gate's word. Cheap."""
        view = self.reader.view()
        log, until = self._told
        if view.fresh and (log != view.state.log or time.monotonic() >= until):
            return View(view.state, fresh=False, why="the broker has not taken this gate's word on control.ack")
        return view

    def enter(self) -> Passage:
        """Begin to judge by the view of this moment; leave the passage when the outcome is known."""
        return self._passages.enter()

    def wait_for(self, condition: Callable[[View], bool], timeout: float) -> View:
        """Wait until `condition` holds for the view, at most `timeout` seconds, and return the last view."""
        self.reader.wait_for(lambda _: condition(self.view()), timeout)
        return self.view()

    def wait_fresh(self, timeout: float) -> View:
        """Wait for a fresh view, at most `timeout` seconds; look at `.fresh` and `.why` of what comes back."""
        return self.wait_for(lambda view: view.fresh, timeout)

    def on_change(self, callback: OnChange) -> None:
        """Call `callback` after every change of the state; see `ControlReader.on_change`."""
        self.reader.on_change(callback)

    @property
    def applied(self) -> dict[str, int]:
        """By control topic, the last offset read and applied; -1 where there is none."""
        return self.reader.applied

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since the freshest heartbeat; None without one."""
        return self.reader.heartbeat_age

    @property
    def trouble(self) -> str:
        """What the broker last answered amiss, or "" since the last heartbeat."""
        return self.reader.trouble

    def close(self) -> None:
        """Say that this gate has left, and stop reading."""
        self._closing.set()
        self._passages.nudge()
        self._thread.join(timeout=3)
        self.reader.close()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                word = self._word()
                if time.monotonic() < self._renew_at and not _differs(word, self._last):
                    self._passages.wait(self._look_in())
                elif not self._say(word):
                    self._closing.wait(_RETRY)
        finally:
            # While something may still arrive it has not left: its lease runs out instead.
            if not self._passages.open:
                self._say(replace(self._word(), lease_ms=0, open=False, why="it has ended", sources=()))

    def _look_in(self) -> float:
        """Seconds until the next look: when the last heartbeat has grown too old, if that is sooner."""
        age = self.reader.heartbeat_age
        left = _LOOK if age is None else MAX_AGE - age
        return left if 0 < left < _LOOK else _LOOK

    def _word(self) -> Ack:
        view, settled = self._passages.settled()
        state = view.state
        topics = (POLICY_TOPIC, SWITCH_TOPIC) if self._role == "producer" else (*TOPICS[state.mode], CONSENT_TOPIC)
        applied = {topic: settled.get(topic, -1) for topic in topics}
        passes = openness(view, wall_ms())
        return Ack(
            gate=self.gate,
            role=self._role,
            host=self._host,
            log=state.log,
            started_at=self._started_at,
            at=self.reader.authority_ms,
            lease_ms=int(self._lease * 1000),
            applied=applied,
            open=bool(passes.sources),
            why=self._tellable(passes.why),
            sources=passes.sources,
            switches=tuple(sorted(name for name, switch in state.switches.items() if switch.engaged)),
            epoch=state.epoch,
            policy_version=state.policy.version if state.policy else 0,
        )

    def _tellable(self, why: str) -> str:
        """Return why the gate is closed, without what a producer keeps to itself."""
        return "not all has been read" if self._role == "producer" and CONSENT_TOPIC in why else why

    def _say(self, word: Ack) -> bool:
        """Send a word and wait for the broker to take it, or for the time to run out; return whether it has it."""
        began, fate = time.monotonic(), list[KafkaError | None]()
        self._producer.produce(
            topic_of(word), key=key_of(word).encode(), value=encode(word), timestamp=word.at,
            on_delivery=lambda error, _: fate.append(error),
        )  # fmt: skip
        while not fate:
            self._producer.poll(_LOOK)
        if fate[0] is not None:
            return False
        self._last = word
        self._told = (word.log, began + self._lease)
        self._renew_at = began + self._lease * _RENEW
        return True


def _differs(word: Ack, last: Ack | None) -> bool:
    """Whether there is something new to say: a new reason for being closed is not."""
    return last is None or replace(word, at=0, why="") != replace(last, at=0, why="")
