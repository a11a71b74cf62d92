"""A store that fails when it is told to: a loopback server between a client and the S3 that the tests share."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fault = Callable[["_Handler", int, bytes], bool]


def refusal(status: int, code: str) -> Fault:
    """Answer with an error of S3's."""

    def answer(handler: _Handler, _: int, __: bytes) -> bool:
        body = f"<Error><Code>{code}</Code><Message>{code} (made up)</Message></Error>".encode()
        handler.respond(status, {"Content-Type": "application/xml"}, body)
        return True

    return answer


def reset(handler: _Handler, status: int, body: bytes) -> bool:
    """Break the connection without an answer."""
    handler.close_connection = True
    return True


def cut_short(handler: _Handler, status: int, body: bytes) -> bool:
    """Announce the whole body and send half of it."""
    handler.respond(status, {**handler.answered, "Content-Length": str(len(body))}, body[: len(body) // 2])
    handler.close_connection = True
    return True


def half_the_range(handler: _Handler, status: int, body: bytes) -> bool:
    """Send half of what was asked for as if it were all."""
    handler.respond(status, handler.unsigned, body[: len(body) // 2])
    return True


def flipped_byte(handler: _Handler, status: int, body: bytes) -> bool:
    """Change a byte in the middle."""
    middle = len(body) // 2
    handler.respond(status, handler.unsigned, body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :])
    return True


class FlakyStore:
    """Faults to come, one for each read of an object; `forever` is the fault of all that follow."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.forever: Fault | None = None
        self.url = ""

    def next(self) -> Fault | None:
        return self.faults.pop(0) if self.faults else self.forever


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FlakyStore
    behind: str
    answered: dict[str, str]

    @property
    def unsigned(self) -> dict[str, str]:
        """The answer's headers as of a store that sends no checksums."""
        return {name: value for name, value in self.answered.items() if "checksum" not in name.lower()}

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.behind)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        found = response.read()
        dropped = ("transfer-encoding", "connection", "content-length")
        self.answered = {name: value for name, value in response.getheaders() if name.lower() not in dropped}
        if self.command == "HEAD":
            self.answered["Content-Length"] = response.getheader("Content-Length") or "0"
        connection.close()
        is_read = self.command == "GET" and "Range" in self.headers
        fault = self.store.next() if is_read else None
        if fault is None or not fault(self, response.status, found):
            self.respond(response.status, self.answered, found)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def respond(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def in_front_of(endpoint: str) -> Iterator[FlakyStore]:
    store = FlakyStore()
    handler = type("Handler", (_Handler,), {"store": store, "behind": endpoint})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
