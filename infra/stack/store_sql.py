"""What a statement is, as far as the HTTP interface has to know: its sort, its format, where its data begins.

The engine parses SQL; here only words outside quotes, comments and brackets are
looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from infra.stack.store_errors import INTO_OUTFILE_NOT_ALLOWED, SYNTAX_ERROR, UNKNOWN_TYPE_OF_QUERY, StoreRefusal
from infra.statements import tokens

_READING = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK", "KILL", "("})
_HARMLESS = frozenset({"SET", "USE"})

# Each chunk of a stream is a whole document of its format, so only formats
# without header and footer can be joined chunk by chunk.
STREAMED = frozenset(
    {"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow", "NDJSON", "JSONCompactEachRow"}
)

# What stands before an INSERT's data is never longer: ClickHouse's own max_query_size.
_LONGEST_HEAD = 256 << 10


class Sort(Enum):
    """How a statement is run."""

    READ = "read"
    """It yields rows."""
    INSERT_DATA = "insert data"
    """Its data follow in the request."""
    OTHER = "other"
    """It yields nothing."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement."""

    sort: Sort
    first: str
    """Its first word, in capitals."""
    head: str
    """The statement; of INSERT_DATA what stands before SETTINGS, FORMAT and VALUES."""
    tail: str
    """Of INSERT_DATA its SETTINGS, or nothing."""
    format: str | None
    """Format of the rows it yields, or of the data it is given; None where it names none."""
    data_from: int
    """INSERT_DATA: where its data begin in the text, in bytes."""
    writes: bool
    """True unless it can change nothing but the session."""


def read_statement(text: bytes) -> Statement:
    """Look at the text of a request. Raises StoreRefusal for what a server does not take over HTTP."""
    # Latin-1 keeps one character a byte, so positions hold for the bytes as well.
    start = text[:_LONGEST_HEAD].decode("latin-1")
    first = next((word.upper() for _, word, _ in tokens(start)), "")
    if not first:
        raise StoreRefusal(SYNTAX_ERROR, "Empty query")
    if first == "INSERT":
        return _read_insert(text, start)
    return _read_other(text, text.decode("latin-1"), first)


def _read_insert(text: bytes, plain: str) -> Statement:
    depth, previous, settings_at = 0, "", None
    words = tokens(plain)
    for sort, word, position in words:
        upper = word.upper() if sort == "word" else word
        depth += (word == "(") - (word == ")")
        if depth or previous in ("INTO", "TABLE"):
            pass
        elif upper == "INFILE":
            raise StoreRefusal(
                UNKNOWN_TYPE_OF_QUERY, "INSERT FROM INFILE reads a file of the client's, not of the server's"
            )
        elif upper in ("SELECT", "WITH"):
            return Statement(Sort.OTHER, "INSERT", _utf8(text), "", None, 0, writes=True)
        elif upper == "SETTINGS":
            settings_at = position
        elif upper == "VALUES":
            return _insert(text, settings_at, position, "Values", position + len("VALUES"))
        elif upper == "FORMAT":
            _, name, where = next(words, ("", "", len(plain)))
            return _insert(text, settings_at, position, name, _after_line(plain, where + len(name)))
        previous = upper
    return _insert(text, settings_at, len(text), None, len(text))


def _insert(text: bytes, settings_at: int | None, end: int, form: str | None, data_from: int) -> Statement:
    middle = end if settings_at is None else settings_at
    return Statement(
        Sort.INSERT_DATA, "INSERT", _utf8(text[:middle]), _utf8(text[middle:end]), form, data_from, writes=True
    )


def _after_line(plain: str, position: int) -> int:
    """Data begin after the format's name: after its line where that is blank, else after one space."""
    end = position
    while end < len(plain) and plain[end] in " \t\r":
        end += 1
    if plain[end : end + 1] == ";":
        end += 1
    return end + 1 if plain[end : end + 1] == "\n" else end


def _read_other(text: bytes, plain: str, first: str) -> Statement:
    depth, previous, form, ended, inserts = 0, "", None, False, False
    for sort, word, _ in tokens(plain):
        if ended:
            raise StoreRefusal(SYNTAX_ERROR, "Multi-statements are not allowed")
        upper = word.upper() if sort == "word" else word
        depth += (word == "(") - (word == ")")
        if upper == "OUTFILE" and previous == "INTO":
            raise StoreRefusal(
                INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE writes a file of the client's, not of the server's"
            )
        if depth == 0:
            form = word if previous == "FORMAT" and sort == "word" else form
            ended = word == ";"
            inserts = inserts or (upper == "INTO" and previous == "INSERT")
        previous = upper
    reads = first in _READING and not inserts
    return Statement(
        Sort.READ if reads else Sort.OTHER,
        first,
        _utf8(text),
        "",
        form if reads else None,
        0,
        writes=(not reads and first not in _HARMLESS) or first == "KILL",
    )


def _utf8(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise StoreRefusal(SYNTAX_ERROR, "The query is not UTF-8") from None
