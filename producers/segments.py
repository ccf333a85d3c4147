"""The files of a spool: segments of checked records, and the position reached.

* `<number of its first record>.seg`: the magic, then records
  `length: u32, crc32(length + payload): u32, payload`, little-endian.
* `position`: two slots of `number: u64, crc32: u32`, written in turn, so that
  a torn write leaves the other. The greatest readable one counts.
"""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from infra.errors import TidegateError

MAGIC = b"TGSPOOL1"
_HEAD = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_SLOT = struct.Struct("<QI")
_NUMBER = struct.Struct("<Q")

HEAD_SIZE = _HEAD.size
RECORD_MAX = 4 << 20
"""Bytes. A length beyond it is damage, not a record: a batch of 64 events takes about 1 KB."""


@dataclass(slots=True)
class Segment:
    """One file: its first record's number, how many whole records it holds, and its bytes."""

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


def record_of(payload: bytes) -> bytes:
    """Return a payload as it stands in a segment."""
    length = _LENGTH.pack(len(payload))
    return length + _LENGTH.pack(zlib.crc32(payload, zlib.crc32(length))) + payload


class Position:
    """How many records of a directory have been acknowledged, on disk."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises TidegateError when there is no room for it."""
        self._handle = _open_position(path)
        self.start, self._slot = _read_position(self._handle)

    def write(self, acknowledged: int) -> None:
        """Write it down, over the older of the two slots."""
        number = _NUMBER.pack(acknowledged)
        os.pwrite(self._handle, number + _LENGTH.pack(zlib.crc32(number)), self._slot * _SLOT.size)
        self._slot = 1 - self._slot

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)


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


def scan(directory: Path) -> tuple[list[Segment], Damage]:
    """Read a directory's segments in order, cutting off what is torn or damaged, and say what that was."""
    paths = sorted(directory.glob("*.seg"))
    segments: list[Segment] = []
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


def gaps(segments: Sequence[Segment]) -> set[int]:
    """Return the numbers that damage has taken out between segments."""
    missing: set[int] = set()
    for one, following in itertools.pairwise(segments):
        missing.update(range(one.first + one.count, following.first))
    return missing


def _check(path: Path) -> tuple[Segment, int]:
    """Count a segment's good records and cut off what follows them; return how many bytes that was."""
    segment = Segment(path, int(path.stem), 0, 0)
    with path.open("r+b") as file:
        if file.read(len(MAGIC)) == MAGIC:
            segment.size = len(MAGIC)
            while (payload := next_record(file)) is not None:
                segment.count += 1
                segment.size += _HEAD.size + len(payload)
        bad = path.stat().st_size - segment.size
        if bad:
            file.truncate(segment.size)
    return segment, bad


def next_record(file: BinaryIO) -> bytes | None:
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
