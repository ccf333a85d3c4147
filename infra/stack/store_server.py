"""The embedded store: ClickHouse's HTTP interface over chDB, in one process.

    python -m infra.stack.store_server --home .tidegate --port 8123

For development and tests. What it leaves out of a real server (users, roles,
TLS, query_log, progress headers, the native protocol's block info) is refused
with an exception or plainly absent. Neither queries nor data get into its logs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from infra import telemetry
from infra.errors import TidegateError
from infra.metrics import StoreMetrics
from infra.stack.store_answers import NO_SUMMARY, Answer, answer
from infra.stack.store_engine import Engine
from infra.stack.store_errors import QUERY_IS_TOO_LARGE, StoreRefusal
from infra.stack.store_requests import Ask, read_ask
from infra.stack.store_sessions import Sessions

T = TypeVar("T")

LONGEST_BODY = 512 << 20
"""Bytes of a request, packed and unpacked: 16 million events at 32 bytes each."""
THREADS = 24
"""Queries at a time; more wait. A sleeping thread costs next to nothing, a query's memory does."""

HEALTH_S = 5.0
"""An engine that takes longer for `SELECT 1` is stuck, or has no thread left to answer with."""

_CONTENT_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "XML": "application/xml; charset=UTF-8",
    **dict.fromkeys(("Native", "RowBinary", "Arrow", "ArrowStream", "Parquet"), "application/octet-stream"),
}


class StoreServer:
    """The HTTP interface, as an ASGI application."""

    def __init__(self, engine: Engine, metrics: StoreMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._sessions = Sessions(engine)
        self._threads = ThreadPoolExecutor(THREADS, "query")
        self._base_headers = {"X-ClickHouse-Server-Display-Name": "tidegate", "X-ClickHouse-Timezone": engine.timezone}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        request = Request(scope, receive)
        probe = await self._probe(request)
        if probe is not None:
            return await probe(scope, receive, send)
        outcome = "abandoned"
        with self._metrics.running.track_inprogress(), self._metrics.seconds.time():
            try:
                outcome = await self._query(request, scope, receive, send)
            finally:
                self._metrics.queries.labels(outcome).inc()

    async def _probe(self, request: Request) -> Response | None:
        """Answer what is asked about the server itself; None for a query."""
        match request.url.path:
            case "/metrics":
                return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
            case "/healthz":
                return await self._health()
            case _:
                return None

    async def _health(self) -> Response:
        """Healthy while the engine itself answers, not merely this process."""
        try:
            await asyncio.wait_for(self._in_thread(_ask_engine, self._engine), HEALTH_S)
        except (StoreRefusal, TimeoutError):
            return JSONResponse({"stalled": ["engine"]}, 503)
        return JSONResponse({"stalled": []})

    async def _query(self, request: Request, scope: Scope, receive: Receive, send: Send) -> str:
        """Serve one request; return its outcome, for the metrics."""
        try:
            ask = await self._read(request)
            if isinstance(ask, Response):
                await ask(scope, receive, send)
                return "answered"
            begun = await self._run(request, ask)
        except StoreRefusal as refusal:
            await self._refuse(refusal)(scope, receive, send)
            return "refused"
        except ClientDisconnect:
            return "abandoned"
        try:
            await self._show(ask, begun)(scope, receive, send)
        finally:
            # When the client has gone, what it asked for stops before the handle is given back.
            self._threads.submit(self._end, ask, begun)
        return "answered" if begun.done else "abandoned"

    def close(self) -> None:
        """Stop the queries that run, then close every handle."""
        self._engine.cancel_all()
        self._threads.shutdown()
        self._sessions.close()

    async def _read(self, request: Request) -> Ask | Response:
        """Read what is asked; what is no query is answered at once. Raises StoreRefusal."""
        path = request.url.path
        if path in ("/ping", "/replicas_status"):
            return PlainTextResponse("Ok.\n")
        if path not in ("/", "/query"):
            return PlainTextResponse("There is no such page. Queries go to /, health checks to /ping.\n", 404)
        if request.method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("Queries come by GET or POST.\n", 405)
        fields = dict(parse_qsl(request.url.query, keep_blank_values=True))
        body = await _read_body(request)
        if not body and "query" not in fields and request.method != "POST":
            return PlainTextResponse("Ok.\n")
        ask: Ask = await self._in_thread(read_ask, request.method, request.headers, fields, body, LONGEST_BODY)
        return ask

    async def _run(self, request: Request, ask: Ask) -> Answer:
        """Run the query; stop it when the client goes away."""
        work = asyncio.ensure_future(self._in_thread(answer, self._engine, self._sessions, ask))
        gone = asyncio.ensure_future(_disconnected(request))
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            self._engine.cancel(ask.query_id)
        gone.cancel()
        begun: Answer = await work
        return begun

    def _end(self, ask: Ask, begun: Answer) -> None:
        if not begun.done:
            self._engine.cancel(ask.query_id)
        begun.close()

    def _show(self, ask: Ask, begun: Answer) -> Response:
        headers = {
            **self._base_headers,
            "X-ClickHouse-Query-Id": ask.query_id,
            "X-ClickHouse-Summary": json.dumps({**NO_SUMMARY, "total_rows_to_read": "0", **begun.summary}),
            "X-ClickHouse-Exception-Tag": begun.tag,
        }
        if begun.format is not None:
            headers["X-ClickHouse-Format"] = begun.format
        if ask.encoding is not None:
            headers["Content-Encoding"] = ask.encoding
        kind = _CONTENT_TYPES.get(begun.format or "", "text/plain; charset=UTF-8")
        return StreamingResponse(self._send(begun), headers=headers, media_type=kind)

    async def _send(self, begun: Answer) -> AsyncIterator[bytes]:
        while (chunk := await self._in_thread(begun.step)) is not None:
            yield chunk

    def _refuse(self, refusal: StoreRefusal) -> Response:
        text = f"{refusal}" if "(version " in str(refusal) else f"{refusal} (version {self._engine.version})"
        headers = {**self._base_headers, "X-ClickHouse-Exception-Code": str(refusal.code)}
        return PlainTextResponse(text + "\n", refusal.status, headers)

    async def _in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)


def _ask_engine(engine: Engine) -> None:
    handle = engine.open()
    try:
        handle.query("SELECT 1", "Native", {}).close()
    finally:
        handle.close()


async def _read_body(request: Request) -> bytes:
    pieces: list[bytes] = []
    size = 0
    too_large = StoreRefusal(QUERY_IS_TOO_LARGE, f"The request has more than {LONGEST_BODY} bytes")
    if int(request.headers.get("content-length") or 0) > LONGEST_BODY:
        raise too_large
    async for piece in request.stream():
        size += len(piece)
        if size > LONGEST_BODY:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


async def _disconnected(request: Request) -> None:
    # The body has been read, so the next message is that the client has gone.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def serve(home: Path, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Raises TidegateError: port taken, folder in use."""
    listener = _listen(host, port)
    engine = Engine(home / "store")
    server = StoreServer(engine, StoreMetrics())
    # uvicorn raises the signal again once it has stopped: that must not kill us
    # before the engine is closed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        server,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=3,
    )
    address = f"http://{host}:{listener.getsockname()[1]}"
    telemetry.logger("infra.stack.store").info("store listens", address=address, version=engine.version)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        server.close()
        engine.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=256)
    except OSError as error:
        raise TidegateError(
            f"the store cannot listen on {host}:{port} ({error.strerror}). Stop what uses it, or choose another port."
        ) from None


def main() -> int:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="store_server", description="ClickHouse's HTTP interface over chDB.")
    parser.add_argument("--home", type=Path, required=True, help="where state is kept, under store/")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 for a free one; the log says which")
    options = parser.parse_args()
    telemetry.configure("store")
    try:
        serve(options.home, options.host, options.port)
    except TidegateError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
