"""Zigzag varints, many at a time: numpy in, numpy out, no Python per number.

The encoding is Avro's (specification 1.12, "Primitive types"): a signed number
n becomes (n << 1) ^ (n >> 63), written in groups of 7 bits, lowest first, the
top bit of a byte saying that another follows.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]


def decode(data: bytes, sizes: Longs, counts: Longs) -> tuple[Longs, NDArray[np.bool_]]:
    """Decode the varints of several segments that stand one after the other.

    `sizes[i]` bytes of `data` are segment i and must hold exactly `counts[i]`
    varints, each of at most 10 bytes and 64 bits. Returns the numbers of all
    segments and a mask of the segments that are not so; when any is, the
    numbers mean nothing.
    """
    raw = np.frombuffer(data, np.uint8)
    if len(raw) == int(counts.sum()) and raw.max(initial=0) < 0x80:
        return _unzigzag(raw.copy()), sizes != counts
    ends = np.flatnonzero(raw < 0x80)
    if not _fit(ends, sizes, counts):
        return np.zeros(0, np.int64), _misfits(raw, sizes, counts)
    longest = max(int(ends[0]) + 1, int((ends[1:] - ends[:-1]).max(initial=0)))
    bad = np.zeros(len(sizes), np.bool_)
    if longest >= 10:
        lengths = np.diff(ends, prepend=-1)
        over = ends[(lengths > 10) | ((lengths == 10) & (raw[ends] > 1))]
        bad[np.searchsorted(np.cumsum(sizes), over, side="right")] = True
        if bad.any():
            return np.zeros(0, np.int64), bad
    return _unzigzag(_join(raw, ends, longest)), bad


def _join(raw: NDArray[np.uint8], ends: Longs, longest: int) -> NDArray[Any]:
    """Join each varint's groups of 7 bits, from its last byte backwards, all varints at once."""
    # 14 bits of two bytes fit 16, 28 of four fit 32: less memory to go through.
    values: NDArray[Any] = raw[ends].astype(np.uint16 if longest <= 2 else np.uint32 if longest <= 4 else np.uint64)
    inside = np.ones(len(ends), np.uint8)
    for back in range(1, longest):
        # Before the first varint stands raw[-1], the last byte of all, which ends one: no special case.
        byte = raw[ends - back]
        inside &= byte >> 7
        # Multiplied, not chosen: which numbers go on is random, and a branch for each costs more.
        values <<= inside * np.uint8(7)
        values |= byte & (inside * np.uint8(0x7F))
    return values


def _unzigzag(values: NDArray[Any]) -> Longs:
    """Turn 0, 1, 2, 3, ... into 0, -1, 1, -2, ...; the array given is used up."""
    signed = values.view(f"i{values.itemsize}")
    sign = signed & 1
    values >>= 1
    signed ^= -sign
    return signed.astype(np.int64, copy=False)


def _fit(ends: Longs, sizes: Longs, counts: Longs) -> bool:
    """Say whether each segment holds as many varints as it should, and ends where one does.

    Both hold when, counting varints over the whole, each segment's last one
    ends on the segment's last byte.
    """
    last = np.cumsum(counts) - 1
    if last[-1] + 1 != len(ends):
        return False
    filled = counts > 0
    return bool((sizes[~filled] == 0).all() and (ends[last[filled]] == np.cumsum(sizes)[filled] - 1).all())


def _misfits(raw: NDArray[np.uint8], sizes: Longs, counts: Longs) -> NDArray[np.bool_]:
    """Mark the segments that hold another number of varints than they should, or end within one."""
    stops = np.cumsum(sizes)
    so_far = np.concatenate(([0], np.cumsum(raw < 0x80)))
    bad = so_far[stops] - so_far[stops - sizes] != counts
    filled = np.flatnonzero(sizes)
    bad[filled] |= raw[stops[filled] - 1] >= 0x80
    return np.asarray(bad)


# Up to so many numbers, looking each up costs less than a dozen calls of numpy.
_FEW = 256
# Whatever takes one or two bytes: 16384 numbers, 1 MB of memory once they are used.
_SHORT = 2**13
# A small number is written as its double.
_DOUBLED = bytes(value << 1 & 0xFF for value in range(256))


def encode(values: NDArray[np.integer[Any]]) -> tuple[bytes, int, int]:
    """Encode at least one number of at most 64 bits, signed. Also return the least and the greatest of them."""
    if len(values) <= _FEW:
        numbers = values.tolist()
        least, most = min(numbers), max(numbers)
        if least >= 0 and most < 0x40:
            return bytes(numbers).translate(_DOUBLED), least, most
        if least >= -_SHORT and most < _SHORT:
            # A negative number counts from the table's end, as Python has it.
            return b"".join(map(_short().__getitem__, numbers)), least, most
    else:
        least, most = int(values.min()), int(values.max())
    if least == most == 0:
        return bytes(len(values)), 0, 0
    return _encode_many(values.astype(np.int64, copy=False), max(most, ~least)), least, most


def _encode_many(values: Longs, farthest: int) -> bytes:
    """Encode numbers, none of which is farther from zero than `farthest`, or than -1 by more than that."""
    zigzag: NDArray[Any] = ((values << 1) ^ (values >> 63)).view(np.uint64)
    bits = farthest.bit_length() + 1
    if bits <= 7:
        return zigzag.astype(np.uint8).tobytes()
    if bits <= 32:
        zigzag = zigzag.astype(np.uint32)
    # One row a number, one place a group of 7 bits; the places in use are its bytes.
    width = -(-bits // 7)
    places = np.empty((len(values), width), np.uint8)
    used = np.ones((len(values), width), np.bool_)
    for place in range(width):
        places[:, place] = zigzag & zigzag.dtype.type(0x7F)
        zigzag = zigzag >> zigzag.dtype.type(7)
        if place + 1 < width:
            more = zigzag != 0
            places[:, place] |= more.view(np.uint8) << 7
            used[:, place + 1] = more
    return places[used].tobytes()


@cache
def _short() -> list[bytes]:
    return [one(value) for value in (*range(_SHORT), *range(-_SHORT, 0))]


def one(value: int) -> bytes:
    """Encode a single number, where numpy would cost more than it saves."""
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)
