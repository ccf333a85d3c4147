"""Live capture on a real X server: a secret is typed, and must be found nowhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import wait_until

SECRET = "hunter2xyzzy"


@pytest.fixture
def x_server(need_programs):
    """A virtual X server, and the display it serves."""
    need_programs("Xvfb", "xdotool", "xterm")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
        pass_fds=(write,), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    number = os.fdopen(read).readline().strip()
    assert number, "Xvfb did not start"
    yield server, f":{number}"
    server.terminate()
    server.wait(timeout=10)


@pytest.fixture
def display(x_server):
    """The name of a virtual display of this test's own."""
    return x_server[1]


def _xdotool(display: str, *words: str) -> None:
    subprocess.run(["xdotool", *words], env={**os.environ, "DISPLAY": display}, check=True, timeout=30)


@pytest.fixture
def subject(stack, tmp_path):
    """A person with a key of their own who consented."""
    key = tmp_path / "subject.key"
    stack.ok("consent", "grant", "--purpose", "assistant-training", "--subject-key", str(key), "--create-key")
    return key


@pytest.fixture
def recorder(stack, display, subject):
    """The recorder, running on the display and past its gate."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tidegate", "produce", "desktop", "--subject-key", str(subject), "--pause-key", "f9", "--json"],
        env=stack.env(DISPLAY=display), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines: list[str] = []
    os.set_blocking(process.stderr.fileno(), False)

    def said(word: str) -> bool:
        lines.extend(process.stderr.readlines())
        return any(word in line for line in lines)

    process.said = said  # type: ignore[attr-defined]
    wait_until(lambda: said("recording"), 30, "the recorder says that it records")
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(timeout=10)


def _finish(process) -> dict:
    import json

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return json.loads(out)


def test_a_typed_secret_is_found_nowhere(stack, display, recorder, subject):
    """Typing is recorded by class and timing, and no file, table or topic of the stack holds what was typed."""
    _, before = stack.books()
    terminal = subprocess.Popen(["xterm"], env={**os.environ, "DISPLAY": display}, stderr=subprocess.DEVNULL)
    try:
        wait_until(
            lambda: subprocess.run(
                ["xdotool", "search", "--class", "xterm"], env={**os.environ, "DISPLAY": display},
                capture_output=True, check=False,
            ).stdout, 20, "xterm is on the screen",
        )  # fmt: skip
        _xdotool(display, "mousemove", "200", "150", "click", "1", "mousemove", "300", "250", "click", "4")
        _xdotool(display, "type", "--delay", "20", SECRET)
        # X delivers events in order: once the pause key has been seen, so has everything typed before it.
        _xdotool(display, "key", "F9")
        wait_until(lambda: recorder.said("paused"), 10, "the recorder has seen everything typed")
    finally:
        terminal.terminate()
        terminal.wait(timeout=10)
    summary = _finish(recorder)
    assert summary["captured"] >= 2 * len(SECRET)
    stack.settled(expect=before["captured"] + summary["captured"])
    rows = stack.json(
        "store", "query", "SELECT key_class, count() AS n FROM interactions WHERE kind = 'key' GROUP BY 1"
    )
    by_class = {row["key_class"]: int(row["n"]) for row in rows}
    assert by_class.get("letter", 0) >= 2 * sum(c.isalpha() for c in SECRET)
    assert by_class.get("digit", 0) >= 2
    assert _files_with(stack.home, SECRET.encode()) == []


def test_the_pause_key_pauses(stack, display, recorder):
    """After the pause key nothing is captured until it is pressed again, and the recorder says so."""
    _xdotool(display, "key", "F9")
    wait_until(lambda: recorder.said("paused"), 10, "the recorder says that it is paused")
    _xdotool(display, "mousemove", "400", "400", "click", "1", "key", "a", "b", "c")
    summary = _finish(recorder)
    assert summary["by_kind"].get("key", 0) == 0
    assert summary["by_kind"].get("pointer_button", 0) == 0


def test_it_shows_that_it_records(display, recorder):
    """A window on the screen says that recording is on, without anybody looking for it."""
    found = subprocess.run(
        ["xdotool", "search", "--onlyvisible", "--class", "tidegate-indicator"],
        env={**os.environ, "DISPLAY": display}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout.strip()
    assert recorder.poll() is None


def test_it_ends_when_the_display_goes_away(x_server, recorder):
    """A recorder that hears nothing any more says so and ends: it must not go on showing that it records."""
    x_server[0].kill()
    _, err = recorder.communicate(timeout=30)
    assert recorder.returncode == 1
    assert "the X server went away" in err
    assert "Traceback" not in err


def test_without_a_display_it_says_so(stack, subject):
    """No X server is a clear error that names DISPLAY, not a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "tidegate", "produce", "desktop", "--subject-key", str(subject), "--seconds", "1"],
        env=stack.env(DISPLAY=":987"), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "DISPLAY" in done.stderr
    assert "Traceback" not in done.stderr


def _files_with(folder: Path, needle: bytes) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]
