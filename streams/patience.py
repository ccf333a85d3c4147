"""Try again for ever, and say so once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from infra.errors import TidegateError
from infra.telemetry import logger
from schemas.registry import RegistryError

T = TypeVar("T")

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 5.0
"""A service that comes back is noticed within 5 s, and 5 s costs it nothing."""


class Patience:
    """Waits for one service, as long as it takes.

    The first failure is logged with the service's address, the recovery is
    logged with how long it took, and nothing in between. Health goes on while
    it waits: a worker that waits for its store is not stuck, and restarting it
    would not help.
    """

    def __init__(
        self,
        service: str,
        address: str,
        away: Callable[[Exception], bool],
        *,
        beat: Callable[[], None] = lambda: None,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        """`away` tells the errors that mean: not now. Any other passes through."""
        self._service = service
        self._address = address
        self._away = away
        self._beat = beat
        self._on_retry = on_retry
        self._log = logger("streams")
        self._since: float | None = None

    async def do(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what `attempt` returns, as soon as it does. Cancelling is the only way out before."""
        wait = FIRST_SECONDS
        while True:
            try:
                result = await attempt()
            except Exception as error:
                if not self._away(error):
                    raise
                self._failed(error)
            else:
                self._worked()
                return result
            # Half of the wait is random, so that workers do not return in step.
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, keeps no secret
            wait = min(wait * 2, LONGEST_SECONDS)

    def _failed(self, error: Exception) -> None:
        self._on_retry()
        self._beat()
        if self._since is None:
            self._since = asyncio.get_running_loop().time()
            self._log.warning(
                f"{self._service} does not answer, trying again until it does",
                address=self._address,
                error_type=type(error).__name__,
                # Of the errors that we make ourselves the text is known to hold no personal data.
                error=str(error) if isinstance(error, (TidegateError, RegistryError)) else "",
            )

    def _worked(self) -> None:
        if self._since is not None:
            seconds = round(asyncio.get_running_loop().time() - self._since, 1)
            self._log.info(f"{self._service} answers again", address=self._address, seconds=seconds)
            self._since = None
