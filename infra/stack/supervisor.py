"""Brings the parts up, keeps them up, takes them down.

One asyncio process. The embedded broker keeps its log in memory, so its death
ends a *life of the log*: the supervisor then stops what holds offsets of it,
gives the log a new name, and starts broker, topics, authority and workers again.
The other parts are restarted one by one, with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from infra.addresses import Addresses
from infra.errors import TidegateError
from infra.metrics import SupervisorMetrics
from infra.progress import Progress
from infra.stack.home import Home, disk_full
from infra.stack.parts import Layout, Part
from infra.stack.process import PartError, Process

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a part is started again: 0.5, 1, 2, … 30."""
STEADY_SECONDS = 60.0
"""A part that ran for so long starts again with the shortest pause."""
BEAT_SECONDS = 1.0
HEALTH_SECONDS = 2.0
NEW_LOG = (
    "the broker ended and was started again at {at} UTC with an empty log: "
    "apply the policy and the consents again. Until then every event is refused."
)


class Backoff:
    """The pause before a part is started again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause = FIRST_PAUSE
        self._since = clock()

    def began(self) -> None:
        """Say that the part runs now."""
        self._since = self._clock()

    def next(self) -> float:
        """Return the seconds to wait, twice as many each time until the part has run steadily."""
        if self._clock() - self._since >= STEADY_SECONDS:
            self._pause = FIRST_PAUSE
        pause = self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._since = self._clock()
        return pause


class Supervisor:
    """One stack's parts. `tell(part, what)` is called for every change, for whoever watches."""

    def __init__(
        self,
        home: Home,
        layout: Layout,
        addresses: Addresses,
        env: Mapping[str, str],
        metrics: SupervisorMetrics,
        tell: Callable[[str, str], None],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """`addresses` are where the parts will be; `about` goes into stack.json as it is."""
        self._home, self._layout, self._addresses, self._tell = home, layout, addresses, tell
        self._metrics = metrics
        self._about = dict(about or {})
        self._state, self._error, self._failed_part = "starting", "", ""
        self._notes: list[str] = list(self._about.pop("notes", []))
        self._new_log_note = ""
        self._log = addresses.log
        self.progress = Progress("supervisor", 5 * BEAT_SECONDS)
        self._processes = {part.name: Process(part, home, env, self._changed) for part in layout.all()}
        self._main: asyncio.Task[None] | None = None
        self._stopping = False
        self._written = True
        """Whether stack.json says what is so."""

    def snapshot(self) -> dict[str, Any]:
        """Return what stack.json holds: addresses, then the parts."""
        at = self._addresses
        return {
            "kafka": at.kafka,
            "registry": at.registry,
            "store": at.store,
            "database": at.database,
            "log": self._log,
            "state": self._state,
            "error": self._error,
            "failed_part": self._failed_part,
            "notes": self._notes,
            **self._about,
            "parts": [process.describe() for process in self._processes.values()],
        }

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Bring everything up, call `ready`, keep it up until asked to stop, take everything down.

        Raises TidegateError, with the part's last log lines, when it does not come up.
        """
        self._main = asyncio.ensure_future(self._up_and_keep(ready))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        try:
            await self._main
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        except PartError as error:
            self._error, self._failed_part = str(error), error.part
            raise self._explained(error) from error
        finally:
            self._state = "stopping"
            await self._take_down()

    def stop(self) -> None:
        """Stop in order; a second time, at once."""
        if self._stopping:
            for process in self._processes.values():
                process.kill()
        self._stopping = True
        if self._main is not None:
            self._main.cancel()

    # Up

    async def _up_and_keep(self, ready: Callable[[], None]) -> None:
        await self._bring_up()
        self._state = "ready"
        self._publish()
        ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat())
            group.create_task(self._watch_health())
            for part in self._layout.services:
                group.create_task(self._keep(self._processes[part.name]))
            group.create_task(self._keep_the_log())

    async def _bring_up(self) -> None:
        layout = self._layout
        await self._start_all([*([layout.broker] if layout.broker else []), *layout.services])
        if layout.broker:
            self._new_log()
        await self._start_all([layout.migrations, layout.topics])
        for group in layout.dependents:
            await self._start_all(group)

    async def _start_all(self, parts: Sequence[Part]) -> None:
        """Start some parts side by side; when one fails, the others are not waited for."""
        failed: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(self._processes[part.name].start())
        except* PartError as errors:
            failed.extend(errors.exceptions)
        # Not within `except*`: Python before 3.11.4, Debian's among them, wraps it in a group again.
        if failed:
            raise failed[0]

    def _explained(self, error: PartError) -> TidegateError:
        tail = "\n".join(f"  {line}" for line in self._home.log_tail(error.part))
        return TidegateError(f"{error}. The end of {self._home.log_path(error.part)}:\n{tail or '  (it is empty)'}")

    # Keeping

    async def _keep(self, process: Process) -> NoReturn:
        """Start a part again whenever it ends."""
        backoff = Backoff()
        while True:
            await process.ended()
            self._metrics.restarts.labels(process.part.name).inc()
            with contextlib.suppress(PartError):  # shown as the part's state; tried again after a longer pause
                await process.restart_after(backoff.next())
                backoff.began()

    async def _keep_the_log(self) -> NoReturn:
        """Go from one life of the broker's log to the next."""
        backoff = Backoff()
        while True:
            await self._one_life()
            recovered = False
            while not recovered:
                recovered = await self._recover(backoff)

    async def _one_life(self) -> None:
        """Keep what depends on the log for as long as the broker lives; for ever where it is not ours."""
        keepers = [asyncio.ensure_future(self._keep(self._processes[part.name])) for part in self._dependents()]
        try:
            if self._layout.broker is None:
                await asyncio.Event().wait()
            else:
                await self._processes["broker"].ended()
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    async def _recover(self, backoff: Backoff) -> bool:
        """Try once to begin a new life of the log; say whether it worked."""
        broker = self._processes["broker"]
        self._state = "recovering"
        self._metrics.restarts.labels("broker").inc()
        # Their offsets mean nothing in the next life, and they cannot commit to a broker that is gone.
        stale = [*self._dependents(), self._layout.topics]
        await asyncio.gather(*(self._processes[part.name].stop(2.0) for part in stale))
        await broker.stop()
        try:
            await broker.restart_after(backoff.next())
            self._new_log()
            await self._start_all([self._layout.topics])
            for group in self._layout.dependents:
                await self._start_all(group)
        except PartError:
            return False
        backoff.began()
        self._state = "ready"
        note = NEW_LOG.format(at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"))
        self._notes = [*(known for known in self._notes if known != self._new_log_note), note]
        self._new_log_note = note
        self._tell("broker", note)
        self._publish()
        return True

    def _dependents(self) -> list[Part]:
        return [part for group in self._layout.dependents for part in group]

    async def _beat(self) -> NoReturn:
        while True:
            self.progress.beat()
            if not self._written:
                self._publish()
            await asyncio.sleep(BEAT_SECONDS)

    async def _watch_health(self) -> NoReturn:
        while True:
            await asyncio.gather(*(process.check() for process in self._processes.values()))
            await asyncio.sleep(HEALTH_SECONDS)

    # Down

    async def _take_down(self) -> None:
        """Stop the parts in the opposite order: who reads the log before the broker, who stores before the store."""
        self._publish()
        layout = self._layout
        groups = [*reversed(layout.dependents), (layout.migrations, layout.topics), layout.services]
        groups.append((layout.broker,) if layout.broker else ())
        for group in groups:
            await asyncio.gather(*(self._processes[part.name].stop() for part in group))
        self._state = "failed" if self._error else "stopped"
        self._publish()

    # Telling

    def _new_log(self) -> None:
        # The first half sorts by time, for the reader's eye; the second makes it unique.
        self._log = f"{time.time_ns() // 1_000_000_000:x}-{secrets.token_hex(4)}"
        self._publish()

    def _changed(self, part: str, what: str) -> None:
        self._metrics.up.labels(part).set(self._processes[part].state in ("ready", "done"))
        self._publish()
        self._tell(part, what)

    def _publish(self) -> None:
        try:
            self._home.write_state(self.snapshot())
        except OSError as error:
            # The parts run on; `_beat` writes the state when there is room again.
            if self._written:
                why = "the disk is full" if disk_full(error) else error.strerror
                self._tell("supervisor", f"stack.json cannot be written: {why}")
            self._written = False
        else:
            self._written = True
