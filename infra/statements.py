"""Where SQL statements begin and end: comments and quotes understood, nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Comments and quoted text hide what is in them. An unclosed one runs to the end.
_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | \#(?=[\ !])[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted> '(?:[^'\\]|\\.|'')*(?:'|\Z) | "(?:[^"\\]|\\.|"")*(?:"|\Z) | `(?:[^`\\]|\\.|``)*(?:`|\Z)
                | \$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z) )
    | (?P<word> \w+ )
    | (?P<space> \s+ )
    | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)


def tokens(sql: str) -> Iterator[tuple[str, str, int]]:
    """Yield (sort, text, position) of every token that is neither comment nor space.

    Sorts: `quoted` (a literal or a quoted name), `word`, `sign` (one character).
    """
    for match in _TOKEN.finditer(sql):
        sort = match.lastgroup
        if sort in ("quoted", "word", "sign"):
            yield sort, match.group(), match.start()


def split_statements(sql: str) -> list[str]:
    """Cut a script at its semicolons; statements keep their comments, empty ones fall out.

    A semicolon inside a comment or quotes cuts nothing.
    """
    cuts = [position for _, text, position in tokens(sql) if text == ";"]
    pieces = [sql[start + 1 : end] for start, end in zip([-1, *cuts], [*cuts, len(sql)], strict=True)]
    return [piece.strip() for piece in pieces if next(tokens(piece), None) is not None]
