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
from collections.abc import Sequence
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

_Rest = tuple[int, int, int, int, int, int, str]
"""Button, pressed, wheel_x, wheel_y, key class, role, label."""
_REST = ("button", "pressed", "wheel_x", "wheel_y", "key_class", "role")
_NOTHING: _Rest = (0, 0, 0, 0, 0, 0, "")
_Row = tuple[Permit, float, int, str, int, int, _Rest]
"""One captured event: permit, ms since 1970, kind, application, x, y, rest. Cheap to make, and never changed."""

_START, _PAUSE, _RESUME, _END = (KINDS[f"session_{what}"] for what in ("start", "pause", "resume", "end"))
_MOVE, _CLICK, _WHEEL = KINDS["pointer_move"], KINDS["pointer_button"], KINDS["wheel"]
_KEY, _FOCUS, _ELEMENT = KINDS["key"], KINDS["focus"], KINDS["element"]


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
        self._producer = producer or Producer(addresses or Addresses.load(), settings, subjects=(subject,))
        self._shared = producer is not None
        self._rows: deque[_Row] = deque()
        self._limit = self._producer.settings.buffer_events
        self._wake_at = self._limit // 4
        self._permit = closed("stale")
        self._application = ""
        self._off = self._closed = False
        # Paused or closed.
        self.ignored = 0
        """Calls that recorded nothing because the recorder was paused or closed: no events, so not in the books."""
        self._session = self._producer.open(subject, screen=screen, collect=self._collect)

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
        ready = self._producer.wait_ready(wait_s)
        self._permit = self._producer.permit(self._session)
        self._put(_START, None, 0, 0, _NOTHING)
        return ready

    # The calls below catch everything: whatever a caller passes, recording must not break its program.

    def pointer_move(self, x: float, y: float, *, at: float | None = None) -> None:
        """Record that the pointer has moved to a position, in px from the top left of the screen."""
        try:
            self._put(_MOVE, at, x, y, _NOTHING)
        except Exception:  # noqa: BLE001 - see above
            self._malformed()

    def pointer_button(self, button: str, *, pressed: bool, x: float, y: float, at: float | None = None) -> None:
        """Record that a button (left, right, middle, back, forward, other) went down or came up, and where."""
        try:
            self._put(_CLICK, at, x, y, (_BUTTON[button], 1 if pressed else 0, 0, 0, 0, 0, ""))
        except Exception:  # noqa: BLE001 - see above
            self._malformed()

    def wheel(self, dx: float, dy: float, *, x: float = 0, y: float = 0, at: float | None = None) -> None:
        """Record a turn of the wheel in notches: positive is right and up."""
        try:
            if not (-_FURTHEST < dx < _FURTHEST and -_FURTHEST < dy < _FURTHEST):
                self._malformed()
                return
            self._put(_WHEEL, at, x, y, (0, 0, int(dx), int(dy), 0, 0, ""))
        except Exception:  # noqa: BLE001 - see above
            self._malformed()

    def key(self, key_class: str, *, pressed: bool, at: float | None = None) -> None:
        """Record that a key of a class (letter, digit, enter, …) went down or came up.

        Never pass the key itself: what is no class is refused and counted as malformed, and kept nowhere.
        """
        try:
            self._put(_KEY, at, 0, 0, (0, 1 if pressed else 0, 0, 0, _KEY_CLASS[key_class], 0, ""))
        except Exception:  # noqa: BLE001 - see above
            self._malformed()

    def focus(self, application: str, *, at: float | None = None) -> None:
        """Record which application came to the front; later events are marked with it."""
        try:
            self._application = _text(application)
            self._put(_FOCUS, at, 0, 0, _NOTHING)
        except Exception:  # noqa: BLE001 - see above
            self._malformed()

    def element(self, role: str, label: str = "", *, x: float = 0, y: float = 0, at: float | None = None) -> None:
        """Record that an interface element was used: its role, and the label shown on it."""
        try:
            self._put(_ELEMENT, at, x, y, (0, 0, 0, 0, 0, _ROLE[role], _text(label)))
        except Exception:  # noqa: BLE001 - see above
            self._malformed()

    def pause(self) -> None:
        """Record nothing until `resume`."""
        self._put(_PAUSE, None, 0, 0, _NOTHING)
        self._off = True

    def resume(self) -> None:
        """Record again, where the gate allows it."""
        self._off = self._closed
        self._put(_RESUME, None, 0, 0, _NOTHING)

    def close(self, timeout_s: float = 5.0) -> Report | None:
        """Record the session's end and send what is left, for at most `timeout_s` seconds.

        Returns what could not be sent; None when the producer is shared (its
        owner gets the report) or the recorder had been closed before.
        """
        if self._closed:
            return None
        self._off = False
        self._put(_END, None, 0, 0, _NOTHING)
        self._off = self._closed = True
        self._producer.finish(self._session)
        return None if self._shared else self._producer.close(timeout_s)

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, kind: int, at: float | None, x: float, y: float, rest: _Rest) -> None:
        permit, rows = self._permit, self._rows
        count = len(rows)
        if permit.refusal[kind] or time.monotonic() >= permit.until or self._off or count >= self._limit:
            self._refuse(permit, kind)
            return
        when = time.time() * 1000 if at is None else int(at)
        if not (-_FURTHEST < x < _FURTHEST and -_FURTHEST < y < _FURTHEST and 0 <= when < _LATEST):
            self._malformed()
            return
        rows.append((permit, when, kind, self._application, int(x), int(y), rest))
        if count == self._wake_at:
            self._producer.wake()

    def _refuse(self, permit: Permit, kind: int) -> None:
        if self._off:
            self.ignored += 1
        else:
            late = "stale" if time.monotonic() >= permit.until else "buffer_full"
            self._session.refuse(permit.refusal[kind] or late, 1)

    def _malformed(self) -> None:
        self._session.refuse("malformed", 1)

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


def _text(given: str) -> str:
    if given.__class__ is not str:
        raise TypeError
    return given[:TEXT_MAX]


def _add(session: Session, rows: Sequence[_Row], permit: Permit, now: float) -> None:
    _, times, kinds, applications, x, y, rests = zip(*rows, strict=True)
    columns = {"time": np.array(times, np.float64).astype(np.int64), "kind": np.array(kinds, np.int64)}
    columns |= {"x": np.array(x, np.int64), "y": np.array(y, np.int64)}
    table, labels = {"": 0}, {"": 0}
    columns["application"] = np.array([table.setdefault(name, len(table)) for name in applications], np.int64)
    if any(rest is not _NOTHING for rest in rests):
        *numbers, texts = zip(*rests, strict=True)
        columns |= {name: np.array(column, np.int64) for name, column in zip(_REST, numbers, strict=True)}
        columns["label"] = np.array([labels.setdefault(text, len(labels)) for text in texts], np.int64)
    session.add(Capture(columns, tuple(table), tuple(labels)), permit, now)
