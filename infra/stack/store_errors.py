"""ClickHouse's exceptions as its HTTP interface shows them."""

from __future__ import annotations

import re

BAD_ARGUMENTS = 36
NOT_IMPLEMENTED = 48
SYNTAX_ERROR = 62
UNKNOWN_TYPE_OF_QUERY = 78
READONLY = 164
QUERY_IS_TOO_LARGE = 229
INTO_OUTFILE_NOT_ALLOWED = 344
SESSION_NOT_FOUND = 372
SESSION_IS_LOCKED = 373
CANNOT_DECOMPRESS = 271
UNKNOWN_ROLE = 511
AUTHENTICATION_FAILED = 516
TOO_MANY_SIMULTANEOUS_QUERIES = 202
UNKNOWN_EXCEPTION = 1002

_NAMES = {
    BAD_ARGUMENTS: "BAD_ARGUMENTS",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    UNKNOWN_TYPE_OF_QUERY: "UNKNOWN_TYPE_OF_QUERY",
    READONLY: "READONLY",
    QUERY_IS_TOO_LARGE: "QUERY_IS_TOO_LARGE",
    INTO_OUTFILE_NOT_ALLOWED: "INTO_OUTFILE_NOT_ALLOWED",
    SESSION_NOT_FOUND: "SESSION_NOT_FOUND",
    SESSION_IS_LOCKED: "SESSION_IS_LOCKED",
    CANNOT_DECOMPRESS: "CANNOT_DECOMPRESS",
    UNKNOWN_ROLE: "UNKNOWN_ROLE",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
    TOO_MANY_SIMULTANEOUS_QUERIES: "TOO_MANY_SIMULTANEOUS_QUERIES",
    UNKNOWN_EXCEPTION: "UNKNOWN_EXCEPTION",
}

# As ClickHouse's HTTP handler maps them; everything else is 500.
_STATUS = {
    **dict.fromkeys((192, 193, 194, 497, 516), 403),  # users, passwords, access
    # What cannot be parsed, and arguments of the wrong kind.
    **dict.fromkeys((6, 25, 26, 27, 36, 38, 41, 43, 44, 53, 62, 72, 117, 167, 168, 223, 427, 441, 457, 675, 676), 400),
    # Unknown: functions, identifiers, types, tables, formats, databases, settings.
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 336), 404),
    **dict.fromkeys((209, 439), 503),
    159: 408,
    QUERY_IS_TOO_LARGE: 413,
    NOT_IMPLEMENTED: 501,
}

_CODE = re.compile(r"Code: (\d+)\. ")


class StoreRefusal(Exception):  # noqa: N818 - it is ClickHouse's exception, passed on
    """An exception as ClickHouse words it: `Code: 60. DB::Exception: … (UNKNOWN_TABLE)`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message}. ({_NAMES[code]})")
        self.code = code

    @classmethod
    def from_engine(cls, error: Exception) -> StoreRefusal:
        """Take over what the engine raised, with the code that stands in its text."""
        text = str(error)
        found = _CODE.search(text)
        if found is None:
            return cls(UNKNOWN_EXCEPTION, text.strip().rstrip("."))
        refusal = cls.__new__(cls)
        Exception.__init__(refusal, text[found.start() :].strip())
        refusal.code = int(found[1])
        return refusal

    @property
    def status(self) -> int:
        """HTTP status."""
        return _STATUS.get(self.code, 500)
