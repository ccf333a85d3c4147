"""Zigzag varints, many at a time: numpy in, numpy out, no Python per number.

The encoding is Avro's (specification 1.12, "Primitive types"): a signed number
n becomes (n << 1) ^ (n >> 63), written in groups of 7 bits, lowest first, the
top bit of a byte saying that another follows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]

# A single byte's value: 0, -1, 1, -2, ... for the bytes 0, 1, 2, 3, ...
_SMALL = np.array([(byte >> 1) ^ -(byte & 1) for byte in range(128)], dtype=np.int64)
_ONE, _SHIFT, _SEVEN = np.uint64(1), np.uint64(7), np.uint64(0x7F)


def decode(data: bytes, sizes: Longs, counts: Longs) -> tuple[Longs, NDArray[np.bool_]]:
    """Decode the varints of several segments that stand one after the other.

    `sizes[i]` bytes of `data` are segment i and must hold exactly `counts[i]`
    varints, each of at most 10 bytes and 64 bits. Returns the numbers of all
    segments and a mask of the segments that are not so; when any is, the
    numbers mean nothing.
    """
    raw = np.frombuffer(data, np.uint8)
    rows = int(counts.sum())
    if len(raw) == rows and raw.max(initial=0) < 0x80:
        return _SMALL[raw], sizes != counts
    ends = np.flatnonzero(raw < 0x80)
    if not _fit(ends, sizes, counts):
        return np.zeros(0, np.int64), _misfits(raw, sizes, counts)
    lengths = np.diff(ends, prepend=-1)
    longest = int(lengths.max())
    bad = np.zeros(len(sizes), np.bool_)
    if longest >= 10:
        over = ends[(lengths > 10) | ((lengths == 10) & (raw[ends] > 1))]
        bad[np.searchsorted(np.cumsum(sizes), over, side="right")] = True
        if bad.any():
            return np.zeros(0, np.int64), bad
    return _join(raw, ends, longest), bad


def _join(raw: NDArray[np.uint8], ends: Longs, longest: int) -> Longs:
    """Join each varint's groups of 7 bits, from its last byte backwards, all varints at once."""
    values = raw[ends].astype(np.uint64)
    inside = np.ones(len(ends), np.bool_)
    for back in range(1, longest):
        # Before the first varint stands raw[-1], the last byte of all, which ends one: no special case.
        byte = raw[ends - back]
        inside &= byte >= 0x80
        values = np.where(inside, (values << _SHIFT) | (byte & _SEVEN), values)
    return ((values >> _ONE) ^ -(values & _ONE)).view(np.int64)


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


def encode(values: Longs, counts: Longs) -> tuple[bytes, Longs]:
    """Encode numbers; `counts[i]` of them are segment i. Returns the bytes, and each segment's number of bytes."""
    if not len(values):
        return b"", np.zeros(len(counts), np.int64)
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    largest = int(zigzag.max())
    if largest < 0x80:
        return zigzag.astype(np.uint8).tobytes(), counts
    lengths = np.ones(len(values), np.int64)
    for bits in range(7, largest.bit_length(), 7):
        lengths += zigzag >= np.uint64(1 << bits)
    stops = np.cumsum(lengths)
    starts = stops - lengths
    out = np.empty(stops[-1], np.uint8)
    for byte in range(int(lengths.max())):
        rows = np.flatnonzero(lengths > byte)
        seven = (zigzag[rows] >> np.uint64(7 * byte)) & _SEVEN
        more = np.where(lengths[rows] > byte + 1, np.uint8(0x80), np.uint8(0))
        out[starts[rows] + byte] = seven.astype(np.uint8) | more
    so_far = np.concatenate(([0], stops))
    bounds = np.cumsum(counts)
    return out.tobytes(), so_far[bounds] - so_far[bounds - counts]


def one(value: int) -> bytes:
    """Encode a single number, where numpy would cost more than it saves."""
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)
