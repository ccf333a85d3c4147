"""One stack a home: a lock that cannot go stale.

The kernel drops an `flock` with the process that holds it, so the lock alone
says whether a supervisor lives. What is written in the file only serves
messages: who holds it, and, if it is still there when the lock is free, that
the last one ended without tidying up.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from infra.errors import TidegateError

LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class Holder:
    """The supervisor that holds, or held, a home."""

    pid: int
    started_ms: int
    """UTC epoch milliseconds."""

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.started_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
        return f"pid {self.pid}, started {since}"


class HomeLock:
    """Held from `acquire` until `release` or the process's end."""

    def __init__(self, descriptor: int, left_by: Holder | None) -> None:
        self._descriptor = descriptor
        self.left_by = left_by
        """Who held the home before and ended without releasing it."""

    @classmethod
    def acquire(cls, home: Path) -> HomeLock:
        """Take the home. Raises TidegateError, with the pid, when another supervisor has it."""
        descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        free = _try(descriptor)
        if not free:
            # `running` holds the lock for an instant to look; a second look tells it from a supervisor.
            time.sleep(0.05)
            free = _try(descriptor)
        if not free:
            holder = _read(descriptor)
            os.close(descriptor)
            raise TidegateError(
                f"a stack is already running in {home} ({holder or 'it is just starting'}). "
                "See `tidegate status`, stop it with `tidegate down`, or choose another --home."
            )
        left_by = _read(descriptor)
        _write(descriptor, json.dumps(asdict(Holder(os.getpid(), time.time_ns() // 1_000_000))))
        return cls(descriptor, left_by)

    def release(self) -> None:
        """Give the home back, tidied up."""
        _write(self._descriptor, "")
        os.close(self._descriptor)


def running(home: Path) -> bool:
    """Say whether a supervisor holds the home."""
    try:
        descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor)
    finally:
        os.close(descriptor)


def last_holder(home: Path) -> Holder | None:
    """Return who holds the home or held it last without tidying up."""
    try:
        descriptor = os.open(home / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> Holder | None:
    text = os.pread(descriptor, 4096, 0)
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None  # empty, or half-written by somebody who was killed in that moment


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
