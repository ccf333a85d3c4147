"""A mark on the screen that says what the recorder is doing, for as long as it runs."""

from __future__ import annotations

from typing import Any

WIDTH, HEIGHT, MARGIN = 150, 24, 8
COLOURS = {"recording": 0xC62828, "paused": 0x9E9E9E, "closed": 0x37474F}
TEXTS = {"recording": "recording", "paused": "paused", "closed": "not recording"}


class Indicator:
    """A small window above all others, in the screen's top right corner.

    Not thread-safe: one thread makes it and calls `show`.
    """

    def __init__(self, display_name: str | None = None) -> None:
        from Xlib import X, display

        self._display = display.Display(display_name)
        screen = self._display.screen()
        self._window: Any = screen.root.create_window(
            screen.width_in_pixels - WIDTH - MARGIN,
            MARGIN,
            WIDTH,
            HEIGHT,
            0,
            screen.root_depth,
            X.InputOutput,
            X.CopyFromParent,
            background_pixel=COLOURS["closed"],
            # No window manager may hide, move or decorate it.
            override_redirect=True,
            event_mask=X.ExposureMask,
        )
        self._window.set_wm_name("tidegate recorder")
        self._window.set_wm_class("tidegate-indicator", "tidegate-indicator")
        self._gc = self._window.create_gc(foreground=0xFFFFFF, background=COLOURS["closed"])
        self._window.map()
        self._state = ""

    def show(self, state: str) -> None:
        """Show `recording`, `paused` or `closed` (the gate lets nothing through); repaint when covered."""
        covered = False
        while self._display.pending_events():
            self._display.next_event()
            covered = True
        if state == self._state and not covered:
            return
        from Xlib import X

        self._state = state
        self._window.change_attributes(background_pixel=COLOURS[state])
        self._gc.change(background=COLOURS[state])
        self._window.clear_area()
        self._window.configure(stack_mode=X.Above)
        self._window.fill_arc(self._gc, 8, 7, 10, 10, 0, 360 * 64)
        self._window.image_text(self._gc, 26, 16, f"Tidegate: {TEXTS[state]}".encode())
        self._display.flush()

    def close(self) -> None:
        """Take the mark away."""
        self._window.destroy()
        self._display.close()
