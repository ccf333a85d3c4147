"""A line to a server that a test can cut: the ways in which a request can fail, on real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["pass", "refuse", "lose_request", "lose_answer", "hold"]
"""`refuse`: nobody listens. `lose_request`: cut before the server has seen it. `lose_answer`: cut when the server has
done it. `hold`: neither forwarded nor answered, until the mode changes."""
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_CHUNK = 1 << 16


class Line:
    """Forwards connections to one server, as long as the mode says so."""

    def __init__(self, address: str) -> None:
        url = urlsplit(address)
        self._server = (url.hostname or "", url.port or 0)
        self._mode: Mode = "pass"
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self.requests = 0
        """INSERTs that clients have begun to send."""
        self._listener = self._listen(0)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def set(self, mode: Mode) -> None:
        """Go on so; a connection that is idle stays, unless nobody listens any more."""
        with self._changed:
            before, self._mode = self._mode, mode
            self._changed.notify_all()
        if mode == "refuse":
            self.close()
        elif before == "refuse":
            self._listener = self._listen(urlsplit(self.address).port or 0)

    def close(self) -> None:
        # A thread that waits in accept would go on listening.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            self._cut(each)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._server)
                self._open |= {client, server}
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(_CHUNK):
                self.requests += chunk.count(b"INSERT")
                with self._changed:
                    self._changed.wait_for(lambda: self._mode != "hold")
                if self._mode == "lose_request":
                    break
                server.sendall(chunk)
        self._cut(client)
        self._cut(server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (chunk := server.recv(_CHUNK)) and self._mode != "lose_answer":
                client.sendall(chunk)
        self._cut(client)
        self._cut(server)

    def _cut(self, end: socket.socket) -> None:
        self._open.discard(end)
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@contextlib.contextmanager
def line_to(address: str) -> Iterator[Line]:
    """Give a line that passes everything."""
    line = Line(address)
    try:
        yield line
    finally:
        line.set("refuse")
