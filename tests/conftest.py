"""What every test may use: a running stack, the recordings, a check for Debian packages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import Stack, skip_outside_ci, start_stack

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

# How fast a machine draws examples says nothing about the code.
settings.register_profile("tidegate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tidegate")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One embedded stack for all tests that only add sessions of their own to it."""
    started = start_stack(tmp_path_factory.mktemp("stack"))
    started.allow()
    yield started
    started.run("down")


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Starts embedded stacks that a test may break."""
    stacks: list[Stack] = []

    def start(*words: str) -> Stack:
        stacks.append(start_stack(tmp_path / f"home{len(stacks)}", *words))
        return stacks[-1]

    yield start
    for each in stacks:
        each.run("down")


@pytest.fixture
def recordings() -> Path:
    """The real recordings; they stand beside the project, not in it."""
    folder = SHARED / "balabit"
    if not folder.exists():
        pytest.skip(f"no real recordings: {folder} is absent")
    return folder


def need(*programs: str) -> None:
    """Skip where a Debian package is absent; in CI that is a failure, since `.ci/packages` installs them."""
    missing = [program for program in programs if shutil.which(program) is None]
    if not missing:
        return
    skip_outside_ci(f"not installed: {', '.join(missing)} (see .ci/packages)")


@pytest.fixture
def need_programs() -> Callable[..., None]:
    """`need_programs("Xvfb", …)` skips where they are absent, and fails in CI."""
    return need
