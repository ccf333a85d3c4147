"""CityHash128 in the version that ClickHouse froze (1.0.2): the checksum of its compressed blocks.

After G. Pike and J. Alakuijala, "Introducing CityHash" (2011), and the
published algorithm of release 1.0.2. About 15 MB/s in Python, which is enough
for the few clients that ask for such blocks.
"""

from __future__ import annotations

import struct

_MASK = (1 << 64) - 1
_K0, _K1, _K2, _K3 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F, 0xC949D7C7509E6557
_KMUL = 0x9DDFEA08EB382D69
_WORDS = struct.Struct("<16Q")


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _rotate(value: int, shift: int) -> int:
    return ((value >> shift) | (value << (64 - shift))) & _MASK


def _shift_mix(value: int) -> int:
    return value ^ (value >> 47)


def _hash16(low: int, high: int) -> int:
    a = ((low ^ high) * _KMUL) & _MASK
    a ^= a >> 47
    b = ((high ^ a) * _KMUL) & _MASK
    b ^= b >> 47
    return (b * _KMUL) & _MASK


def _hash_to_16(data: bytes) -> int:
    n = len(data)
    if n > 8:
        a, b = _u64(data, 0), _u64(data, n - 8)
        return _hash16(a, _rotate((b + n) & _MASK, n)) ^ b
    if n >= 4:
        return _hash16((n + (_u32(data, 0) << 3)) & _MASK, _u32(data, n - 4))
    if n > 0:
        y = data[0] + (data[n >> 1] << 8)
        z = n + (data[n - 1] << 2)
        return (_shift_mix(((y * _K2) & _MASK) ^ ((z * _K3) & _MASK)) * _K2) & _MASK
    return _K2


def _weak(w: int, x: int, y: int, z: int, a: int, b: int) -> tuple[int, int]:
    a = (a + w) & _MASK
    b = _rotate((b + a + z) & _MASK, 21)
    c = a
    a = (a + x + y) & _MASK
    b = (b + _rotate(a, 44)) & _MASK
    return (a + z) & _MASK, (b + c) & _MASK


def _weak_at(data: bytes, at: int, a: int, b: int) -> tuple[int, int]:
    w, x, y, z = struct.unpack_from("<4Q", data, at)
    return _weak(w, x, y, z, a, b)


def _murmur(data: bytes, a: int, b: int) -> tuple[int, int]:
    n = len(data)
    left = n - 16
    if left <= 0:
        a = (_shift_mix((a * _K1) & _MASK) * _K1) & _MASK
        c = (b * _K1 + _hash_to_16(data)) & _MASK
        d = _shift_mix((a + (_u64(data, 0) if n >= 8 else c)) & _MASK)
    else:
        c = _hash16((_u64(data, n - 8) + _K1) & _MASK, a)
        d = _hash16((b + n) & _MASK, (c + _u64(data, n - 16)) & _MASK)
        a = (a + d) & _MASK
        at = 0
        while left > 0:
            a ^= (_shift_mix((_u64(data, at) * _K1) & _MASK) * _K1) & _MASK
            a = (a * _K1) & _MASK
            b ^= a
            c ^= (_shift_mix((_u64(data, at + 8) * _K1) & _MASK) * _K1) & _MASK
            c = (c * _K1) & _MASK
            d ^= c
            at += 16
            left -= 16
    a = _hash16(a, c)
    b = _hash16(d, b)
    return a ^ b, _hash16(b, a)


def _long(data: bytes, low: int, high: int) -> tuple[int, int]:
    """Hash 128 bytes or more, 128 a round, then the rest from its end in steps of 32."""
    n = len(data)
    x, y, z = low, high, (n * _K1) & _MASK
    v0 = (_rotate(y ^ _K1, 49) * _K1 + _u64(data, 0)) & _MASK
    v1 = (_rotate(v0, 42) * _K1 + _u64(data, 8)) & _MASK
    w0 = (_rotate((y + z) & _MASK, 35) * _K1 + x) & _MASK
    w1 = (_rotate((x + _u64(data, 88)) & _MASK, 53) * _K1) & _MASK
    at = 0
    while n - at >= 128:
        words = _WORDS.unpack_from(data, at)
        for s in (words[:8], words[8:]):
            x = (_rotate((x + y + v0 + s[2]) & _MASK, 37) * _K1) & _MASK
            y = (_rotate((y + v1 + s[6]) & _MASK, 42) * _K1) & _MASK
            x ^= w1
            y ^= v0
            z = _rotate(z ^ w0, 33)
            v0, v1 = _weak(s[0], s[1], s[2], s[3], (v1 * _K1) & _MASK, (x + w0) & _MASK)
            w0, w1 = _weak(s[4], s[5], s[6], s[7], (z + w1) & _MASK, y)
            z, x = x, z
        at += 128
    y = (y + _rotate(w0, 37) * _K0 + z) & _MASK
    x = (x + _rotate((v0 + z) & _MASK, 49) * _K0) & _MASK
    for done in range(32, n - at + 32, 32):
        y = (_rotate((y - x) & _MASK, 42) * _K0 + v1) & _MASK
        w0 = (w0 + _u64(data, n - done + 16)) & _MASK
        x = (_rotate(x, 49) * _K0 + w0) & _MASK
        w0 = (w0 + v0) & _MASK
        v0, v1 = _weak_at(data, n - done, v0, v1)
    x, y = _hash16(x, v0), _hash16(y, w0)
    return (_hash16((x + v1) & _MASK, w1) + y) & _MASK, _hash16((x + w1) & _MASK, (y + v1) & _MASK)


def cityhash128(data: bytes) -> bytes:
    """Return the 16 bytes that stand before a compressed block: low half, high half, little-endian."""
    n = len(data)
    if n >= 16:
        rest, low, high = data[16:], _u64(data, 0) ^ _K3, _u64(data, 8)
    elif n >= 8:
        rest, low, high = b"", _u64(data, 0) ^ ((n * _K0) & _MASK), _u64(data, n - 8) ^ _K1
    else:
        rest, low, high = data, _K0, _K1
    low, high = _long(rest, low, high) if len(rest) >= 128 else _murmur(rest, low, high)
    return struct.pack("<QQ", low, high)
