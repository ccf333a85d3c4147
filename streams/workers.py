"""What `tidegate stream minimise` and `tidegate stream window` run: the parts of each worker, put together."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from infra import telemetry
from infra.addresses import Addresses
from infra.control.keeper import GateKeeper, Role
from infra.control.state import Mode
from infra.control.teams import load_teams
from infra.errors import TidegateError
from infra.metrics import MinimiserMetrics, WindowerMetrics
from infra.store import Store
from infra.topics import DEAD_LETTER, MINIMIZED, RAW
from schemas.registry import Registry
from streams.agents_minimise import Minimiser, keep_standing
from streams.agents_window import Windower
from streams.app import Body, OnceAMinute, Parts, Worker, until_signalled
from streams.codecs import Codecs, Framer
from streams.pipeline_minimise import MinimisePipeline
from streams.settings import WorkerSettings, read_pseudonym_key
from streams.standing import Translator

REGISTRY_SECONDS = 1.0
"""The registry's client asks again for so long; from there on the worker's own patience says that it is away."""
PSEUDONYM_KEY = "keys/pseudonym.key"
_GATES: Mapping[str, tuple[Role, Mode]] = {"minimise": ("minimiser", "consent"), "window": ("windower", "standing")}


def run_minimiser(metrics_port: int) -> None:
    """Run the minimiser until SIGTERM. Raises TidegateError."""

    def prepare(addresses: Addresses, settings: WorkerSettings) -> Body:
        key = read_pseudonym_key(settings.pseudonym_key or addresses.home / PSEUDONYM_KEY)
        registry = Registry(addresses.need("registry"), deadline_s=REGISTRY_SECONDS)
        store = Store(addresses, deadline_s=0)

        async def body(worker: Worker) -> Parts:
            minimiser = Minimiser(
                log=addresses.log,
                pipeline=MinimisePipeline(
                    f"{socket.gethostname()}-{os.getpid()}",
                    key,
                    Codecs(registry, RAW),
                    tick_after_ms=settings.tick_after_ms,
                ),
                gate=worker.gate,
                store=store,
                send=worker.send,
                blocks=await _framer(worker, registry, MINIMIZED),
                dead_letters=await _framer(worker, registry, DEAD_LETTER),
                metrics=MinimiserMetrics(),
                patience=worker.patience,
                tick_after_ms=settings.tick_after_ms,
                lock=asyncio.Lock(),
            )
            others: list[Coroutine[Any, Any, None]] = [
                keep_standing(worker.gate, Translator(key), worker.send, worker.patience().broker)
            ]
            return minimiser.partition, others

        return body

    _run("minimise", RAW, metrics_port, prepare)


def run_windower(metrics_port: int) -> None:
    """Run the windower until SIGTERM. Raises TidegateError."""

    def prepare(addresses: Addresses, settings: WorkerSettings) -> Body:
        registry = Registry(addresses.need("registry"), deadline_s=REGISTRY_SECONDS)
        store = Store(addresses, deadline_s=0)

        async def body(worker: Worker) -> Parts:
            windower = Windower(
                log=addresses.log,
                codec_for=Codecs(registry, MINIMIZED),
                gate=worker.gate,
                store=store,
                send=worker.send,
                dead_letters=await _framer(worker, registry, DEAD_LETTER),
                metrics=WindowerMetrics(),
                patience=worker.patience,
                fault=settings.fault,
            )
            return windower.partition, [windower.settle(worker.patience().store)]

        return body

    _run("window", MINIMIZED, metrics_port, prepare)


async def _framer(worker: Worker, registry: Registry, topic: str) -> Framer:
    return await worker.patience().registry.do(lambda: asyncio.to_thread(Framer, registry, topic))


def _run(role: str, topic: str, metrics_port: int, prepare: Callable[[Addresses, WorkerSettings], Body]) -> None:
    """Run one worker until it is asked to stop, then end the process."""
    telemetry.configure(role)
    _quieten()
    settings, addresses = WorkerSettings.from_environment(), Addresses.load()
    for part in ("kafka", "registry", "store"):
        addresses.need(part)
    body = prepare(addresses, settings)
    teams = load_teams(addresses.home) if role == "minimise" else {}
    log = telemetry.logger("streams")

    async def work() -> None:
        with GateKeeper(addresses, *_GATES[role], teams=teams) as gate:
            worker = Worker(role, topic, addresses, settings, gate)
            server = telemetry.serve(metrics_port, worker.progress)
            log.info("worker starts", role=role, port=server.port, pid=os.getpid())
            await worker.run(body)

    try:
        asyncio.run(until_signalled(work()))
    except TidegateError as error:
        log.error("worker ends", role=role, error=str(error))  # noqa: TRY400 - meant for a person: no traceback
        _end(error.code)
    except Exception:
        # A bug, or Faust's: the log is told which error and where, never its text.
        log.exception("worker ends", role=role)
        _end(1)
    log.info("worker ends", role=role)
    _end(0)


def _end(code: int) -> None:
    """End the process now: a call to a store that hangs in its thread must not hold the shutdown up."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _quieten() -> None:
    import logging

    # Faust's services log under the names of the modules that subclass them.
    for name in ("streams.app", "streams.agents_fetch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    once = OnceAMinute()
    for handler in logging.getLogger().handlers:
        handler.addFilter(once)
