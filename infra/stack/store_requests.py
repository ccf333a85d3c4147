"""From an HTTP request to what the store is asked: text, parameters, settings, session."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP

from infra.stack import store_coding
from infra.stack.store_errors import AUTHENTICATION_FAILED, BAD_ARGUMENTS, UNKNOWN_ROLE, StoreRefusal

USER = "default"

# What the HTTP interface keeps for itself; every other parameter is a setting.
_RESERVED_NAMES = """
    query database default_format session_id session_timeout session_check close_session query_id user password
    quota_key role compress decompress buffer_size wait_end_of_query client_protocol_version stacktrace
    send_progress_in_http_headers http_headers_progress_interval_ms cancel_http_readonly_queries_on_client_close
"""
_RESERVED = frozenset(_RESERVED_NAMES.split())
_PARAM = "param_"
_EXTERNAL = ("_format", "_types", "_structure")


@dataclass(frozen=True, slots=True)
class External:
    """A table that comes with the request."""

    name: str
    structure: str
    format: str
    data: bytes


@dataclass(frozen=True, slots=True)
class SessionAsk:
    """Which session to run in."""

    id: str
    timeout_s: float
    must_exist: bool
    end: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks of the store."""

    text: bytes
    params: Mapping[str, str]
    settings: Mapping[str, str]
    database: str
    default_format: str
    query_id: str
    session: SessionAsk | None
    reading_only: bool
    """GET may read only."""
    externals: tuple[External, ...]
    whole: bool
    """The answer is wanted only once the query has ended."""
    encoding: str | None
    """Content-Encoding of the answer."""
    blocks: bool
    """The answer goes into ClickHouse's compressed blocks."""


def read_ask(method: str, headers: Mapping[str, str], url_fields: Mapping[str, str], body: bytes, limit: int) -> Ask:
    """Read a request; header names in lower case. Raises StoreRefusal."""
    check_user(headers, url_fields)
    fields = dict(url_fields)
    data = store_coding.decode(body, headers.get("content-encoding", ""), limit)
    if _flag(fields, "decompress"):
        data = store_coding.read_blocks(data, limit)
    files: dict[str, bytes] = {}
    if headers.get("content-type", "").startswith("multipart/form-data"):
        data = _read_form(headers["content-type"], data, fields, files)
    if fields.get("role"):
        raise StoreRefusal(UNKNOWN_ROLE, "The embedded store has no roles")
    externals = tuple(_external(name, data, fields) for name, data in files.items())
    query = fields.get("query", "").encode()
    compressible = fields.get("enable_http_compression", "1") not in ("0", "false")
    return Ask(
        text=query + b"\n" + data if query and data else query or data,
        params={k[len(_PARAM) :]: v for k, v in fields.items() if k.startswith(_PARAM)},
        settings={k: v for k, v in fields.items() if not _is_reserved(k, files)},
        database=fields.get("database") or headers.get("x-clickhouse-database", ""),
        default_format=fields.get("default_format") or headers.get("x-clickhouse-format", "") or "TabSeparated",
        query_id=fields.get("query_id") or headers.get("x-clickhouse-query-id") or str(uuid.uuid4()),
        session=_session(fields),
        reading_only=method in ("GET", "HEAD"),
        externals=externals,
        whole=_flag(fields, "wait_end_of_query"),
        encoding=store_coding.choose(headers.get("accept-encoding", "")) if compressible else None,
        blocks=_flag(fields, "compress"),
    )


def check_user(headers: Mapping[str, str], fields: Mapping[str, str]) -> None:
    """Let in the one user, who has no password. Raises StoreRefusal: chDB has no users."""
    user, password = USER, ""
    basic = headers.get("authorization", "")
    if basic:
        try:
            user, _, password = base64.b64decode(basic.removeprefix("Basic "), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = "?"
    user = headers.get("x-clickhouse-user", fields.get("user", user)) or USER
    password = headers.get("x-clickhouse-key", fields.get("password", password))
    if user != USER or password:
        raise StoreRefusal(
            AUTHENTICATION_FAILED,
            "Authentication failed: the embedded store has one user, `default`, without a password",
        )


def _flag(fields: Mapping[str, str], name: str) -> bool:
    return fields.get(name, "0") not in ("", "0", "false")


def _is_reserved(name: str, files: Mapping[str, bytes]) -> bool:
    if name in _RESERVED or name.startswith(_PARAM):
        return True
    return any(name == file + suffix for file in files for suffix in _EXTERNAL)


def _session(fields: Mapping[str, str]) -> SessionAsk | None:
    if not fields.get("session_id"):
        return None
    timeout = fields.get("session_timeout", "60")
    if not timeout.isdigit():
        raise StoreRefusal(BAD_ARGUMENTS, "session_timeout is a number of seconds")
    return SessionAsk(
        fields["session_id"], float(timeout), _flag(fields, "session_check"), _flag(fields, "close_session")
    )


def _read_form(content_type: str, body: bytes, fields: dict[str, str], files: dict[str, bytes]) -> bytes:
    """Add a form's fields and files; return what is left as text of the query: nothing."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    if not message.is_multipart():
        raise StoreRefusal(BAD_ARGUMENTS, "The form cannot be read")
    for part in message.iter_parts():
        name = str(part.get_param("name", "", header="content-disposition"))
        payload = part.get_payload(decode=True)
        data = payload if isinstance(payload, bytes) else b""
        if part.get_filename() is not None:
            files[name] = data
        else:
            fields[name] = data.decode(errors="replace")
    return b""


def _external(name: str, data: bytes, fields: Mapping[str, str]) -> External:
    structure = fields.get(f"{name}_structure", "")
    types = fields.get(f"{name}_types", "")
    if not structure and types:
        structure = ", ".join(f"_{number} {kind}" for number, kind in enumerate(types.split(","), 1))
    if not structure:
        raise StoreRefusal(BAD_ARGUMENTS, f"Neither {name}_structure nor {name}_types is given")
    return External(name, structure, fields.get(f"{name}_format", "TabSeparated"), data)
