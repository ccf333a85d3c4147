"""The command groups of this package, for `tidegate.py`."""

from streams.books_cli import books
from streams.sample_cli import sample
from streams.stream_cli import stream

__all__ = ["books", "sample", "stream"]
