"""Live capture on X11: what happens on this desktop, told to a recorder."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from infra.errors import TidegateError
from producers.desktop.focus import FocusWatch
from producers.desktop.keys import key_class
from producers.recorder import Recorder

BUTTONS: Final = {"left": "left", "right": "right", "middle": "middle", "button8": "back", "button9": "forward"}
REFRESH_S: Final = 0.1
"""How often the mark on the screen is brought up to date."""


@dataclass(frozen=True, slots=True)
class DesktopSettings:
    """What a person chooses when they start to record themselves."""

    pause_key: str = "pause"
    """Name of the key that pauses and resumes, as pynput names it."""
    seconds: float | None = None
    """Stop by itself after so long; None until interrupted."""


class DesktopCapture:
    """Joins pointer, keyboard and focus to one recorder, and shows what it does.

    Listeners call the recorder from their own threads; its calls never block.
    The pause key is acted on here and is itself recorded by its class only.
    """

    def __init__(self, recorder: Recorder, settings: DesktopSettings) -> None:
        self._recorder = recorder
        self._settings = settings
        self._stopping = threading.Event()
        self.paused = False
        self.seen: Counter[str] = Counter()
        """Events told to the recorder, by kind; what the gate then refused is among them."""

    def run(self, focus: FocusWatch, on_state: Callable[[str], None]) -> None:
        """Record until `stop()`, the time limit or an interrupt; `on_state` hears each change of state.

        Raises TidegateError when there is no X display, or when it goes away.
        """
        mouse, keyboard, indicator = self._listeners()
        from Xlib.error import ConnectionClosedError

        try:
            mouse.start()
            keyboard.start()
            focus.start()
            self._wait_ready(mouse, keyboard)
            self._show_until_stopped(indicator, on_state, mouse, keyboard)
        except ConnectionClosedError as error:
            raise _gone() from error
        finally:
            for end in (mouse.stop, keyboard.stop, focus.stop, indicator.close):
                with suppress(ConnectionClosedError):
                    end()

    def stop(self) -> None:
        """End `run` from another thread or a signal handler."""
        self._stopping.set()

    def state(self) -> str:
        """Return `paused`, `recording`, or `closed` where the gate lets nothing through."""
        if self.paused:
            return "paused"
        return "closed" if self._recorder.refusal else "recording"

    def _listeners(self) -> tuple[Any, Any, Any]:
        with x_display():
            # pynput connects to the display as it is imported.
            from pynput import keyboard, mouse

            from producers.desktop.indicator import Indicator

            return (
                mouse.Listener(on_move=self._moved, on_click=self._clicked, on_scroll=self._scrolled),
                keyboard.Listener(on_press=self._pressed, on_release=self._released),
                Indicator(),
            )

    def _wait_ready(self, *listeners: Any) -> None:
        ready = threading.Event()

        def wait() -> None:
            for listener in listeners:
                listener.wait()
            ready.set()

        # Beside, since a listener whose display goes away meanwhile is never ready.
        threading.Thread(target=wait, name="ready", daemon=True).start()
        while not self._stopping.is_set() and not ready.wait(REFRESH_S):
            _must_live(*listeners)

    def _show_until_stopped(
        self, indicator: Any, on_state: Callable[[str], None], *listeners: threading.Thread
    ) -> None:
        deadline = None if self._settings.seconds is None else time.monotonic() + self._settings.seconds
        shown = ""
        while not self._stopping.wait(REFRESH_S):
            if deadline is not None and time.monotonic() >= deadline:
                return
            _must_live(*listeners)
            state = self.state()
            indicator.show(state)
            if state != shown:
                shown = state
                on_state(state)

    def focused(self, application: str) -> None:
        """Hear that another application came to the front."""
        if not self.paused:
            self.seen["focus"] += 1
            self._recorder.focus(application)

    def _moved(self, x: int, y: int, *_injected: Any) -> None:
        if not self.paused:
            self.seen["pointer_move"] += 1
            self._recorder.pointer_move(x, y)

    def _clicked(self, x: int, y: int, button: Any, pressed: bool, *_injected: Any) -> None:
        if not self.paused:
            self.seen["pointer_button"] += 1
            self._recorder.pointer_button(BUTTONS.get(button.name, "other"), pressed=pressed, x=x, y=y)

    def _scrolled(self, x: int, y: int, dx: int, dy: int, *_injected: Any) -> None:
        if not self.paused:
            self.seen["wheel"] += 1
            self._recorder.wheel(dx, dy, x=x, y=y)

    def _pressed(self, key: Any, *_injected: Any) -> None:
        if getattr(key, "name", None) == self._settings.pause_key:
            self._toggle()
        else:
            self._key(key, pressed=True)

    def _released(self, key: Any, *_injected: Any) -> None:
        if getattr(key, "name", None) != self._settings.pause_key:
            self._key(key, pressed=False)

    def _key(self, key: Any, *, pressed: bool) -> None:
        if not self.paused:
            self.seen["key"] += 1
            self._recorder.key(key_class(key), pressed=pressed)

    def _toggle(self) -> None:
        if self.paused:
            self._recorder.resume()
        else:
            self._recorder.pause()
        self.paused = not self.paused


def _must_live(*listeners: threading.Thread) -> None:
    """Raise TidegateError when a listener has ended: it must not go on showing that it records."""
    if not all(listener.is_alive() for listener in listeners):
        raise _gone()


def _gone() -> TidegateError:
    return TidegateError("the X server went away, so nothing more is recorded. Start again when it is back.")


@contextmanager
def x_display() -> Iterator[None]:
    """Turn a failure to reach the X server into a TidegateError that says what to do."""
    try:
        yield
    except (ModuleNotFoundError, TidegateError):
        raise
    except (ImportError, OSError) as error:
        raise _no_display(error) from error
    except Exception as error:
        # Xlib has its own exception tree, which cannot be named before Xlib is imported.
        if type(error).__module__.startswith("Xlib."):
            raise _no_display(error) from error
        raise


def _no_display(error: Exception) -> TidegateError:
    return TidegateError(
        f"no X11 display to record ({type(error).__name__}): set DISPLAY to a running X server. "
        "Wayland sessions cannot be recorded."
    )
