"""A worker with its gate taken out, for `bench_gate` alone: what it saves is what the gate costs.

    python -m tests.bench.ungated stream minimise --metrics-port 0

Everything that a gate does is gone: reading control topics, acknowledging, passages,
standings, judging and refusing. It goes by one view, the first that was fresh, which
the policy's windows and grids come from. Done here by replacing names in the
modules that use them, so that the product has no such setting.
"""

from __future__ import annotations

from typing import Any, ClassVar

import tidegate
from infra.addresses import Addresses
from infra.control import gate
from infra.control.gate import Drops
from infra.control.keeper import Mode, Role
from infra.control.reader import ControlReader, wall_ms
from infra.control.state import View
from infra.control.verdict import Verdict, judge
from streams import pipeline_minimise, rows, workers


class _Passage:
    """As `infra.control.passages.Passage`."""

    def __init__(self, view: View) -> None:
        self.view = view

    def leave(self) -> None:
        """There is nobody to tell."""

    def __enter__(self) -> _Passage:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class OpenGate:
    """Stands in for a GateKeeper. Closed until the authority has been heard once, then open for good."""

    heartbeat_age = 0.0
    applied: ClassVar[dict[str, int]] = {}

    def __init__(self, addresses: Addresses, role: Role, mode: Mode, **_: Any) -> None:
        self._reader: ControlReader | None = ControlReader(addresses, "consent")
        self._passage = _Passage(self._reader.view())

    def __enter__(self) -> OpenGate:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def view(self) -> View:
        """Return the view that holds for good, or one that is not fresh."""
        if self._reader is not None:
            self._passage = _Passage(self._reader.view())
            if self._passage.view.fresh:
                pass_everything(self._passage.view, wall_ms())
                self._reader.close()
                self._reader = None
        return self._passage.view

    def enter(self) -> _Passage:
        """Count nothing."""
        return self._passage


def pass_everything(view: View, now_ms: int) -> None:
    """Let everybody have the verdict of one who consents, found without looking for it."""
    one = next(iter(view.state.consents))
    verdict = judge(view, one, now_ms, view.state.epoch)
    assert verdict.purposes, "the bench's subjects consent"

    def all_pass(events: Any, verdicts: Any, _: Any = None) -> tuple[gate.Admitted, Drops]:
        return gate.Admitted(gate._TOKEN, events, tuple(verdicts)), Drops.none()

    def always(*_: Any) -> Verdict:
        return verdict

    pipeline_minimise.admit = rows.admit = all_pass
    pipeline_minimise.Judge.__call__ = always
    rows._verdicts = lambda keys, *_: [verdict] * len(keys)


async def _no_standing(*_: Any) -> None:
    """Nobody downstream asks for it."""


if __name__ == "__main__":
    workers.GateKeeper = OpenGate
    workers.keep_standing = _no_standing
    tidegate.main()
