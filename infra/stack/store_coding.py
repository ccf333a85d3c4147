"""Compression of bodies: HTTP's Content-Encoding, and ClickHouse's own blocks (`compress=1`, `decompress=1`).

A block of ClickHouse's: 16 bytes CityHash128 of what follows; one byte method
(0x82 LZ4, 0x90 ZSTD, 0x02 none); size with this header of 9 bytes; size
unpacked; both UInt32, little-endian. Written from the description in
ClickHouse's documentation of the native protocol; the tests read blocks that the
engine itself wrote.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import lz4.block  # type: ignore[import-untyped] # ships no types
import lz4.frame  # type: ignore[import-untyped] # ships no types
from backports import zstd

from infra.stack.store_cityhash import cityhash128
from infra.stack.store_errors import CANNOT_DECOMPRESS, QUERY_IS_TOO_LARGE, StoreRefusal

# Cheapest first: the reader is most often on the same machine.
ENCODINGS = ("lz4", "zstd", "gzip", "deflate")

_HEADER = struct.Struct("<BII")
_CHECKSUM = 16
_LZ4, _ZSTD, _NONE = 0x82, 0x90, 0x02
_BLOCK = 1 << 16
"""Bytes in a block that is written: the checksum is computed in Python, so compressing more at once saves little."""
_PIECE = 1 << 20


def choose(accepted: str) -> str | None:
    """Return the first of ENCODINGS that an Accept-Encoding header names; None for none."""
    names = {part.split(";")[0].strip().lower() for part in accepted.split(",") if "q=0" not in part.replace(" ", "")}
    return next((name for name in ENCODINGS if name in names), None)


def decode(body: bytes, encoding: str, limit: int) -> bytes:
    """Unpack a request's body. Raises StoreRefusal: unknown, broken, or more than `limit` bytes unpacked."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    openers: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
        "x-gzip": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
        "deflate": zlib.decompressobj,
        "lz4": lz4.frame.LZ4FrameDecompressor,
        "zstd": zstd.ZstdDecompressor,
    }
    if encoding not in openers:
        raise StoreRefusal(CANNOT_DECOMPRESS, f"Unknown Content-Encoding; known are {', '.join(ENCODINGS)}")
    try:
        return _unpack(openers[encoding], body, limit)
    except (zlib.error, zstd.ZstdError, RuntimeError, EOFError, ValueError):
        raise StoreRefusal(CANNOT_DECOMPRESS, f"The body is not valid {encoding}") from None


def _unpack(opener: Callable[[], Any], body: bytes, limit: int) -> bytes:
    """Unpack one or more streams that follow each other, never more than `limit` bytes."""
    pieces: list[bytes] = []
    size = 0
    while body:
        unpacker = opener()
        data = body
        while not unpacker.eof:
            piece = unpacker.decompress(data, limit - size + 1)
            size += len(piece)
            if size > limit:
                raise StoreRefusal(QUERY_IS_TOO_LARGE, f"The body unpacks to more than {limit} bytes")
            data = getattr(unpacker, "unconsumed_tail", b"")
            if not piece and not data and not unpacker.eof:
                raise EOFError
            pieces.append(piece)
        body = unpacker.unused_data or b""
    return b"".join(pieces)


def encoder(encoding: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    """Return (pack, finish) of one of ENCODINGS for a streamed answer."""
    if encoding == "lz4":
        frame = lz4.frame.LZ4FrameCompressor()
        begun = False

        def pack(data: bytes) -> bytes:
            nonlocal begun
            head = b"" if begun else frame.begin()
            begun = True
            packed: bytes = frame.compress(data)
            return head + packed

        return pack, lambda: (b"" if begun else frame.begin()) + frame.flush()
    if encoding == "zstd":
        packer = zstd.ZstdCompressor(level=1)
        return packer.compress, packer.flush
    bits = zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS
    deflater = zlib.compressobj(1, zlib.DEFLATED, bits)
    return deflater.compress, deflater.flush


def read_blocks(body: bytes, limit: int) -> bytes:
    """Unpack ClickHouse's blocks. Raises StoreRefusal for broken ones, or more than `limit` bytes.

    The checksum is not checked: TCP has its own, and in Python it costs more
    than the rest together.
    """
    pieces: list[bytes] = []
    position, size = 0, 0
    while position < len(body):
        start = position + _CHECKSUM
        if start + _HEADER.size > len(body):
            raise StoreRefusal(CANNOT_DECOMPRESS, "A compressed block is cut short")
        method, packed, unpacked = _HEADER.unpack_from(body, start)
        position = start + packed
        size += unpacked
        if size > limit:
            raise StoreRefusal(QUERY_IS_TOO_LARGE, f"The body unpacks to more than {limit} bytes")
        if packed < _HEADER.size or position > len(body):
            raise StoreRefusal(CANNOT_DECOMPRESS, "A compressed block is cut short")
        pieces.append(_read_block(method, body[start + _HEADER.size : position], unpacked))
    return b"".join(pieces)


def _read_block(method: int, packed: bytes, size: int) -> bytes:
    try:
        if method == _LZ4:
            data: bytes = lz4.block.decompress(packed, uncompressed_size=size)
        elif method == _ZSTD:
            data = zstd.decompress(packed)
        elif method == _NONE:
            data = packed
        else:
            raise StoreRefusal(CANNOT_DECOMPRESS, "A compressed block has an unknown method")
    except (lz4.block.LZ4BlockError, zstd.ZstdError):
        raise StoreRefusal(CANNOT_DECOMPRESS, "A compressed block is broken") from None
    if len(data) != size:
        raise StoreRefusal(CANNOT_DECOMPRESS, "A compressed block has another size than it says")
    return data


def write_blocks(data: bytes) -> bytes:
    """Pack into ClickHouse's blocks, LZ4."""
    return b"".join(_write_block(data[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK))


def _write_block(data: bytes) -> bytes:
    packed: bytes = lz4.block.compress(data, store_size=False)
    block = _HEADER.pack(_LZ4, len(packed) + _HEADER.size, len(data)) + packed
    return cityhash128(block) + block


def pieces(body: memoryview) -> Iterator[bytes]:
    """Cut a finished answer into pieces to send."""
    for at in range(0, len(body), _PIECE):
        yield bytes(body[at : at + _PIECE])
