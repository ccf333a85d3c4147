"""The parts of a stack as data: what is run, how one knows that it is ready, in which order."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.addresses import Addresses
from infra.errors import TidegateError
from infra.stack import broker
from infra.stack.home import Home

ROLES = {"minimise": "minimiser", "window": "windower"}
"""Workers by the name of their command."""
MOST_WORKERS = 32
ANSWER_SECONDS = 2.0
NO_ANSWER = "does not answer"
# Always ours on the loopback interface, so no proxy that the environment names may stand between.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the stack."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], Awaitable[bool]] | None = None
    """Asks the process, by its own protocol, whether it serves. None: a step, which is done when it ends with 0."""
    port: int = 0
    health: str = ""
    """URL that tells its health by progress; empty where `ready` says it all."""
    env: Mapping[str, str] = field(default_factory=dict)
    ready_seconds: float = 60.0
    stop_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What one stack consists of, in the order of starting."""

    broker: Part | None
    """None where TIDEGATE_KAFKA points elsewhere."""
    services: tuple[Part, ...]
    """Store and registry, as far as they are ours; they keep their state over a broker's death."""
    migrations: Part
    topics: Part
    dependents: tuple[tuple[Part, ...], ...]
    """What holds offsets of the log and is started again with the broker: the authority, then the workers."""

    def all(self) -> tuple[Part, ...]:
        """Every part, in the order of starting."""
        first = (self.broker,) if self.broker else ()
        return (*first, *self.services, self.migrations, self.topics, *(p for group in self.dependents for p in group))


def parse_workers(text: str) -> dict[str, int]:
    """Read `minimise=2,window=1`. Raises TidegateError for what is not of that form."""
    wanted = dict.fromkeys(ROLES, 0)
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, _, count = item.partition("=")
        if name not in wanted or not re.fullmatch("[0-9]{1,2}", count) or int(count) > MOST_WORKERS:
            raise TidegateError(
                f"--workers does not understand `{item}`: say how many of each, up to {MOST_WORKERS}, "
                "as in `minimise=2,window=1`.",
                code=2,
            )
        wanted[name] = int(count)
    return wanted


def port_names(addresses: Addresses, workers: Mapping[str, int]) -> list[str]:
    """Name the parts that listen on a port of ours."""
    own = {"broker": addresses.kafka, "store": addresses.store, "registry": addresses.registry}
    named = [f"{kind}-{n + 1}" for kind, count in workers.items() for n in range(count)]
    return [*(name for name, elsewhere in own.items() if not elsewhere), "authority", "supervisor", *named]


def lay_out(home: Home, external: Addresses, ports: Mapping[str, int], workers: Mapping[str, int], key: Path) -> Layout:
    """Build the parts; what `external` names is run by somebody else, and `key` is for the minimiser alone."""
    at = ["--home", str(home.root)]
    services = []
    if not external.store:
        port = ports["store"]
        run = _python("infra.stack.store_server", *at, "--port", str(port))
        at_port = f"http://127.0.0.1:{port}"
        services.append(Part("store", run, _http(f"{at_port}/ping"), port, f"{at_port}/healthz", stop_seconds=20.0))
    if not external.registry:
        port = ports["registry"]
        run = _python("infra.stack.registry", *at, "--port", str(port))
        services.append(Part("registry", run, _http(f"http://127.0.0.1:{port}/subjects"), port))
    own_broker = None
    if not external.kafka:
        port = ports["broker"]
        ready = functools.partial(broker.answers, port)
        own_broker = Part("broker", broker.command(home.root, port), ready, port, ready_seconds=20.0)
    authority = _with_health(
        "authority", _python("infra.control.authority", *at), ports["authority"], {}, ready_seconds=30.0
    )
    return Layout(
        broker=own_broker,
        services=tuple(services),
        migrations=Part("migrations", _python("tidegate", "store", "migrate")),
        topics=Part("topics", _python("tidegate", "topics", "apply")),
        # All at once: a worker waits for a fresh gate by itself, and starting Python is most of the time.
        dependents=((authority, *_workers(key, ports, workers)),),
    )


def _workers(key: Path, ports: Mapping[str, int], workers: Mapping[str, int]) -> tuple[Part, ...]:
    made = []
    for kind, count in workers.items():
        # Nobody but the minimiser is told where the key is.
        env = {"TIDEGATE_PSEUDONYM_KEY": str(key)} if kind == "minimise" else {}
        for number in range(1, count + 1):
            name = f"{kind}-{number}"
            made.append(_with_health(name, _python("tidegate", "stream", kind), ports[name], env, ready_seconds=60.0))
    return tuple(made)


def _with_health(name: str, command: tuple[str, ...], port: int, env: Mapping[str, str], ready_seconds: float) -> Part:
    health = f"http://127.0.0.1:{port}/healthz"
    run = (*command, "--metrics-port", str(port))
    return Part(name, run, _http(health), port, health, env, ready_seconds, stop_seconds=15.0)


def _python(module: str, *words: str) -> tuple[str, ...]:
    # -P: whatever lies in the folder it is started in is not imported.
    return (sys.executable, "-P", "-m", module, *words)


def _http(url: str) -> Callable[[], Awaitable[bool]]:
    return functools.partial(asyncio.to_thread, answers, url)


def answers(url: str) -> bool:
    """Say whether a GET succeeds. Raises OSError when nothing answers, or not with success."""
    with _OPENER.open(url, timeout=ANSWER_SECONDS) as answer:
        return bool(answer.status == 200)


def stalled(url: str) -> str:
    """Ask a part's `/healthz`; return "" when it is well, else what it says of itself."""
    try:
        answers(url)
    except urllib.error.HTTPError as error:
        try:
            return "; ".join(json.loads(error.read())["stalled"]) or f"HTTP {error.code}"
        except (OSError, ValueError, KeyError, TypeError):
            return f"HTTP {error.code}"
    except OSError:
        return NO_ANSWER
    return ""


async def health(part: Part) -> str:
    """Return "" when a part that runs is well, else what is wrong."""
    if part.health:
        return await asyncio.to_thread(stalled, part.health)
    if part.ready is None:
        return ""
    try:
        return "" if await asyncio.wait_for(part.ready(), ANSWER_SECONDS) else NO_ANSWER
    except (OSError, EOFError, TimeoutError):
        return NO_ANSWER
