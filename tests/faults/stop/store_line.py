"""The line between the windower and the store, which sees an INSERT of windows go by."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

_INSERT = re.compile(rb"INSERT\W+(20)?INTO\W+(20)?windows\b")
_CHUNK = 1 << 16


class StoreLine:
    """Forwards connections to the store, whether it is there or not."""

    def __init__(self, address: str) -> None:
        url = urlsplit(address)
        self._store = (url.hostname or "", url.port or 0)
        self._act: Callable[[], None] | None = None
        self._acted = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def at_next_insert(self, act: Callable[[], None], timeout: float = 60) -> None:
        """Do something to the store right before the next INSERT of windows reaches it, and return when it is done."""
        self._acted.clear()
        self._act = act
        assert self._acted.wait(timeout), "no window is stored"

    def close(self) -> None:
        # A thread that waits in accept would go on listening.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    store = socket.create_connection(self._store)
                except OSError:
                    client.close()
                    continue
                threading.Thread(target=self._pass, args=(client, store, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(store, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, to_store: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                if to_store and self._act is not None and _INSERT.search(chunk):
                    act, self._act = self._act, None
                    act()
                    self._acted.set()
                target.sendall(chunk)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
