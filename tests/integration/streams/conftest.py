"""A path without a supervisor, shared by the tests of this folder; each test starts the workers that it needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.path_stack import PathStack, Writer, running

ANN, BOB = "a" * 32, "b" * 32


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PathStack]:
    with running(tmp_path_factory.mktemp("path")) as stack:
        # Short windows: a test waits for their end, their lateness and a tick.
        stack.allow(ANN, BOB, window_size_ms=2_000, window_step_ms=2_000, lateness_ms=4_000)
        yield stack


@pytest.fixture(scope="module")
def writer(path: PathStack) -> Writer:
    return Writer(path)


@pytest.fixture
def workers(path: PathStack) -> None:
    """One minimiser and one windower; they go on from test to test, and who died is started anew."""
    for role in ("minimise", "window"):
        path.ensure_worker(role)
