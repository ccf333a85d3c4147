"""The embedded Schema Registry: what Confluent's client asks of one, for development.

`python -m infra.stack.registry --home H --port P` serves it on 127.0.0.1 and
keeps its state in `H/registry/state.json`. Bodies, status and error codes are
those of Confluent's REST interface (API reference, version 1). Avro only, no
references, no contexts, no accounts. An incompatible schema is refused with the
name of the field.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.errors import TidegateError
from infra.stack.registry_state import DEFAULT_LEVEL, LEVELS, State, StateFile, Version
from schemas.catalogue import SchemaError
from schemas.compatibility import parse

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
# The largest of our schemas is 21 KB; Confluent's own limit is Kafka's message, 1 MiB.
MAX_BODY = 1 << 20

Handler = Callable[[Request], Awaitable[Response]]


class AnswerError(Exception):
    """Ends a request with an error body. The first three digits of the code are the status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = int(str(code)[:3])


class RegistryService:
    """The requests, over a state file. Every change is on disk before it is answered."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    @property
    def _state(self) -> State:
        return self._file.state

    def routes(self) -> list[Route]:
        """List what is served."""
        subject, version = "/subjects/{subject:str}", "/subjects/{subject:str}/versions/{version:str}"
        compatibility = "/compatibility/subjects/{subject:str}/versions"
        return [
            _route("GET", "/schemas/types", self._types),
            _route("GET", "/schemas/ids/{id:int}", self._schema),
            _route("GET", "/schemas/ids/{id:int}/schema", self._schema_text),
            _route("GET", "/schemas/ids/{id:int}/versions", self._schema_versions),
            _route("GET", "/schemas/ids/{id:int}/subjects", self._schema_subjects),
            _route("GET", "/subjects", self._subjects),
            _route("POST", subject, self._look_up),
            _route("DELETE", subject, self._delete_subject),
            _route("GET", f"{subject}/versions", self._list_versions),
            _route("POST", f"{subject}/versions", self._register),
            _route("GET", version, self._version),
            _route("GET", f"{version}/schema", self._version_text),
            _route("DELETE", version, self._delete_version),
            _route("POST", compatibility, self._compatible),
            _route("POST", f"{compatibility}/{{version:str}}", self._compatible),
            *(_route("GET", path, self._level) for path in ("/config", "/config/{subject:str}")),
            *(_route("PUT", path, self._set_level) for path in ("/config", "/config/{subject:str}")),
            *(_route("DELETE", path, self._reset_level) for path in ("/config", "/config/{subject:str}")),
            *(_route("GET", path, self._mode) for path in ("/mode", "/mode/{subject:str}")),
            _route("GET", "/healthz", self._health),
            _route("GET", "/metrics", self._metrics),
        ]

    async def _types(self, request: Request) -> Response:
        return _json(["AVRO"])

    async def _mode(self, request: Request) -> Response:
        return _json({"mode": "READWRITE"})

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok", "schemas": len(self._state.schemas)})

    async def _metrics(self, request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def _schema(self, request: Request) -> Response:
        return _json({"schema": self._text(request)})

    async def _schema_text(self, request: Request) -> Response:
        return Response(self._text(request), media_type=MEDIA_TYPE)

    async def _schema_versions(self, request: Request) -> Response:
        return _json([{"subject": name, "version": version.version} for name, version in self._users(request)])

    async def _schema_subjects(self, request: Request) -> Response:
        return _json(sorted({name for name, _ in self._users(request)}))

    async def _subjects(self, request: Request) -> Response:
        prefix = request.query_params.get("subjectPrefix", "")
        deleted = _flag(request, "deleted")
        return _json(
            sorted(n for n in self._state.subjects if n.startswith(prefix) and self._state.versions(n, deleted=deleted))
        )

    async def _look_up(self, request: Request) -> Response:
        subject, raw, deleted = request.path_params["subject"], await _schema_of(request), _flag(request, "deleted")
        self._versions_of(subject, deleted=deleted)
        found = self._state.find(subject, raw, deleted=deleted)
        if found is None:
            raise AnswerError(40403, "Schema not found")
        return self._described(subject, found)

    async def _register(self, request: Request) -> Response:
        subject, raw = request.path_params["subject"], await _schema_of(request)
        found = self._state.find(subject, raw)
        if found is None:
            objections = self._state.objections(subject, raw, self._state.versions(subject))
            if objections:
                raise AnswerError(
                    409,
                    f"Schema being registered is incompatible with an earlier schema for subject {subject!r} "
                    f"({self._state.level(subject)}): {'; '.join(objections)}",
                )
            state, found = self._state.registered(subject, raw)
            self._file.write(state)
        return _json({"id": found.schema_id, "version": found.version})

    async def _list_versions(self, request: Request) -> Response:
        versions = self._versions_of(request.path_params["subject"], deleted=_flag(request, "deleted"))
        return _json([version.version for version in versions])

    async def _version(self, request: Request) -> Response:
        return self._described(request.path_params["subject"], self._version_of(request))

    async def _version_text(self, request: Request) -> Response:
        return Response(self._state.schemas[self._version_of(request).schema_id], media_type=MEDIA_TYPE)

    async def _delete_subject(self, request: Request) -> Response:
        subject, permanent = request.path_params["subject"], _flag(request, "permanent")
        versions = self._versions_of(subject, deleted=permanent)
        if permanent and self._state.versions(subject):
            raise AnswerError(40405, f"Subject '{subject}' was not deleted first before being permanently deleted")
        self._file.write(self._state.without(subject, versions, permanent=permanent).with_level(subject, None))
        return _json([version.version for version in versions])

    async def _delete_version(self, request: Request) -> Response:
        subject, permanent = request.path_params["subject"], _flag(request, "permanent")
        found = self._version_of(request, deleted=permanent)
        if permanent and not found.deleted:
            raise AnswerError(
                40407,
                f"Subject '{subject}' Version {found.version} was not deleted first before being permanently deleted",
            )
        self._file.write(self._state.without(subject, (found,), permanent=permanent))
        return _json(found.version)

    async def _compatible(self, request: Request) -> Response:
        subject, raw = request.path_params["subject"], await _schema_of(request)
        one = "version" in request.path_params
        against = (self._version_of(request),) if one else self._state.versions(subject)
        objections = self._state.objections(subject, raw, against, transitive=not one)
        answer: dict[str, Any] = {"is_compatible": not objections}
        if _flag(request, "verbose"):
            answer["messages"] = objections
        return _json(answer)

    async def _level(self, request: Request) -> Response:
        subject = request.path_params.get("subject", "")
        if subject and subject not in self._state.levels and not _flag(request, "defaultToGlobal"):
            raise AnswerError(40408, f"Subject '{subject}' does not have subject-level compatibility configured")
        return _json({"compatibilityLevel": self._state.level(subject)})

    async def _set_level(self, request: Request) -> Response:
        level = str((await _body_of(request)).get("compatibility", "")).upper()
        if level not in LEVELS:
            raise AnswerError(42203, f"Invalid compatibility level. Valid values are {', '.join(LEVELS)}")
        subject = request.path_params.get("subject", "")
        if self._state.levels.get(subject) != level:
            self._file.write(self._state.with_level(subject, level))
        return _json({"compatibility": level})

    async def _reset_level(self, request: Request) -> Response:
        subject = request.path_params.get("subject", "")
        before = self._state.levels.get(subject, DEFAULT_LEVEL)
        self._file.write(self._state.with_level(subject, None))
        return _json({"compatibilityLevel": before})

    def _text(self, request: Request) -> str:
        text = self._state.schemas.get(request.path_params["id"])
        if text is None:
            raise AnswerError(40403, "Schema not found")
        return text

    def _users(self, request: Request) -> list[tuple[str, Version]]:
        """List the versions that have a schema, by subject."""
        self._text(request)
        wanted, deleted = request.path_params["id"], _flag(request, "deleted")
        every = ((n, v) for n in sorted(self._state.subjects) for v in self._state.versions(n, deleted=deleted))
        return [(name, version) for name, version in every if version.schema_id == wanted]

    def _versions_of(self, subject: str, *, deleted: bool) -> tuple[Version, ...]:
        versions = self._state.versions(subject, deleted=deleted)
        if not versions:
            raise AnswerError(40401, f"Subject '{subject}' not found.")
        return versions

    def _version_of(self, request: Request, *, deleted: bool = False) -> Version:
        wanted = request.path_params["version"]
        if wanted not in ("-1", "latest") and not re.fullmatch(r"[1-9][0-9]{0,8}", wanted):
            raise AnswerError(
                42202, f"The specified version '{wanted}' is not a valid version id. "
                'Allowed values are between [1, 2^31-1] and the string "latest"'
            )  # fmt: skip
        versions = self._versions_of(request.path_params["subject"], deleted=deleted or _flag(request, "deleted"))
        if wanted in ("-1", "latest"):
            return versions[-1]
        for version in versions:
            if version.version == int(wanted):
                return version
        raise AnswerError(40402, f"Version {wanted} not found.")

    def _described(self, subject: str, version: Version) -> Response:
        text = self._state.schemas[version.schema_id]
        return _json({"subject": subject, "version": version.version, "id": version.schema_id, "schema": text})


def application(state_file: StateFile) -> Starlette:
    """Make the ASGI application."""
    return Starlette(
        routes=RegistryService(state_file).routes(),
        exception_handlers={AnswerError: _refused, HTTPException: _unknown, OSError: _unwritten},  # type: ignore[dict-item]  # each is called with its own exception only
    )


async def _refused(request: Request, error: AnswerError) -> Response:
    return _json({"error_code": error.code, "message": str(error)}, error.status)


async def _unknown(request: Request, error: HTTPException) -> Response:
    return _json(
        {"error_code": error.status_code, "message": f"HTTP {error.status_code} {error.detail}"}, error.status_code
    )


async def _unwritten(request: Request, error: OSError) -> Response:
    # The state is as it was; the client tries again or gives up, as it likes.
    return _json({"error_code": 50001, "message": f"Error in the backend data store: {error.strerror}"}, 500)


def _route(method: str, path: str, handler: Handler) -> Route:
    return Route(path, handler, methods=[method])


def _json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content), status, media_type=MEDIA_TYPE)


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


async def _body_of(request: Request) -> dict[str, Any]:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY:
            raise AnswerError(413, f"the request is larger than {MAX_BODY} bytes")
    try:
        body = json.loads(received)
    except (JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AnswerError(400, "the request is not JSON") from error
    if not isinstance(body, dict):
        raise AnswerError(400, "the request is not a JSON object")
    return body


async def _schema_of(request: Request) -> str:
    """Return the schema sent, found to be Avro."""
    body = await _body_of(request)
    raw = body.get("schema")
    if body.get("schemaType", "AVRO") not in ("AVRO", None) or body.get("references") or not isinstance(raw, str):
        raise AnswerError(42201, "Invalid schema: this registry takes Avro without references, as a string in `schema`")
    try:
        # A bare name such as `string` is a schema to Confluent; as JSON it needs its quotes.
        raw = raw if raw.lstrip()[:1] in ("{", "[", '"') else json.dumps(raw)
        parse(raw)
    except SchemaError as error:
        raise AnswerError(42201, f"Invalid schema: {error}") from error
    return raw


def main() -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack.registry", description="The embedded Schema Registry.")
    parser.add_argument("--home", type=Path, required=True, help="the stack's folder; the state goes to HOME/registry")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1; 0 takes a free one and prints it")
    arguments = parser.parse_args()
    try:
        return serve(arguments.home, arguments.port)
    except TidegateError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code


def serve(home: Path, port: int) -> int:
    """Open the state and the port, then serve. Raises TidegateError when either cannot be had."""
    folder = home / "registry"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise TidegateError(
            f"the registry cannot use {folder} and port {port} ({error.strerror}): free them, or choose others."
        ) from error
    service = application(StateFile(folder / "state.json"))
    print(f"registry on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    server = uvicorn.Server(uvicorn.Config(service, log_level="warning", access_log=False, timeout_graceful_shutdown=2))
    server.run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
