"""Live capture on X11: what happens on this desktop, told to a recorder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from infra.errors import TidegateError
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

    def run(self, on_state: Callable[[str], None]) -> None:
        """Record until `stop()`, the time limit or an interrupt; `on_state` hears each change of state.

        Raises TidegateError when there is no X display.
        """
        mouse, keyboard, focus, indicator = self._open()
        try:
            mouse.start()
            keyboard.start()
            focus.start()
            self._show_until_stopped(indicator, on_state)
        finally:
            mouse.stop()
            keyboard.stop()
            focus.stop()
            indicator.close()

    def stop(self) -> None:
        """End `run` from another thread or a signal handler."""
        self._stopping.set()

    def state(self) -> str:
        """Return `paused`, `recording`, or `closed` where the gate lets nothing through."""
        if self.paused:
            return "paused"
        return "recording" if self._recorder.is_open() else "closed"

    def _open(self) -> tuple[Any, Any, Any, Any]:
        try:
            # pynput connects to the display as it is imported.
            from pynput import keyboard, mouse

            from producers.desktop.focus import FocusWatch
            from producers.desktop.indicator import Indicator

            focus = FocusWatch(self._recorder.focus)
            self._recorder.screen(*focus.screen_size())
            listeners = (
                mouse.Listener(on_move=self._moved, on_click=self._clicked, on_scroll=self._scrolled),
                keyboard.Listener(on_press=self._pressed, on_release=self._released),
            )
            return (*listeners, focus, Indicator())
        except ModuleNotFoundError:
            raise
        except (ImportError, OSError) as error:
            raise _no_display(error) from error
        except Exception as error:
            # Xlib has its own exception tree, which cannot be named before Xlib is imported.
            if type(error).__module__.startswith("Xlib."):
                raise _no_display(error) from error
            raise

    def _show_until_stopped(self, indicator: Any, on_state: Callable[[str], None]) -> None:
        deadline = None if self._settings.seconds is None else time.monotonic() + self._settings.seconds
        shown = ""
        while not self._stopping.wait(REFRESH_S):
            if deadline is not None and time.monotonic() >= deadline:
                return
            state = self.state()
            indicator.show(state)
            if state != shown:
                shown = state
                on_state(state)

    def _moved(self, x: int, y: int, *_injected: Any) -> None:
        if not self.paused:
            self._recorder.pointer_move(int(x), int(y))

    def _clicked(self, x: int, y: int, button: Any, pressed: bool, *_injected: Any) -> None:
        if not self.paused:
            self._recorder.pointer_button(BUTTONS.get(button.name, "other"), bool(pressed), int(x), int(y))

    def _scrolled(self, x: int, y: int, dx: int, dy: int, *_injected: Any) -> None:
        if not self.paused:
            self._recorder.wheel(int(dx), int(dy), int(x), int(y))

    def _pressed(self, key: Any, *_injected: Any) -> None:
        if getattr(key, "name", None) == self._settings.pause_key:
            self._toggle()
        elif not self.paused:
            self._recorder.key(key_class(key), True)

    def _released(self, key: Any, *_injected: Any) -> None:
        if not self.paused and getattr(key, "name", None) != self._settings.pause_key:
            self._recorder.key(key_class(key), False)

    def _toggle(self) -> None:
        if self.paused:
            self._recorder.resume()
        else:
            self._recorder.pause()
        self.paused = not self.paused


def _no_display(error: Exception) -> TidegateError:
    return TidegateError(
        f"no X11 display to record ({type(error).__name__}): set DISPLAY to a running X server. "
        "Wayland sessions cannot be recorded."
    )
