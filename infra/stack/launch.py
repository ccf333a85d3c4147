"""Starts a supervisor, here or as a daemon, and ends one.

The daemon tells whoever started it, one JSON object a line on stdout, what each
part does, and last `{"ready": …}` or `{"error": …}`; then it lets go of stdout.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from infra import telemetry
from infra.addresses import Addresses
from infra.errors import TidegateError
from infra.metrics import SupervisorMetrics
from infra.stack import parts
from infra.stack.home import Home, disk_full
from infra.stack.lock import Holder, HomeLock, last_holder, running
from infra.stack.supervisor import Supervisor

Tell = Callable[[str, str], None]

KEY_VARIABLE = "TIDEGATE_PSEUDONYM_KEY"
DOWN_SECONDS = 75.0
"""How long `down` waits for an orderly end: every deadline of `Part.stop_seconds` in a row, and a little."""
GONE_SECONDS = 5.0
"""How long the kernel may take to end what a killed supervisor leaves."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one `up` was asked for."""

    home: Path
    workers: Mapping[str, int]


@contextlib.contextmanager
def supervisor(settings: Settings, tell: Tell) -> Iterator[Supervisor]:
    """Take the home and make its supervisor; tidy up after it.

    Raises TidegateError when the home is taken or not fit, or the disk is full.
    """
    home = Home(settings.home)
    home.prepare()
    lock = HomeLock.acquire(home.root)
    try:
        notes = []
        if lock.left_by is not None:
            notes.append(f"the last stack here ({lock.left_by}) ended without `tidegate down`; its home was taken over")
            _retire(home)
        made, server = _make(home, settings, notes, tell)
        for note in notes:
            tell("supervisor", note)
        try:
            yield made
        finally:
            server.close()
    except OSError as error:
        if disk_full(error):
            raise TidegateError(f"the disk of {home.root} is full. Free some space and try again.") from error
        raise
    finally:
        _retire(home)
        lock.release()


def _make(home: Home, settings: Settings, notes: list[str], tell: Tell) -> tuple[Supervisor, telemetry.Server]:
    external = Addresses.load(home.root)
    notes += [
        f"{name} is not started: {variable} points at {_without_password(elsewhere)}"
        for name, variable, elsewhere in (
            ("broker", "TIDEGATE_KAFKA", external.kafka),
            ("store", "TIDEGATE_STORE", external.store),
            ("registry", "TIDEGATE_REGISTRY", external.registry),
        )
        if elsewhere
    ]
    ports, moved = home.choose_ports(parts.port_names(external, settings.workers))
    notes += moved
    registry = CollectorRegistry()
    server = telemetry.serve(ports["supervisor"], registry=registry)
    made = Supervisor(
        home,
        parts.lay_out(home, external, ports, settings.workers, _key(home)),
        _addresses(external, ports),
        _environment(home, own_broker=not external.kafka),
        SupervisorMetrics(registry),
        tell,
        {
            "notes": notes,
            "supervisor": {"pid": os.getpid(), "started_ms": time.time_ns() // 1_000_000, "port": server.port},
        },
    )
    server.watch(made.progress)
    return made, server


def _without_password(address: str) -> str:
    return re.sub("//[^/@]*@", "//", address)


def _addresses(external: Addresses, ports: Mapping[str, int]) -> Addresses:
    return replace(
        external,
        kafka=external.kafka or f"127.0.0.1:{ports['broker']}",
        registry=external.registry or f"http://127.0.0.1:{ports['registry']}",
        store=external.store or f"http://127.0.0.1:{ports['store']}",
    )


def _key(home: Home) -> Path:
    chosen = os.environ.get(KEY_VARIABLE)
    return Path(chosen).absolute() if chosen else home.pseudonym_key()


def _environment(home: Home, *, own_broker: bool) -> dict[str, str]:
    """Return what every part inherits. The key's path is not among it."""
    env = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    if own_broker:
        env.pop("TIDEGATE_LOG", None)  # the embedded log's name is the supervisor's to give
    return env | {"TIDEGATE_HOME": str(home.root)}


def _retire(home: Home) -> None:
    with contextlib.suppress(OSError):  # there is none, or the disk is full: either way it is not in the way
        home.retire_state()


# As a daemon


def detach(settings: Settings, tell: Tell) -> None:
    """Start a daemon and return when every part is ready.

    Raises TidegateError with the daemon's words when it does not come up.
    Interrupted, it takes down what it has begun.
    """
    home = Home(settings.home)
    home.prepare()
    with home.open_log("supervisor") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-P", "-m", "infra.stack.launch", str(home.root), json.dumps(dict(settings.workers))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=home.root,
            start_new_session=True,  # a terminal that closes, or Ctrl-C in it, does not reach the daemon
            text=True,
        )
    try:
        _follow(home, daemon, tell)
    except KeyboardInterrupt:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        raise


def _follow(home: Home, daemon: subprocess.Popen[str], tell: Tell) -> None:
    assert daemon.stdout is not None  # noqa: S101 - it was asked for
    for line in daemon.stdout:
        said = json.loads(line)
        if "ready" in said:
            daemon.stdout.close()
            return
        if "error" in said:
            daemon.wait()
            raise TidegateError(said["error"], code=said["code"])
        tell(said["part"], said["what"])
    tail = "\n".join(f"  {line}" for line in home.log_tail("supervisor"))
    raise TidegateError(f"the supervisor ended without a word (exit {daemon.wait()}). Its log ends:\n{tail}")


def _daemon(settings: Settings) -> int:
    telemetry.configure("supervisor")
    log = telemetry.logger("infra.stack")
    attached = True

    def say(what: dict[str, Any]) -> None:
        nonlocal attached
        if attached:
            try:
                print(json.dumps(what), flush=True)
            except BrokenPipeError:
                attached = False

    def tell(part: str, what: str) -> None:
        log.info("part changed", part=part, state=what)
        say({"part": part, "what": what})

    def ready() -> None:
        nonlocal attached
        say({"ready": True})
        attached = False
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    try:
        with supervisor(settings, tell) as made:
            asyncio.run(made.run(ready))
    except TidegateError as error:
        log.error("stack failed", error=str(error))  # noqa: TRY400 - a sentence for people; no trace needed
        say({"error": str(error), "code": error.code})
        return error.code
    return 0


# The end


def bring_down(root: Path, tell: Tell) -> dict[str, Any] | None:
    """Stop the stack of a home and return its last state; None where nothing was running.

    Asks first, then kills. Raises TidegateError when something will not go.
    """
    home = Home(root)
    if not running(home.root):
        left = last_holder(home.root)
        if left is not None:
            tell("supervisor", f"{left}, had ended without `tidegate down`, and its parts with it")
            _retire(home)
        return None
    holder = last_holder(home.root)
    if holder is None:
        raise TidegateError(f"a stack is just starting in {home.root}. Try again in a second.")
    try:
        process = os.pidfd_open(holder.pid)  # stands for this process even if the number is given away
    except ProcessLookupError:
        return home.read_last()  # it ended just now
    try:
        _end(process, home, holder, tell)
    finally:
        os.close(process)
    return home.read_last()


def _end(process: int, home: Home, holder: Holder, tell: Tell) -> None:
    signal.pidfd_send_signal(process, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_SECONDS
    while time.monotonic() < deadline:
        if _has_ended(process, 0.05):
            return
        _tell_changes(home, tell)
    tell("supervisor", f"did not end within {DOWN_SECONDS:.0f} s and was killed, its parts with it")
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    if not _has_ended(process, GONE_SECONDS):
        raise TidegateError(f"the supervisor ({holder}) cannot be killed. Look at it with `ps {holder.pid}`.")
    _retire(home)


def _has_ended(process: int, seconds: float) -> bool:
    return bool(select.select([process], [], [], seconds)[0])


def _tell_changes(home: Home, tell: Tell) -> None:
    for part in home.read_state().get("parts", ()):
        if part["state"] == "stopping":
            tell(part["name"], "stopping")


if __name__ == "__main__":
    sys.exit(_daemon(Settings(Path(sys.argv[1]), json.loads(sys.argv[2]))))
