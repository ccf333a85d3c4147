"""Records on disk for the time that Kafka is away: bounded, checked, in order.

Layout of a directory, which one process at a time owns (`lock`, flock):

* `<number of its first record>.seg`: the magic, then records
  `length: u32, crc32(length + payload): u32, payload`, little-endian. A segment
  is only ever appended to, and deleted once all its records are acknowledged.
* `position`: two slots of `number: u64, crc32: u32`, written in turn. The
  greatest readable one says how many records have been acknowledged.

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
import itertools
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from infra.errors import TidegateError

_MAGIC = b"TGSPOOL1"
_HEAD = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_SLOT = struct.Struct("<QI")
_NUMBER = struct.Struct("<Q")

RECORD_MAX = 4 << 20
"""Bytes. A length beyond it is damage, not a record: a batch of 64 events takes about 1 KB."""
OWNERS_MAX = 64
"""How many processes may spool side by side under one home."""


@dataclass(slots=True)
class _Segment:
    path: Path
    first: int
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Damage:
    """What was found unreadable when the spool was opened, and cut off."""

    segments: int = 0
    bytes: int = 0
    records: int | None = 0
    """How many records that was; None where the last segment was hit, whose length nothing else tells."""


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
        self._position = _open_position(directory / "position")
        self._acked, self._slot = _read_position(self._position)
        self._writer: BinaryIO | None = None
        self._reader: BinaryIO | None = None
        self._dirty = False
        self._segments, self.damage = _scan(directory)
        # Numbers that damage has taken out of the middle: nothing to read, nothing to wait for.
        self._missing = _gaps(self._segments)
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
        need = _HEAD.size + len(payload)
        if len(payload) > RECORD_MAX:
            return False
        tail = self._segments[-1] if self._segments else None
        roll = tail is None or self._writer is None or tail.size + need > self._segment_bytes
        if self.size + need + (len(_MAGIC) if roll else 0) > self._max_bytes:
            return False
        length = _LENGTH.pack(len(payload))
        record = length + _LENGTH.pack(zlib.crc32(payload, zlib.crc32(length))) + payload
        try:
            if roll:
                self._roll()
            return self._write(record)
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
            self._write_position()

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
            os.close(self._position)
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
        self._segments.append(_Segment(path, self._end, 0, 0))
        self._writer = writer
        writer.write(_MAGIC)
        self._segments[-1].size = len(_MAGIC)

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
        if self._reader is None or number == self._reader_until:
            self._open_reader(number)
        assert self._reader is not None  # noqa: S101 - just opened
        payload = _next_record(self._reader)
        if payload is None:
            raise TidegateError(f"the spool {self._directory} was changed while in use; restart the producer.")
        return payload

    def _open_reader(self, number: int) -> None:
        self._close_reader()
        index = max(i for i, segment in enumerate(self._segments) if segment.first <= number)
        segment = self._segments[index]
        is_last = index + 1 == len(self._segments)
        self._reader_until = -1 if is_last else self._segments[index + 1].first
        self._reader = open(segment.path, "rb")  # noqa: SIM115 - closed by _close_reader
        self._reader.seek(len(_MAGIC))
        for _ in range(number - segment.first):
            _next_record(self._reader)

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _write_position(self) -> None:
        number = _NUMBER.pack(self._acked)
        os.pwrite(self._position, number + _LENGTH.pack(zlib.crc32(number)), self._slot * _SLOT.size)
        self._slot = 1 - self._slot

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


def _open_position(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if os.fstat(handle).st_size < 2 * _SLOT.size:
        try:
            # Take the room now: later, on a full disk, the position must still be writable.
            os.pwrite(handle, bytes(2 * _SLOT.size), 0)
        except OSError as error:
            os.close(handle)
            raise TidegateError(
                f"{path} cannot be written ({error.strerror}). Free space, or use another --home."
            ) from error
    return handle


def _read_position(handle: int) -> tuple[int, int]:
    """Return the number that stands there, and the slot to write next, which is the other one."""
    best, other = 0, 0
    for slot in range(2):
        raw = os.pread(handle, _SLOT.size, slot * _SLOT.size)
        if len(raw) == _SLOT.size:
            number, crc = _SLOT.unpack(raw)
            if crc == zlib.crc32(raw[: _NUMBER.size]) and number >= best:
                best, other = number, 1 - slot
    return best, other


def _scan(directory: Path) -> tuple[list[_Segment], Damage]:
    paths = sorted(directory.glob("*.seg"))
    segments: list[_Segment] = []
    damaged = lost_bytes = 0
    lost_records: int | None = 0
    for index, path in enumerate(paths):
        segment, bad = _check(path)
        segments.append(segment)
        if bad:
            damaged, lost_bytes = damaged + 1, lost_bytes + bad
            if index + 1 == len(paths):
                lost_records = None
            elif lost_records is not None:
                lost_records += int(paths[index + 1].stem) - segment.first - segment.count
    return segments, Damage(damaged, lost_bytes, lost_records)


def _gaps(segments: list[_Segment]) -> set[int]:
    missing: set[int] = set()
    for one, following in itertools.pairwise(segments):
        missing.update(range(one.first + one.count, following.first))
    return missing


def _check(path: Path) -> tuple[_Segment, int]:
    """Count a segment's good records and cut off what follows them; return how many bytes that was."""
    segment = _Segment(path, int(path.stem), 0, 0)
    with path.open("r+b") as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            segment.size = len(_MAGIC)
            while (payload := _next_record(file)) is not None:
                segment.count += 1
                segment.size += _HEAD.size + len(payload)
        bad = path.stat().st_size - segment.size
        if bad:
            file.truncate(segment.size)
    return segment, bad


def _next_record(file: BinaryIO) -> bytes | None:
    """Return the payload at the file's position; None where no whole, undamaged record stands there."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, crc = _HEAD.unpack(head)
    if length > RECORD_MAX:
        return None
    payload = file.read(length)
    if len(payload) < length or zlib.crc32(payload, zlib.crc32(head[: _LENGTH.size])) != crc:
        return None
    return payload
