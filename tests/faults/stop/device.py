"""A device that is deaf to every switch: it goes on sending what it captures, whatever the control plane says.

A well-behaved producer stops by itself, and leaves the gates behind it little to
refuse. This one keeps every partition moving, and their gates at work.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

from schemas.wire import frame
from tests.faults.stop.stored import DEAF_SESSIONS
from tests.path_stack import PARTITIONS, PathStack, Writer
from tests.streams_support import raw_body

PERIOD_S = 0.1
EVENTS = 16


class DeafDevice:
    """Sends a batch a partition ten times a second, all captured at that moment. `epoch` is what it claims."""

    def __init__(self, path: PathStack, subject: str) -> None:
        self.epoch = 0
        self._path, self._subject, self._writer = path, subject, Writer(path)
        self._schema = path.schema_ids["interactions.raw-value"]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        name, number = f"{DEAF_SESSIONS}{secrets.token_hex(4)}", 0
        while not self._stop.wait(PERIOD_S):
            now = time.time_ns() // 1_000_000
            for partition in range(PARTITIONS):
                header: dict[str, Any] = {"session": f"{name}-{partition}", "first_number": number, "epoch": self.epoch}
                body = raw_body([now] * EVENTS, subject=self._subject, **header)
                self._writer.raw(partition, frame(self._schema, body), now)
            number += EVENTS
