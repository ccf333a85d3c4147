"""Logs, health and the metrics endpoint of every process.

Logs are JSON lines on stderr and pass `infra.redaction.guard` first, whoever
wrote them: `structlog` in the workers and the stack, the standard library's
`logging` in what producers load too (structlog takes 6 of the 60 MB that a
producer may use; `configure_plain` does without it). Both make the same lines:

    logger("infra.stack").info("part ended", part="broker", exit_code=1)
    logging.getLogger("tidegate.spool").warning("spool is full", extra={"bytes": 1024})

The text of an event is a constant; what varies goes into fields. `%s` arguments
of the standard library's logging are not rendered, for the same reason.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder

from infra.errors import TidegateError
from infra.progress import Progress
from infra.redaction import describe, guard

# Attributes every LogRecord has; what else it carries came through `extra`.
_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# The client libraries explain themselves at length, and their lines can quote a message.
_QUIET = ("aiokafka", "faust", "mode", "httpx", "httpcore", "asyncio", "urllib3", "uvicorn.access")


def configure(component: str, level: str = "info") -> None:
    """Send this process's logs, structlog's and the standard library's, to stderr as guarded JSON lines."""
    configure_plain(component, level)
    _configure_structlog(component, level)


def logger(name: str) -> Any:
    """Return a structlog logger that takes its settings when first used.

    It is guarded even in a process that never called `configure`: there it
    shows warnings only.
    """
    import structlog

    if not structlog.is_configured():
        _configure_structlog("tidegate", "warning")
    return structlog.get_logger(source=name)


def _configure_structlog(component: str, level: str) -> None:
    import structlog

    def finish(_: object, __: str, fields: structlog.typing.EventDict) -> str:
        return _line(component, dict(fields))

    structlog.configure(
        processors=[structlog.stdlib.add_log_level, _unpack, finish],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def configure_plain(component: str, level: str = "info") -> None:
    """Do the same for the standard library's logging alone, without loading structlog."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(component))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class _JsonFormatter(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {k: v for k, v in vars(record).items() if k not in _RECORD_FIELDS}
        # The template without its arguments: the client libraries put values, and errors that quote values, into those.
        event = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        fields |= {"event": event, "level": record.levelname.lower(), "logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= describe(record.exc_info[1])
        return _line(self._component, fields)


def _unpack(_: object, __: str, fields: Any) -> Any:
    fields["logger"] = fields.pop("source", "")  # `logger` itself is a parameter's name in structlog
    error = fields.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        fields.update(describe(error))
    return fields


def _line(component: str, fields: dict[str, Any]) -> str:
    stamp = {"timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"), "component": component}
    return json.dumps(stamp | guard(fields), ensure_ascii=False)


class Server:
    """`/metrics` for Prometheus and `/healthz` by progress, on a thread of its own."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._watched: list[Progress] = []
        try:
            self._http = ThreadingHTTPServer((host, port), self._handler())
        except OSError as error:
            raise TidegateError(
                f"cannot serve metrics on {host}:{port} ({error.strerror}). "
                "Choose another --metrics-port, or 0 for any free one."
            ) from error
        self._http.daemon_threads = True
        self.port: int = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def watch(self, *loops: Progress) -> None:
        """Let `/healthz` depend on these loops too."""
        self._watched.extend(loops)

    def health(self) -> tuple[bool, list[str]]:
        """Say whether every watched loop goes round, and which do not. Watching nothing is not healthy."""
        stalled = [why for why in (loop.stalled() for loop in self._watched) if why]
        return bool(self._watched) and not stalled, stalled or ([] if self._watched else ["no loop is watched yet"])

    def close(self) -> None:
        """Stop serving and free the port."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version = "tidegate", ""

            def do_GET(self) -> None:
                if self.path.startswith("/metrics"):
                    encode, content_type = choose_encoder(self.headers.get("Accept") or "")
                    self._answer(HTTPStatus.OK, content_type, encode(server._registry))
                elif self.path == "/healthz":
                    healthy, stalled = server.health()
                    status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
                    body = json.dumps({"healthy": healthy, "stalled": stalled}).encode() + b"\n"
                    self._answer(status, "application/json", body)
                else:
                    self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics or /healthz\n")

            def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: a line for every scrape helps nobody."""

        return Handler


def serve(port: int, *loops: Progress, host: str = "127.0.0.1", registry: CollectorRegistry = REGISTRY) -> Server:
    """Serve `/metrics` and `/healthz` on `port` (0: any free one, see `Server.port`).

    Raises TidegateError when the port is taken.
    """
    server = Server(host, port, registry)
    server.watch(*loops)
    return server
