"""`tidegate produce desktop`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

TEXTS = {
    "recording": "recording: pointer, wheel, key classes and the application in front",
    "paused": "paused: nothing is recorded",
    "closed": "not recording: the gate is closed",
}


def desktop(
    subject_key: Annotated[
        Path, typer.Option(help="Your key file; who you are is computed from it here, on this machine.")
    ],
    pause_key: Annotated[str, typer.Option(help="The key that pauses and resumes: pause, f9, scroll_lock …")] = "pause",
    seconds: Annotated[float | None, typer.Option(help="Stop by itself after so long.", min=0.1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was recorded as JSON at the end.")] = False,
) -> None:
    """Record this X11 desktop: pointer, wheel, the class of each key, the application in front.

    A mark in the top right corner says what is going on for as long as it
    runs. The keys themselves, window titles and screen content are never
    recorded. Nothing is captured before you consented (`tidegate consent
    grant`), nor while a switch or the policy forbids it. Ctrl-C ends it.

    Once, then whenever you like:
        tidegate consent grant --purpose NAME --subject-key me.key --create-key
        tidegate produce desktop --subject-key me.key
    """
    from producers.desktop.capture import DesktopCapture, DesktopSettings, x_display
    from producers.recorder import Recorder

    with x_display():
        from producers.desktop.focus import FocusWatch

        focus = FocusWatch()
    recorder = Recorder(subject_key=subject_key, screen=focus.screen_size())
    recorder.start()
    capture = DesktopCapture(recorder, DesktopSettings(pause_key=pause_key, seconds=seconds))
    focus.on_change = capture.focused

    def say(state: str) -> None:
        why = f" ({recorder.refusal})" if state == "closed" else ""
        hint = f"; {pause_key} to {'resume' if state == 'paused' else 'pause'}" if state != "closed" else ""
        print(f"{TEXTS[state]}{why}{hint}", file=sys.stderr, flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: capture.stop())
    threading.excepthook = _thread_failed
    try:
        capture.run(focus, say)
    finally:
        report = recorder.close()
    summary = {
        "captured": recorder.captured,
        "dropped": recorder.dropped,
        "by_kind": dict(capture.seen),
        "unsent": report.unsent if report is not None else 0,
    }
    if as_json:
        print(json.dumps(summary))
        return
    print(f"{summary['captured']:,} events captured, {sum(recorder.dropped.values()):,} of them dropped by the gate")


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    from Xlib.error import ConnectionClosedError

    # A listener that loses its display ends so; `DesktopCapture.run` notices and tells it in its own words.
    if not issubclass(failed.exc_type, ConnectionClosedError):
        threading.__excepthook__(failed)
