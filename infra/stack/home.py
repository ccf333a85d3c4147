"""A stack's home folder: its state file, logs, ports and key."""

from __future__ import annotations

import errno
import json
import os
import random
import secrets
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from infra.addresses import STACK_FILE
from infra.errors import TidegateError

LAST_FILE = "last.json"
PORTS_FILE = "ports.json"
KEY_BYTES = 32
LOG_BYTES = 8 << 20
"""A log that is larger when its part starts is put aside, once: at most twice this a part, plus one run's growth."""
NEEDED_BYTES = 256 << 20
"""Free space that `up` asks for: the store's first parts, logs and a spool take tens of MB."""
# Below the range that Linux hands out for outgoing connections (32768 and up), so that
# a remembered port is rarely taken in between.
PORTS = range(20000, 32000)


class Home:
    """The folder, by absolute path; made when `prepare` is called."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.logs = self.root / "logs"
        self.key = self.root / "keys" / "pseudonym.key"
        self._begun: dict[str, int] = {}

    def prepare(self, needed_bytes: int = NEEDED_BYTES) -> None:
        """Make the folders. Raises TidegateError when they cannot be made or the disk is too full."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            self.key.parent.mkdir(mode=0o700, exist_ok=True)
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise TidegateError(f"cannot use {self.root} as home: {error.strerror}. Choose another --home.") from error
        if free < needed_bytes:
            raise TidegateError(
                f"only {free >> 20} MB are free on the disk of {self.root}, the stack needs {needed_bytes >> 20} MB. "
                "Free some space or choose another --home."
            )

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace stack.json in one step: a reader sees the old state or the new one. Raises OSError."""
        _replace(self.root / STACK_FILE, json.dumps(state, indent=2) + "\n")

    def read_state(self) -> dict[str, Any]:
        """Return the running stack's state; empty when there is none, or it cannot be read."""
        return _read(self.root / STACK_FILE)

    def retire_state(self) -> None:
        """Keep the state for whoever asks how it ended; it is no longer where others look for a stack."""
        (self.root / STACK_FILE).replace(self.root / LAST_FILE)

    def read_last(self) -> dict[str, Any]:
        """Return the state in which the last stack ended; empty when none has."""
        return _read(self.root / LAST_FILE)

    def log_path(self, part: str) -> Path:
        """Where a part's output goes."""
        return self.logs / f"{part}.log"

    def open_log(self, part: str) -> BinaryIO:
        """Open a part's log for appending, putting a large one aside first. Raises OSError."""
        path = self.log_path(part)
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        log = path.open("ab")
        self._begun[part] = log.tell()
        return log

    def log_tail(self, part: str, lines: int = 12) -> list[str]:
        """Return the last lines of a part's log, of its last start alone where that was ours."""
        try:
            with self.log_path(part).open("rb") as log:
                log.seek(max(self._begun.get(part, 0), log.seek(0, os.SEEK_END) - 16384))
                return log.read().decode(errors="replace").splitlines()[-lines:]
        except OSError:
            return []

    def pseudonym_key(self) -> Path:
        """Make the key at the first start and return its path. Raises TidegateError when it is not fit for use.

        Losing it breaks the link between what was stored and what comes; giving
        it away breaks the pseudonyms. So it is made once, never replaced, and
        read by the minimiser alone.
        """
        if not self.key.exists():
            fresh = self.key.with_suffix(f".{os.getpid()}")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(descriptor)
            fresh.rename(self.key)
        found = self.key.stat()
        if found.st_size != KEY_BYTES:
            raise TidegateError(f"{self.key} does not hold {KEY_BYTES} bytes. Restore it from your copy.")
        if found.st_mode & 0o077:
            raise TidegateError(f"{self.key} can be read by others. Run `chmod 600 {self.key}`.")
        return self.key

    def choose_ports(self, names: list[str]) -> tuple[dict[str, int], list[str]]:
        """Return a free port for each name, the one of the last start where it is still free, and what changed."""
        remembered = _read(self.root / PORTS_FILE)
        ports: dict[str, int] = {}
        notes = []
        for name in names:
            port = remembered.get(name)
            if type(port) is not int or port not in PORTS or port in ports.values():
                ports[name] = _free_port(set(ports.values()))
            elif is_free(port):
                ports[name] = port
            else:
                ports[name] = _free_port(set(ports.values()))
                notes.append(f"port {port} is taken: {name} is on {ports[name]} now")
        _replace(self.root / PORTS_FILE, json.dumps(remembered | ports) + "\n")
        return ports, notes


def is_free(port: int) -> bool:
    """Say whether a server could listen on this port of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, for the sake of TIME_WAIT
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(taken: set[int]) -> int:
    for _ in range(200):
        port = random.choice(PORTS)  # noqa: S311 - a port is no secret
        if port not in taken and is_free(port):
            return port
    raise TidegateError(f"no free port found between {PORTS.start} and {PORTS.stop} on 127.0.0.1.")


def disk_full(error: OSError) -> bool:
    """Say whether an error means that the disk, or the share of it that one may use, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(f".{os.getpid()}")
    try:
        fresh.write_text(text)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
