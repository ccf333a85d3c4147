"""Records on disk for the time that Kafka is away: bounded, checked, in order.

A directory belongs to one process at a time (`lock`, flock) and holds segments
(see `segments.py`), which are only ever appended to, and deleted once all
their records are acknowledged.

What survives what: a record is handed to the operating system before `append`
returns, so it survives the death of the process. `sync` (the publisher calls
it once a second, and on close) makes it survive a power cut as well. A torn or
damaged tail of a segment is cut off when the spool is opened, and `damage`
says how much that was; the other segments stay readable.

Delivery is at least once. The position is written with every batch of
acknowledgements, so what a restart sends again is at most what was in flight.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from infra.errors import TidegateError
from producers.segments import HEAD_SIZE, MAGIC, RECORD_MAX, Position, Segment, gaps, next_record, record_of, scan

OWNERS_MAX = 64
"""How many processes may spool side by side under one home."""


class Spool:
    """A queue of byte strings on disk. Not thread-safe: its owner is the publisher's thread.

    `append` and `read` see records in the same order; a record is numbered
    from 0 in order of appending, for the life of the directory.
    """

    def __init__(self, directory: Path, *, max_bytes: int = 64 << 20, segment_bytes: int = 1 << 20) -> None:
        """Open or make `directory`, repair it, and go to the oldest record not acknowledged.

        Raises TidegateError when another process owns it or it cannot be written.
        """
        self._directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._lock = _own(directory)
        if self._lock is None:
            raise TidegateError(f"the spool {directory} belongs to another process. Stop it, or use another home.")
        self._position = Position(directory / "position")
        self._acked = self._position.start
        self._writer: BinaryIO | None = None
        self._reader: BinaryIO | None = None
        self._reading: Segment | None = None
        self._dirty = False
        self._segments, self.damage = scan(directory)
        # Numbers that damage has taken out of the middle: nothing to read, nothing to wait for.
        self._missing = gaps(self._segments)
        self._acked_ahead = set(self._missing)
        first = self._segments[0].first if self._segments else 0
        self._acked = max(self._acked, first)
        self._end = max(self._acked, self._segments[-1].first + self._segments[-1].count if self._segments else 0)
        self._next = self._acked
        self._advance()

    @classmethod
    def open_free(cls, root: Path, *, max_bytes: int = 64 << 20, segment_bytes: int = 1 << 20) -> Spool:
        """Open the first directory under `root` that no process owns, those with unsent records first.

        Several producers of one machine each get their own, and what a dead
        one left is sent by the next that starts. Raises TidegateError when
        all are owned.
        """
        names = [root / str(index) for index in range(OWNERS_MAX)]
        for directory in sorted(names, key=lambda path: not any(path.glob("*.seg"))):
            try:
                return cls(directory, max_bytes=max_bytes, segment_bytes=segment_bytes)
            except TidegateError:
                if not directory.exists():
                    raise
        raise TidegateError(f"all {OWNERS_MAX} spools in {root} belong to running producers. Stop some of them.")

    def __len__(self) -> int:
        """How many records are not acknowledged yet."""
        return self._end - self._acked - len(self._acked_ahead)

    @property
    def unread(self) -> int:
        """How many records `read` has not returned since the last `rewind`; upper bound."""
        return self._end - self._next

    @property
    def size(self) -> int:
        """Bytes on disk, acknowledged records of the oldest segment among them."""
        return sum(segment.size for segment in self._segments)

    def append(self, payload: bytes) -> bool:
        """Add a record; False, and nothing changed, when there is no room (the bound, or the disk)."""
        need = HEAD_SIZE + len(payload)
        if len(payload) > RECORD_MAX:
            return False
        tail = self._segments[-1] if self._segments else None
        roll = tail is None or self._writer is None or tail.size + need > self._segment_bytes
        if self.size + need + (len(MAGIC) if roll else 0) > self._max_bytes:
            return False
        try:
            if roll:
                self._roll()
            return self._write(record_of(payload))
        except OSError:
            # A full or failing disk refuses the newest record, exactly as the bound does.
            return False

    def read(self) -> tuple[int, bytes] | None:
        """Return the next record not yet read or acknowledged, with its number; None at the end.

        A record that has become unreadable since opening raises TidegateError:
        the disk changed under a running process.
        """
        while self._next < self._end:
            number = self._next
            payload = b"" if number in self._missing else self._read_at(number)
            self._next += 1
            if number >= self._acked and number not in self._acked_ahead:
                return number, payload
        return None

    def rewind(self) -> None:
        """Let `read` begin again at the oldest record not acknowledged."""
        self._next = self._acked
        self._close_reader()

    def ack(self, numbers: Iterable[int]) -> None:
        """Mark records as delivered, in any order, and write the position down."""
        before = self._acked
        self._acked_ahead.update(number for number in numbers if self._acked <= number < self._end)
        self._advance()
        if self._acked != before:
            self._position.write(self._acked)

    def sync(self) -> None:
        """Have the disk hold what was appended since the last call."""
        if self._dirty and self._writer is not None:
            os.fsync(self._writer.fileno())
        self._dirty = False

    def close(self) -> None:
        """Sync and let go of the directory; the records stay for the next owner."""
        try:
            self.sync()
        finally:
            self._close_reader()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._position.close()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _roll(self) -> None:
        self.sync()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        path = self._directory / f"{self._end:016d}.seg"
        # Unbuffered: a record handed over is with the operating system, not with us.
        writer = open(path, "wb", buffering=0)  # noqa: SIM115 - it lives as long as the segment
        os.chmod(path, 0o600)
        if self._segments and self._segments[-1].path == path:
            self._segments.pop()
        self._segments.append(Segment(path, self._end, 0, 0))
        self._writer = writer
        writer.write(MAGIC)
        self._segments[-1].size = len(MAGIC)

    def _write(self, record: bytes) -> bool:
        segment, writer = self._segments[-1], self._writer
        assert writer is not None  # noqa: S101 - append has rolled
        try:
            complete = writer.write(record) == len(record)
        except OSError:
            complete = False
        if not complete:
            writer.truncate(segment.size)
            writer.seek(segment.size)
            return False
        segment.size += len(record)
        segment.count += 1
        self._end += 1
        self._dirty = True
        return True

    def _read_at(self, number: int) -> bytes:
        segment = self._reading
        if self._reader is None or segment is None or number >= segment.first + segment.count:
            self._open_reader(number)
        assert self._reader is not None  # noqa: S101 - just opened
        payload = next_record(self._reader)
        if payload is None:
            raise TidegateError(f"the spool {self._directory} was changed while in use; restart the producer.")
        return payload

    def _open_reader(self, number: int) -> None:
        self._close_reader()
        segment = max((s for s in self._segments if s.first <= number), key=lambda s: s.first)
        self._reading = segment
        self._reader = open(segment.path, "rb")  # noqa: SIM115 - closed by _close_reader
        self._reader.seek(len(MAGIC))
        for _ in range(number - segment.first):
            next_record(self._reader)

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _advance(self) -> None:
        while self._acked in self._acked_ahead:
            self._acked_ahead.remove(self._acked)
            self._missing.discard(self._acked)
            self._acked += 1
        while self._segments and self._segments[0].first + self._segments[0].count <= self._acked:
            segment = self._segments.pop(0)
            if not self._segments and self._writer is not None:
                self._writer.close()
                self._writer = None
            self._close_reader()
            segment.path.unlink(missing_ok=True)
        self._next = max(self._next, self._acked)


def _own(directory: Path) -> BinaryIO | None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = open(directory / "lock", "ab")  # noqa: SIM115 - held for the life of the spool
    except OSError as error:
        raise TidegateError(
            f"the spool {directory} cannot be written ({error.strerror}). Free space, or use another --home."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock
