"""Which offset of one partition comes next: skip repeats, believe no gap that was not looked at. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Record(Protocol):
    """A message as the consumer gives it."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a partition was told to begin, and by which seek."""

    offset: int
    seek: int
    """Running number of the seek; a fetch names the last one that came before it."""


class Cursor:
    """Keeps a partition's messages in order and complete.

    Messages below the next offset are repeats (buffered before a seek, or
    fetched for an earlier assignment) and are skipped. Messages above it mean
    either that some were lost between broker and here, or that the log has
    nothing there (transaction markers, compacted or expired messages). The two
    look alike, so the first sight of a gap is answered by a seek to the next
    offset; the gap is believed only when a fetch that began after that seek
    begins with it again. Offsets missing inside one fetch are the log's own.
    """

    def __init__(self, start: Start) -> None:
        self.next = start.offset
        """The offset to come."""
        self.skipped = 0
        """Messages skipped as repeats."""
        self.missing = 0
        """Offsets that the log turned out not to have."""
        self._start = start

    def take(self, records: Sequence[R], seek: int) -> Sequence[R] | None:
        """Return the messages to work on, maybe none; None asks for a seek to `next` and then `sought`.

        `records` is one fetch in offset order, `seek` the last seek before it began.
        """
        fresh = records if records and records[0].offset >= self.next else self._above(records)
        if not fresh:
            return fresh
        gap = fresh[0].offset - self.next
        if gap > 0:
            if self._start != Start(self.next, seek):
                return None
            self.missing += gap
        self.next = fresh[-1].offset + 1
        return fresh

    def sought(self, start: Start) -> None:
        """Note that the partition was told again where to begin."""
        self._start = start

    def _above(self, records: Sequence[R]) -> Sequence[R]:
        fresh = [record for record in records if record.offset >= self.next]
        self.skipped += len(records) - len(fresh)
        return fresh
