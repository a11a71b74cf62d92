"""A store that fails when it is told to: a loopback server between a client and the S3 that the tests share."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.process import BaseProcess
from urllib.parse import urlsplit

Fault = Callable[["Handler"], bool]
Headers = Mapping[str, str]


def refusal(status: int, code: str) -> Fault:
    """Answer with an error of S3's, which does not get the request."""

    def answer(handler: Handler) -> bool:
        body = f"<Error><Code>{code}</Code><Message>{code} (made up)</Message></Error>".encode()
        handler.respond(status, {"Content-Type": "application/xml"}, body)
        return True

    return answer


def reset(handler: Handler) -> bool:
    """Break the connection without an answer."""
    handler.close_connection = True
    return True


def cut_short(handler: Handler) -> bool:
    """Announce the whole body and send half of it."""
    status, body = handler.pass_on()
    handler.respond(status, {**handler.answered, "Content-Length": str(len(body))}, body[: len(body) // 2])
    handler.close_connection = True
    return True


def half_the_range(handler: Handler) -> bool:
    """Send half of what was asked for as if it were all."""
    status, body = handler.pass_on()
    handler.respond(status, handler.unsigned, body[: len(body) // 2])
    return True


def flipped_byte(handler: Handler) -> bool:
    """Change a byte in the middle."""
    status, body = handler.pass_on()
    handler.respond(status, handler.unsigned, _damaged(body))
    return True


def flipped_byte_of_what_is_signed(handler: Handler) -> bool:
    """Change a byte in the middle of an object, whose checksum comes with it; all else passes as it is."""
    status, body = handler.pass_on()
    signed = any(name.lower().startswith("x-amz-checksum-") for name in handler.answered)
    handler.respond(status, handler.answered, _damaged(body) if signed and handler.command == "GET" else body)
    return True


def flipped_byte_of_pages(handler: Handler) -> bool:
    """Change a byte in the middle of an object, or of a part of one, which only the checksums of its pages tell."""
    status, body = handler.pass_on()
    handler.respond(status, handler.unsigned, _damaged(body) if handler.command == "GET" else body)
    return True


def _damaged(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :] if body else body


def late(handler: Handler) -> bool:
    """Let the client wait."""
    threading.Event().wait(0.3)
    return False


def never(handler: Handler) -> bool:
    """Never answer, and keep the connection."""
    handler.store.ended.wait()
    return True


def a_byte_now_and_then(handler: Handler) -> bool:
    """Announce the whole body and send it so slowly that no pause between two bytes is long."""
    _, body = handler.pass_on()
    handler.send_response_only(206)
    for name, value in {**handler.answered, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while body and not handler.store.ended.wait(0.1):
            handler.wfile.write(body[:1])
            body = body[1:]
    handler.close_connection = True
    return True


def done_and_failed(handler: Handler) -> bool:
    """Do what is asked, and say that it failed."""
    handler.pass_on()
    return refusal(500, "InternalError")(handler)


def done_and_lost(handler: Handler) -> bool:
    """Do what is asked, and break the connection before anybody hears of it."""
    handler.pass_on()
    return reset(handler)


def not_removed(handler: Handler) -> bool:
    """Answer that all went well, and say of each object that it did not."""
    error = (
        b"<DeleteResult><Error><Key>k</Key><Code>InternalError</Code><Message>made up</Message></Error></DeleteResult>"
    )
    handler.respond(200, {"Content-Type": "application/xml"}, error)
    return True


def other_sizes(handler: Handler) -> bool:
    """Change a bit of the first size in a listing."""
    status, body = handler.pass_on()
    handler.respond(status, handler.unsigned, re.sub(rb"<Size>\d", b"<Size>9", body, count=1))
    return True


def wants_other_keys(key: str) -> Fault:
    """Refuse whoever does not have this key."""

    def answer(handler: Handler) -> bool:
        if f"Credential={key}/" in handler.headers.get("Authorization", ""):
            return False
        return refusal(403, "ExpiredToken")(handler)

    return answer


def killing(process: BaseProcess, done: bool) -> Fault:
    """Kill who asks, before or after it is done."""

    def kill(handler: Handler) -> bool:
        if done:
            handler.pass_on()
        process.kill()
        return reset(handler)

    return kill


# What becomes of a request now and then; whoever asks again meets another, or none.
FAULTS: dict[str, Fault] = {
    "internal error": refusal(500, "InternalError"),
    "unavailable": refusal(503, "ServiceUnavailable"),
    "slow down": refusal(503, "SlowDown"),
    "forbidden for a moment": refusal(403, "AccessDenied"),
    "conflict": refusal(409, "ConditionalRequestConflict"),
    "damaged on its way in": refusal(400, "BadDigest"),
    "reset": reset,
    "late": late,
    "cut short": cut_short,
    "flipped byte": flipped_byte_of_what_is_signed,
    "done, and told as an error": done_and_failed,
    "done, and the answer lost": done_and_lost,
}


def is_read(method: str, path: str, headers: Headers) -> bool:
    """Tell whether a request reads an object's bytes."""
    return method == "GET" and "Range" in headers


class FlakyStore:
    """Faults to come, one for each request that `meets` them; `forever` is the fault of all that follow.

    Attributes:
        ignored: headers that the store does not know, in lower case.
        asked: method and path of every request.
        ended: set at the end, for those that wait for it.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.forever: Fault | None = None
        self.meets: Callable[[str, str, Headers], bool] = is_read
        self.ignored: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.url = ""
        self.ended = threading.Event()

    def next(self, method: str, path: str, headers: Headers) -> Fault | None:
        self.asked.append((method, path))
        if not self.meets(method, path, headers):
            return None
        return self.faults.pop(0) if self.faults else self.forever


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FlakyStore
    behind: str
    sent: bytes
    answered: dict[str, str]

    @property
    def unsigned(self) -> dict[str, str]:
        """The answer's headers as of a store that sends no checksums."""
        return {name: value for name, value in self.answered.items() if "checksum" not in name.lower()}

    def _serve(self) -> None:
        self.sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.store.next(self.command, self.path, dict(self.headers))
        if fault is None or not fault(self):
            status, found = self.pass_on()
            self.respond(status, self.answered, found)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def pass_on(self) -> tuple[int, bytes]:
        """Ask the store behind; return its status and body, and keep its headers."""
        parts = urlsplit(self.behind)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
        unknown = {"host", *self.store.ignored}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in unknown}
        connection.request(self.command, self.path, self.sent, headers)
        response = connection.getresponse()
        found = response.read()
        dropped = ("transfer-encoding", "connection", "content-length")
        self.answered = {name: value for name, value in response.getheaders() if name.lower() not in dropped}
        if self.command == "HEAD":
            self.answered["Content-Length"] = response.getheader("Content-Length") or "0"
        connection.close()
        return response.status, found

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
    handler = type("Handler", (Handler,), {"store": store, "behind": endpoint})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield store
    finally:
        store.ended.set()
        server.shutdown()
        server.server_close()
