"""Which application is in front, by its window class; never by its title."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

POLL_S = 0.1
"""How often the front window is looked up. A bare X server without a window
manager sends no event for it that works everywhere, and ten look-ups a second
cost less than one pointer movement."""


class FocusWatch(threading.Thread):
    """Calls its `on_change` with an application whenever another comes to the front.

    The application is the window's WM_CLASS class in lower case, such as
    `firefox`; empty where a window has none. A window's title is never read.
    """

    def __init__(self, display_name: str | None = None) -> None:
        super().__init__(name="focus", daemon=True)
        from Xlib import display

        self._display = display.Display(display_name)
        self.on_change: Callable[[str], None] = lambda application: None
        self._stopping = threading.Event()

    def screen_size(self) -> tuple[int, int]:
        """Return width and height of the screen, in px."""
        screen = self._display.screen()
        return int(screen.width_in_pixels), int(screen.height_in_pixels)

    def run(self) -> None:
        """Look until `stop()`."""
        last: str | None = None
        while not self._stopping.wait(POLL_S):
            application = self.current()
            if application != last:
                last = application
                self.on_change(application)
        self._display.close()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        self.join(timeout=2)

    def current(self) -> str:
        """Return the application in front, empty where there is none."""
        from Xlib import error

        try:
            return self._class_of(self._front_window())
        except (error.XError, error.ConnectionClosedError):
            # The window went away between two requests.
            return ""

    def _front_window(self) -> Any:
        root = self._display.screen().root
        active = root.get_full_property(self._display.intern_atom("_NET_ACTIVE_WINDOW"), 0)
        if active is not None and len(active.value) and active.value[0]:
            return self._display.create_resource_object("window", active.value[0])
        return self._display.get_input_focus().focus

    def _class_of(self, window: Any) -> str:
        # Focus often lies on a child; the class stands on the application's own window.
        while hasattr(window, "get_wm_class"):
            found = window.get_wm_class()
            if found:
                return str(found[1]).lower()
            parent = window.query_tree().parent
            if parent == 0 or parent is None:
                break
            window = parent
        return ""
