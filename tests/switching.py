"""What the tests of the switch commands share: the commands, with what they must end with."""

from __future__ import annotations

from infra.control.writer import ControlWriter
from tests.control_plane import Plane

ALL = ("--scope", "everything", "--reason", "test")
WAIT = ("--wait", "20")
"""Long enough for a machine under load; it ends as soon as every gate has answered."""


def write(plane: Plane, *records) -> None:
    """Write control records."""
    with ControlWriter(plane.addresses(), timeout=10) as writer:
        writer.write(*records)


def refused(plane: Plane, *words: str, code: int = 1) -> str:
    """Run a switch command that must end with this code, and return what it said."""
    done = plane.run("switch", *words)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stdout + done.stderr
    return done.stderr


def engage(plane: Plane, *words: str, code: int = 0) -> dict:
    """Engage a switch and return what the command told."""
    return plane.json("switch", "engage", *words, code=code)


def release(plane: Plane, *words: str, code: int = 0) -> dict:
    """Release a switch and return what the command told."""
    return plane.json("switch", "release", *words, code=code)


def engaged(plane: Plane) -> list[str]:
    """The engaged switches, oldest first."""
    return [row["id"] for row in plane.json("switch", "list")["switches"]]
