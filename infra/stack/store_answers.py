"""From what the store is asked to its answer: run the statement, as a whole or block by block."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import chain

from infra.stack import store_coding
from infra.stack.store_engine import Engine, Handle
from infra.stack.store_errors import READONLY, StoreRefusal
from infra.stack.store_requests import Ask
from infra.stack.store_sessions import Sessions
from infra.stack.store_sql import STREAMED, Sort, Statement, read_statement

NO_SUMMARY: dict[str, str] = dict.fromkeys(
    ("read_rows", "read_bytes", "written_rows", "written_bytes", "result_rows", "result_bytes", "elapsed_ns"), "0"
)


class Answer:
    """An answer that has begun. It holds a handle until it is closed."""

    def __init__(
        self, chunks: Iterator[bytes], held: ExitStack, form: str | None, summary: Mapping[str, str], tag: str
    ) -> None:
        self._chunks = chunks
        self._held = held
        self._lock = threading.Lock()
        self.format = form
        """Format of the rows; None where the statement yields none."""
        self.summary = summary
        """For X-ClickHouse-Summary."""
        self.tag = tag
        """Marks an exception that comes after rows were sent."""
        self.done = False
        """True once everything has been sent."""

    def step(self) -> bytes | None:
        """Return the next bytes to send; None at the end, by when the handle has been given back.

        So a client that has read to the end finds its session free for the next request.
        """
        with self._lock:
            chunk = next(self._chunks, None)
            self.done = chunk is None
            if self.done:
                self._held.close()
            return chunk

    def close(self) -> None:
        """Give the handle back; what still runs is stopped. Waits for a `step` in another thread."""
        with self._lock, self._held:
            self._chunks = iter(())


def answer(engine: Engine, sessions: Sessions, ask: Ask) -> Answer:
    """Run what is asked up to its first rows. Raises StoreRefusal.

    For a thread of its own: it takes as long as the query does. So does each
    `step` of the answer.
    """
    statement = read_statement(ask.text)
    if ask.reading_only and statement.writes:
        raise StoreRefusal(READONLY, "Cannot execute query in readonly mode: use POST to change something")
    tag = secrets.token_hex(8)
    form = statement.format or ask.default_format
    with ExitStack() as held:
        handle = held.enter_context(_lend(engine, sessions, ask))
        for external in ask.externals:
            handle.insert_external(external.name, external.structure, external.format, external.data)
        chunks: Iterator[bytes] = iter(())
        yields: str | None = form if statement.sort is Sort.READ else None
        if statement.sort is Sort.INSERT_DATA:
            summary = handle.insert(statement.head, statement.tail, form, ask.text[statement.data_from :])
        elif statement.first in ("SELECT", "WITH", "FROM") and yields in STREAMED and not ask.whole:
            blocks = held.enter_context(closing(handle.stream(statement.head, form, ask.params)))
            chunks, summary = _rest(next(blocks, b""), blocks, tag), NO_SUMMARY
        else:
            result = handle.query(_by_query_id(statement), form, ask.params)
            held.callback(result.close)
            chunks, summary = store_coding.pieces(result.body), result.summary
        return Answer(_packed(chunks, ask), held.pop_all(), yields, summary, tag)


def _packed(chunks: Iterator[bytes], ask: Ask) -> Iterator[bytes]:
    """Compress as asked: ClickHouse's blocks inside, HTTP's encoding outside."""
    inner = map(store_coding.write_blocks, chunks) if ask.blocks else chunks
    if ask.encoding is None:
        return inner
    pack, finish = store_coding.encoder(ask.encoding)
    return chain(filter(None, map(pack, inner)), (finish() for _ in range(1)))


def _by_query_id(statement: Statement) -> str:
    """The engine names queries itself; what the client called a query stands in its log_comment."""
    if statement.first != "KILL":
        return statement.head
    return statement.head.replace("query_id", "Settings['log_comment']")


def _rest(first: bytes, blocks: Iterator[bytes], tag: str) -> Iterator[bytes]:
    yield first
    try:
        yield from blocks
    except StoreRefusal as refusal:
        yield _late_exception(refusal, tag)


def _late_exception(refusal: StoreRefusal, tag: str) -> bytes:
    """An exception in the body, where the status has been sent: as ClickHouse 25.11 and later write it."""
    text = f"{refusal}\n".encode()
    marker = b"__exception__\r\n"
    return b"\r\n" + marker + tag.encode() + b"\r\n" + text + f"{len(text)} {tag}\r\n".encode() + marker


@contextmanager
def _lend(engine: Engine, sessions: Sessions, ask: Ask) -> Iterator[Handle]:
    """Lend a handle with the request's database and settings, for this request only."""
    # The engine gives its own ids; this is how a query is found again to be cancelled.
    settings = {"log_comment": ask.query_id, **ask.settings}
    if ask.session is None:
        handle = engine.open()
        try:
            if ask.database:
                handle.use(ask.database)
            if ask.reading_only:
                # Last: from then on the handle takes no setting that loosens it.
                settings = {**settings, "readonly": "2"}
            handle.set(settings)
            yield handle
        finally:
            handle.close()
        return
    borrowed = sessions.borrow(ask.session.id, ask.session.timeout_s, ask.session.must_exist, ask.session.end)
    with borrowed as handle, _for_now(handle, ask.database, settings):
        yield handle


@contextmanager
def _for_now(handle: Handle, database: str, settings: Mapping[str, str]) -> Iterator[None]:
    """Set a session's handle up for one request, and put it back afterwards."""
    names = list(settings)
    before = handle.changed(names)
    home = handle.database() if database else ""
    try:
        if database:
            handle.use(database)
        handle.set(settings)
        yield
    finally:
        handle.reset(names, before)
        if database:
            handle.use(home)
