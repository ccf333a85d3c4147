"""Sessions: handles that are kept, by `session_id`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from infra.stack.store_engine import Engine, Handle
from infra.stack.store_errors import (
    SESSION_IS_LOCKED,
    SESSION_NOT_FOUND,
    TOO_MANY_SIMULTANEOUS_QUERIES,
    StoreRefusal,
)

MOST_SESSIONS = 200
"""A handle costs about 0.2 MB and may hold temporary tables."""
LONGEST_S = 3600.0
"""ClickHouse's own bound on session_timeout."""


@dataclass(slots=True)
class _Session:
    handle: Handle
    expires: float
    busy: threading.Lock = field(default_factory=threading.Lock)


class Sessions:
    """The open sessions. Safe for many threads."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[str, _Session] = {}

    @contextmanager
    def borrow(self, session_id: str, timeout_s: float, must_exist: bool, end: bool) -> Iterator[Handle]:
        """Lend a session's handle for one request.

        Raises StoreRefusal where the session is in use, or `must_exist` and
        does not. `end` closes it afterwards.
        """
        session = self._take(session_id, must_exist)
        try:
            yield session.handle
        finally:
            session.expires = self._clock() + min(timeout_s, LONGEST_S)
            session.busy.release()
            if end:
                self._drop(session_id)

    def close(self) -> None:
        """Close all of them."""
        for session_id in list(self._open):
            self._drop(session_id)

    def _take(self, session_id: str, must_exist: bool) -> _Session:
        with self._lock:
            self._expire()
            session = self._open.get(session_id)
            if session is None:
                if must_exist:
                    raise StoreRefusal(SESSION_NOT_FOUND, "Session not found")
                if len(self._open) >= MOST_SESSIONS:
                    raise StoreRefusal(TOO_MANY_SIMULTANEOUS_QUERIES, f"More than {MOST_SESSIONS} sessions are open")
                session = self._open[session_id] = _Session(self._engine.open(), 0.0)
            if not session.busy.acquire(blocking=False):
                raise StoreRefusal(SESSION_IS_LOCKED, "Session is locked by a concurrent client")
            return session

    def _expire(self) -> None:
        now = self._clock()
        for session_id, session in list(self._open.items()):
            if session.expires < now and session.busy.acquire(blocking=False):
                session.handle.close()
                del self._open[session_id]

    def _drop(self, session_id: str) -> None:
        with self._lock:
            session = self._open.get(session_id)
            if session is not None and session.busy.acquire(blocking=False):
                session.handle.close()
                del self._open[session_id]
