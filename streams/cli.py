"""The command groups of this package, for `tidegate.py`."""

from streams.reading.books_cli import books
from streams.reading.sample_cli import sample
from streams.stream_cli import stream

__all__ = ["books", "sample", "stream"]
