"""Try again for ever, and say so once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import NamedTuple, TypeVar

from infra.errors import TidegateError
from infra.telemetry import logger

T = TypeVar("T")

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 5.0
"""A service that comes back is noticed within 5 s, and 5 s costs it nothing."""


class Outage:
    """Whether one service is away: told once when it goes and once when it is back, however many tasks wait for it."""

    def __init__(self, service: str, address: str) -> None:
        self._service = service
        self._address = address
        self._log = logger("streams")
        self._since: float | None = None
        self._worked_at = float("-inf")

    def failed(self, error: Exception, began: float) -> None:
        """Note that an attempt begun at `began` (monotonic) failed; an outage's first is logged with the address."""
        # While a service comes back, one task's attempt may hang and fail after another's has worked.
        if self._since is not None or began < self._worked_at:
            return
        self._since = monotonic()
        self._log.warning(
            f"{self._service} is away, trying again until it is back",
            address=self._address,
            error_type=type(error).__name__,
            # Of the errors that we make ourselves the text is known to hold no personal data.
            error=str(error) if isinstance(error, TidegateError) else "",
        )

    def worked(self) -> None:
        """Note a success; the first after an outage is logged with how long it took."""
        self._worked_at = monotonic()
        if self._since is not None:
            self._log.info(
                f"{self._service} is back", address=self._address, seconds=round(monotonic() - self._since, 1)
            )
            self._since = None


class Patience:
    """Waits for one service, as long as it takes.

    Health goes on while it waits: a worker that waits for its store is not
    stuck, and restarting it would not help.
    """

    def __init__(
        self, outage: Outage, away: Callable[[Exception], bool], *, beat: Callable[[], None] = lambda: None
    ) -> None:
        """`away` tells the errors that mean: not now. Any other passes through. `beat` is called as it waits."""
        self._outage = outage
        self._away = away
        self._beat = beat

    async def do(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what `attempt` returns, as soon as it does. Cancelling is the only way out before."""
        wait = FIRST_SECONDS
        while True:
            began = monotonic()
            try:
                result = await attempt()
            except Exception as error:
                if not self._away(error):
                    raise
                self._outage.failed(error, began)
            else:
                self._outage.worked()
                return result
            self._beat()
            # Half of the wait is random, so that workers do not return in step.
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, keeps no secret
            wait = min(wait * 2, LONGEST_SECONDS)


class Services(NamedTuple):
    """A patience for each service that a worker needs, all with one beat."""

    broker: Patience
    registry: Patience
    store: Patience
