"""The SDK: record interaction events from any Python program.

    with Recorder(subject_key=path) as recorder:
        recorder.pointer_move(x, y)
        recorder.key("letter", pressed=True)

What a call costs its caller is a look at the gate's table and an append to a
bounded buffer. It never waits and never raises: what cannot be recorded is
counted, by reason. A thread of the producer turns the buffer into batches.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from infra.addresses import Addresses
from infra.errors import TidegateError
from producers.batcher import TEXT_MAX, Capture, Session
from producers.permit import Permit, closed
from producers.producer import Producer
from producers.report import Report
from producers.settings import ProducerSettings
from schemas.catalogue import BUTTONS, KEY_CLASSES, KINDS, ROLES

_BUTTON = {name: code for code, name in enumerate(BUTTONS) if name != "none"}
_KEY_CLASS = {name: code for code, name in enumerate(KEY_CLASSES) if name != "none"}
_ROLE = {name: code for code, name in enumerate(ROLES) if name != "none"}

_FURTHEST = 1 << 24
"""Pixels or notches. No screen is larger; anything beyond is a caller's mistake, not a position."""
_LATEST = 1 << 43
"""Milliseconds: the year 2248. A time beyond it is no time."""

# One captured event: permit, time in ms, kind, application, x, y, button, pressed, wheel_x, wheel_y, key class,
# role, label. A plain tuple: cheap to make, and immutable from the moment of capture.
_Row = tuple[Permit, int, int, str, int, int, int, int, int, int, int, int, str]
_Rest = tuple[int, bool, float, float, int, int, str]
"""Button, pressed, wheel_x, wheel_y, key class, role, label."""
_NOTHING: _Rest = (0, False, 0, 0, 0, 0, "")
_NUMBERS = {"x": 4, "y": 5, "button": 6, "pressed": 7, "wheel_x": 8, "wheel_y": 9, "key_class": 10, "role": 11}


class Recorder:
    """One subject's recording session.

    The calls may come from several threads. `at` is the event's time in ms
    since 1970 UTC; without it, now. Only `start`, `close` and the `with`
    statement wait, for a stated time; only the constructor raises.
    """

    def __init__(
        self,
        *,
        subject_key: Path | str | None = None,
        subject: str | None = None,
        screen: tuple[int, int] = (0, 0),
        producer: Producer | None = None,
        addresses: Addresses | None = None,
        settings: ProducerSettings | None = None,
    ) -> None:
        """Name the subject by their key file or by their identifier, not both.

        Several recorders of one process share a `producer`, which their owner
        closes; without one, the recorder makes and closes its own.

        Raises TidegateError when the key cannot be read, or no broker is known.
        """
        if (subject_key is None) == (subject is None):
            raise TidegateError("a Recorder takes either subject_key or subject.", code=2)
        if subject is None:
            from infra.control.identity import load_key, subject_of

            subject = subject_of(load_key(Path(str(subject_key))))
        self._own = None if producer is not None else Producer(addresses or Addresses.load(), settings)
        self._producer = producer or self._own
        assert self._producer is not None  # noqa: S101 - one of the two
        self._rows: deque[_Row] = deque()
        self._limit = self._producer.settings.buffer_events
        self._wake_at = self._limit // 4
        self._permit = closed("stale")
        self._application = ""
        self._paused = self._closed = False
        self.ignored = 0
        """Calls that recorded nothing because the recorder was paused or closed: no events, so not in the books."""
        self._session = self._producer.open(subject, screen=screen, collect=self._collect)
        self._wake: Callable[[], None] = self._producer.wake

    @property
    def session(self) -> str:
        """The session's identifier."""
        return self._session.id

    @property
    def captured(self) -> int:
        """Events captured so far, dropped ones among them; those in the buffer not yet."""
        return self._session.captured

    @property
    def dropped(self) -> dict[str, int]:
        """Events dropped so far, by reason."""
        return dict(self._session.dropped)

    @property
    def refusal(self) -> str:
        """Why nothing is being recorded at this moment; empty while something may be."""
        return "" if self._permit.open else next(reason for reason in self._permit.refusal if reason)

    def start(self, wait_s: float = 5.0) -> bool:
        """Wait until the gate knows the control state, then record the session's start.

        False when that took longer than `wait_s`; capturing begins by itself once it is known.
        """
        ready = self._producer_().wait_ready(wait_s)
        self._permit = self._producer_().permit(self._session)
        self._put(KINDS["session_start"], None)
        return ready

    def pointer_move(self, x: float, y: float, *, at: float | None = None) -> None:
        """Record that the pointer has moved to a position, in px from the top left of the screen."""
        self._put(KINDS["pointer_move"], at, x, y)

    def pointer_button(self, button: str, *, pressed: bool, x: float, y: float, at: float | None = None) -> None:
        """Record that a button (left, right, middle, back, forward, other) went down or came up, and where."""
        self._put(KINDS["pointer_button"], at, x, y, (_code(_BUTTON, button), pressed, 0, 0, 0, 0, ""))

    def wheel(self, dx: float, dy: float, *, x: float = 0, y: float = 0, at: float | None = None) -> None:
        """Record a turn of the wheel in notches: positive is right and up."""
        self._put(KINDS["wheel"], at, x, y, (0, False, dx, dy, 0, 0, ""))

    def key(self, key_class: str, *, pressed: bool, at: float | None = None) -> None:
        """Record that a key of a class (letter, digit, enter, …) went down or came up.

        Never pass the key itself: what is no class is refused and counted as malformed, and kept nowhere.
        """
        self._put(KINDS["key"], at, 0, 0, (0, pressed, 0, 0, _code(_KEY_CLASS, key_class), 0, ""))

    def focus(self, application: str, *, at: float | None = None) -> None:
        """Record which application came to the front; later events are marked with it."""
        if not isinstance(application, str):
            self._session.refuse("malformed", 1)
            return
        self._application = application[:TEXT_MAX]
        self._put(KINDS["focus"], at)

    def element(self, role: str, label: str = "", *, x: float = 0, y: float = 0, at: float | None = None) -> None:
        """Record that an interface element was used: its role, and the label shown on it."""
        self._put(KINDS["element"], at, x, y, (0, False, 0, 0, 0, _code(_ROLE, role), label))

    def pause(self) -> None:
        """Record nothing until `resume`."""
        self._put(KINDS["session_pause"], None)
        self._paused = True

    def resume(self) -> None:
        """Record again, where the gate allows it."""
        self._paused = False
        self._put(KINDS["session_resume"], None)

    def close(self, timeout_s: float = 5.0) -> Report | None:
        """Record the session's end and send what is left, for at most `timeout_s` seconds.

        Returns what could not be sent; None when the producer is shared (its
        owner gets the report) or the recorder had been closed before.
        """
        if self._closed:
            return None
        self._paused = False
        self._put(KINDS["session_end"], None)
        self._closed = True
        self._producer_().finish(self._session)
        return self._own.close(timeout_s) if self._own is not None else None

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _producer_(self) -> Producer:
        assert self._producer is not None  # noqa: S101 - set by the constructor
        return self._producer

    def _put(self, kind: int, at: float | None, x: float = 0, y: float = 0, rest: _Rest = _NOTHING) -> None:
        try:
            permit = self._permit
            reason = permit.verdict.refusal[kind] if time.monotonic() < permit.until else "stale"
            if self._paused or self._closed:
                self.ignored += 1
            elif reason:
                self._session.refuse(reason, 1)
            elif len(self._rows) >= self._limit:
                self._session.refuse("buffer_full", 1)
            else:
                self._append(permit, time.time() * 1000 if at is None else at, kind, x, y, rest)
        except Exception:  # noqa: BLE001 - whatever a caller passes, recording must not break its program
            self._session.refuse("malformed", 1)

    def _append(self, permit: Permit, when: float, kind: int, x: float, y: float, rest: _Rest) -> None:
        button, pressed, dx, dy, key_class, role, label = rest
        good = (
            -_FURTHEST < x < _FURTHEST
            and -_FURTHEST < y < _FURTHEST
            and -_FURTHEST < dx < _FURTHEST
            and -_FURTHEST < dy < _FURTHEST
            and 0 <= when < _LATEST
            and min(button, key_class, role) >= 0
            and label.__class__ is str
        )
        if not good:
            self._session.refuse("malformed", 1)
            return
        codes = (int(x), int(y), button, 1 if pressed else 0, int(dx), int(dy), key_class, role)
        self._rows.append((permit, int(when), kind, self._application, *codes, label[:TEXT_MAX]))
        if len(self._rows) == self._wake_at:
            self._wake()

    def _collect(self, permit: Permit) -> None:
        """Hand the buffer to the session, and take the new permit; the producer's thread calls it."""
        self._permit = permit
        count = len(self._rows)
        if not count:
            return
        rows = [self._rows.popleft() for _ in range(count)]
        now = time.monotonic()
        start = 0
        for end in range(1, count + 1):
            # Permits change seldom: a run of rows under one permit is added as a whole.
            if end == count or rows[end][0] is not rows[start][0]:
                _add(self._session, rows[start:end], rows[start][0], now)
                start = end


def _code(table: dict[str, int], name: str) -> int:
    """Return the code of a name; -1, which is refused, for anything that is none."""
    return table.get(name, -1) if name.__class__ is str else -1


def _add(session: Session, rows: Sequence[_Row], permit: Permit, now: float) -> None:
    columns = list(zip(*rows, strict=True))
    numbers = {name: np.array(columns[place], np.int64) for name, place in _NUMBERS.items() if any(columns[place])}
    applications, labels = {"": 0}, {"": 0}
    numbers["kind"] = np.array(columns[2], np.int64)
    numbers["application"] = np.array([applications.setdefault(a, len(applications)) for a in columns[3]], np.int64)
    if any(columns[12]):
        numbers["label"] = np.array([labels.setdefault(t, len(labels)) for t in columns[12]], np.int64)
    numbers["time"] = np.array(columns[1], np.int64)
    session.add(Capture(numbers, tuple(applications), tuple(labels)), permit, now)
