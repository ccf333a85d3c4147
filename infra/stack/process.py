"""One part as a process: start it, know when it is ready, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra.stack.home import Home, disk_full, is_free
from infra.stack.parts import Part, health

CHILD = Path(__file__).with_name("child.py")
POLL_SECONDS = 0.1


class PartError(Exception):
    """A part did not become ready. Says which and why; its log says more."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(f"{part} {why}")
        self.part = part


class Process:
    """The life of one part; `changed` is called at every change of what `describe` tells."""

    def __init__(self, part: Part, home: Home, env: Mapping[str, str], changed: Callable[[str, str], None]) -> None:
        self.part = part
        self.state = "waiting"
        """waiting, starting, ready, done, restarting, stopping, stopped or failed."""
        self.detail = ""
        self.restarts = 0
        self.last_exit = ""
        self.health = ""
        """Empty while it is well, else what is wrong with it."""
        self._home = home
        self._env = {**env, **part.env, "PYTHONUNBUFFERED": "1"}
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._started_ms = 0

    async def start(self) -> None:
        """Start the part and return when it is ready; a step, when it has ended well.

        Raises PartError when it ends before, is not ready within its deadline,
        or cannot be started; nothing of it is running then.
        """
        if self.part.port and not is_free(self.part.port):
            self._set("failed", f"port {self.part.port} is taken by another program")
            raise PartError(self.part.name, self.detail)
        try:
            await self._spawn()
        except OSError as error:
            why = "cannot start: the disk is full" if disk_full(error) else f"cannot start: {error.strerror}"
            self._set("failed", why)
            raise PartError(self.part.name, why) from error
        try:
            await asyncio.wait_for(self._become_ready(), self.part.ready_seconds)
        except TimeoutError as error:
            await self.stop()
            self._set("failed", f"was not ready within {self.part.ready_seconds:g} s")
            raise PartError(self.part.name, self.detail) from error

    async def _spawn(self) -> None:
        self._set("starting")
        with self._home.open_log(self.part.name) as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(CHILD), str(os.getpid()), *self.part.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                cwd=self._home.root,
                start_new_session=True,  # Ctrl-C goes to the supervisor, which stops the parts in order
            )
        self._started_ms = time.time_ns() // 1_000_000

    async def _become_ready(self) -> None:
        ended = asyncio.ensure_future(self.ended())
        try:
            while not await self._is_ready(ended):
                await asyncio.wait([ended], timeout=POLL_SECONDS)
        finally:
            ended.cancel()
        self._set("ready" if self.part.ready else "done")

    async def _is_ready(self, ended: asyncio.Future[int]) -> bool:
        if ended.done():
            if self.part.ready is None and ended.result() == 0:
                return True
            self._set("failed", f"ended at once, {self.last_exit}")
            raise PartError(self.part.name, self.detail)
        if self.part.ready is None:
            return False
        with contextlib.suppress(OSError, EOFError):  # nothing listens yet, or not properly yet
            return await self.part.ready()
        return False

    async def ended(self) -> int:
        """Wait for the process to end and return its exit code; negative is a signal."""
        if self._process is None:
            return 0
        code = await self._process.wait()
        self.last_exit = _exit(code)
        return code

    async def restart_after(self, seconds: float) -> None:
        """Say that it has died, wait, and start it again. Raises PartError as `start` does."""
        self.restarts += 1
        self._set("restarting", f"in {seconds:g} s, after {self.last_exit}")
        await asyncio.sleep(seconds)
        await self.start()

    async def stop(self, seconds: float | None = None) -> None:
        """Ask the process to end, and make it when it has not after `seconds` (the part's own deadline)."""
        process = self._process
        if process is None or process.returncode is not None:
            if self.state not in ("waiting", "done", "failed", "stopped"):
                self._set("stopped", self.last_exit)
            return
        begun = time.monotonic()
        self._set("stopping")
        how = ""
        _signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended(), self.part.stop_seconds if seconds is None else seconds)
        except TimeoutError:
            _signal(process, signal.SIGKILL)
            await self.ended()
            how = ", killed because it did not end when asked"
        self._set("stopped", f"{self.last_exit} after {time.monotonic() - begun:.1f} s{how}")

    async def check(self) -> None:
        """Ask a part that is ready how it is."""
        if self.state != "ready":
            return
        found = await health(self.part)
        # It may have ended while it was asked: that is no ill health, and is told otherwise.
        if self.state == "ready" and found != self.health:
            self.health = found
            self._changed(self.part.name, found or "well again")

    def kill(self) -> None:
        """End the process at once, without waiting."""
        if self._process is not None and self._process.returncode is None:
            _signal(self._process, signal.SIGKILL)

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows."""
        return {
            "name": self.part.name,
            "state": self.state,
            "detail": self.detail,
            "pid": self._process.pid if self._process is not None and self._process.returncode is None else None,
            "port": self.part.port or None,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "started_ms": self._started_ms,
            "health": self.health,
            "log": str(self._home.log_path(self.part.name)),
        }

    def _set(self, state: str, detail: str = "") -> None:
        self.state, self.detail, self.health = state, detail, ""
        self._changed(self.part.name, f"{state}{' ' if detail else ''}{detail}")


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # The whole session: a part that starts helpers must not leave them behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
