"""A connection that can be cut: forwards TCP to a port of this machine until told otherwise."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator


class Proxy:
    """Between a client and `target`; `cut` drops what is connected and takes nobody until `mend`."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self._target, self._tls = target, tls
        self._connected: set[socket.socket] = set()
        self._mutex = threading.Lock()
        self._up = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        with self._mutex:
            self._up = False
            for end in self._connected:
                closed(end)
            self._connected.clear()

    def mend(self) -> None:
        with self._mutex:
            self._up = True

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with contextlib.suppress(OSError):
                    self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        if self._tls:
            client = self._tls.wrap_socket(client, server_side=True)
        with self._mutex:
            if not self._up:
                closed(client)
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._connected |= {client, server}
        for one, other in ((client, server), (server, client)):
            threading.Thread(target=self._forward, args=(one, other), daemon=True).start()

    def _forward(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(2**16):
                other.sendall(data)
        closed(other)


def closed(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextlib.contextmanager
def between(target: int, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    proxy = Proxy(target, tls)
    try:
        yield proxy
    finally:
        proxy.close()
