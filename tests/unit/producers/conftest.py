"""A producer whose control state the test sets by hand, and whose broker is not there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from infra.addresses import Addresses
from infra.control.gate import judge
from infra.control.passages import Passages
from infra.control.state import ControlState, View, Word
from producers.permit import Permit
from producers.producer import Producer
from producers.settings import ProducerSettings
from producers.spool import Spool
from schemas.catalogue import load
from schemas.codec import Codec, Decoded
from tests.approvers import demo_policy

SUBJECT = "ab" * 16


def control_state(*subjects: str, epoch: int = 0) -> ControlState:
    now = time.time_ns() // 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        policy = demo_policy(Path(folder), "1")
    words = {rule.name: Word(True, policy.notice_id, now) for rule in policy.purposes}
    return ControlState(log="1", policy=policy, consents=dict.fromkeys(subjects, words), epoch=epoch, version=1)


@dataclass
class Control:
    """Stands where the control reader stands: the view is what the test says."""

    state: ControlState = field(default_factory=lambda: control_state(SUBJECT))
    fresh: bool = True
    heartbeat_age: float | None = 0.1
    trouble: str = ""

    def __post_init__(self) -> None:
        self.enter = Passages(self.view).enter

    def view(self) -> View:
        return View(self.state, self.fresh, "" if self.fresh else "no heartbeat")

    def close(self) -> None:
        pass

    def change(self, **changes: object) -> None:
        """Replace parts of the state."""
        self.state = replace(self.state, version=self.state.version + 1, **changes)  # type: ignore[arg-type]  # any of its fields


@pytest.fixture
def permit() -> Permit:
    """What the demo policy lets a consenting subject do."""
    view = View(control_state(SUBJECT), fresh=True)
    return Permit(0, judge(view, SUBJECT, time.time_ns() // 1_000_000, 0), float("inf"))


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def make(tmp_path: Path, control: Control) -> Iterator[Callable[..., Producer]]:
    """Make producers without a broker: everything ends in the spool under `tmp_path`."""
    made: list[Producer] = []

    def producer(**settings: object) -> Producer:
        addresses = Addresses(home=tmp_path, kafka="127.0.0.1:1", registry="http://127.0.0.1:1")
        merged = ProducerSettings(**{"gate_tick_s": 0.01, **settings})  # type: ignore[arg-type]  # any of its fields
        made.append(Producer(addresses, merged, gate=control))
        return made[-1]

    yield producer
    for each in made:
        each.close(0.5)


@pytest.fixture
def spooled(tmp_path: Path) -> Callable[[], Decoded]:
    """Read what closed producers have left in the spool."""

    def read() -> Decoded:
        spool = Spool(tmp_path / "spool" / "0")
        bodies = []
        while (found := spool.read()) is not None:
            # 18 bytes before the key, which is the session's 32 hex digits.
            bodies.append(found[1][18 + 32 :])
        spool.close()
        decoded = Codec(load("interaction_batch")).decode(bodies)
        assert not decoded.refused
        return decoded

    return read
