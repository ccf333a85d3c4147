"""One path under load for all faults of this folder; each leaves it whole, or has it mended before the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

THEMES = ("authority", "broker", "clock", "producer", "store", "workers")
# Their assertions are to explain themselves as those of a test file do.
pytest.register_assert_rewrite(
    "tests.faults.stop.running", "tests.faults.stop.parts", *(f"tests.faults.stop.fault_{each}" for each in THEMES)
)

from tests.faults.stop.running import StopPath  # noqa: E402 - after the line above


@pytest.fixture(scope="session")
def running_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StopPath]:
    path = StopPath(tmp_path_factory.mktemp("stop"))
    try:
        path.up()
        yield path
    finally:
        path.down()


@pytest.fixture
def path(running_path: StopPath) -> StopPath:
    """A path on which rows flow."""
    running_path.mend()
    return running_path
