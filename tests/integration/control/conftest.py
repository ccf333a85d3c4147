"""Gates in the test's own process, and the words of gates that are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from infra.control import signing
from infra.control.keeper import GateKeeper, Role
from infra.control.reader import wall_ms
from infra.control.records import POLICY_TOPIC, SWITCH_TOPIC, Ack, Approver, Policy
from infra.control.writer import ControlWriter
from tests.approvers import APPROVERS, EVE, approve, demo_policy, write_keys
from tests.control_plane import Plane
from tests.support import wait_until
from tests.switching import write

MODES = {"producer": "consent", "minimiser": "consent", "windower": "standing", "sampler": "standing"}
SUBJECT = "0123456789abcdef" * 2


@pytest.fixture
def gate(plane: Plane) -> Iterator[Callable[..., GateKeeper]]:
    """Makes the gate of a role, which has announced itself and read everything; closed at the end."""
    made: list[GateKeeper] = []

    def make(role: Role = "minimiser") -> GateKeeper:
        subjects = frozenset({SUBJECT}) if role == "producer" else None
        keeper = GateKeeper(plane.addresses(), role, MODES[role], subjects=subjects)
        made.append(keeper)
        wait_until(lambda: keeper.reader.read_to_end and keeper._last is not None, 20, f"the {role} announced")
        return keeper

    yield make
    for each in made:
        each.close()


@pytest.fixture
def ghost(plane: Plane) -> Callable[..., str]:
    """Writes the last word of a gate that will not say anything again, and returns its name."""

    def leave_word(name: str = "windower-dead", lease_ms: int = 60_000, **changes) -> str:
        values = {
            "gate": name,
            "role": name.partition("-")[0],
            "host": "vm:1",
            "log": "1",
            "started_at": wall_ms(),
            "at": wall_ms(),
            "lease_ms": lease_ms,
            "applied": {SWITCH_TOPIC: -1, POLICY_TOPIC: -1},
            "open": True,
            "why": "",
            "sources": ("keys",),
            "switches": (),
            "epoch": 0,
            "policy_version": 1,
        }
        with ControlWriter(plane.addresses(), timeout=10) as writer:
            writer.write(Ack(**{**values, **changes}))
        return name

    return leave_word


@pytest.fixture
def policy(plane: Plane) -> Policy:
    """The demo's policy in force, and the keys of both approvers, of eve and of an approver whose key runs out."""
    keys = plane.home / "keys"
    keys.mkdir(mode=0o700)
    write_keys(keys)
    for name, seed in (("eve", EVE), ("old", b"o" * 32)):
        (keys / f"{name}.key").write_bytes(seed)
        (keys / f"{name}.key").chmod(0o600)
    old = Approver("old", signing.public_of(b"o" * 32), wall_ms() - 1000)
    in_force = approve(
        replace(demo_policy(plane.home / "policy", "1"), approvers=(*APPROVERS, old), signatures=()), "1"
    )
    write(plane, in_force)
    return in_force
