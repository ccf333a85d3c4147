"""Small real processes that stand in for the parts of a stack."""

import asyncio
import functools
import sys

import pytest
from prometheus_client import CollectorRegistry

from infra.addresses import Addresses
from infra.metrics import SupervisorMetrics
from infra.stack import parts
from infra.stack.home import Home
from infra.stack.parts import Layout, Part
from infra.stack.supervisor import Supervisor

# Serves HTTP at once; `deaf` ignores the polite request to end.
SERVE = """
import http.server, signal, sys
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class StandIns:
    """Makes parts, layouts and supervisors of one home."""

    def __init__(self, root):
        self.home = Home(root)
        self.home.prepare(0)
        self.told = []

    def serve(self, name, *words, port=0, **values):
        port = port or self.home.choose_ports([name])[0][name]
        url = f"http://127.0.0.1:{port}/"
        run = (sys.executable, "-S", "-c", SERVE, str(port), *words)
        return Part(name, run, functools.partial(asyncio.to_thread, parts.answers, url), port, **values)

    def step(self, name, code="pass", **values):
        return Part(name, (sys.executable, "-S", "-c", code), **values)

    def layout(self, **changes):
        whole = {
            "broker": self.serve("broker"),
            "services": (self.serve("store"),),
            "migrations": self.step("migrations"),
            "topics": self.step("topics", "print('applied')"),
            "dependents": ((self.serve("authority"),), (self.serve("minimise-1"),)),
        }
        return Layout(**(whole | changes))

    def supervisor(self, layout, **values):
        addresses = Addresses(self.home.root, kafka="k:1", registry="http://r", store="http://s")
        return Supervisor(
            self.home, layout, addresses, {"PATH": ""}, SupervisorMetrics(CollectorRegistry()),
            lambda part, what: self.told.append((part, what)), **values,
        )  # fmt: skip

    def run(self, supervisor, *scripts):
        """Run the supervisor; once it is ready run each script, then stop it."""

        async def main():
            ready = asyncio.Event()
            running = asyncio.ensure_future(supervisor.run(ready.set))
            waiting = asyncio.ensure_future(ready.wait())
            await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
            if ready.is_set():
                try:
                    for script in scripts:
                        await asyncio.wait_for(script(), 20)
                finally:
                    supervisor.stop()
            waiting.cancel()
            await running

        asyncio.run(main())

    def part(self, supervisor, name):
        return next(part for part in supervisor.snapshot()["parts"] if part["name"] == name)

    async def until(self, condition, what):
        """Await a condition; the caller's deadline ends it."""
        while not condition():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.02)


@pytest.fixture
def stand_ins(tmp_path):
    return StandIns(tmp_path / "home")
