"""An HTTP endpoint on loopback that answers as a test says: with codes in turn, after a while, or never."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NEVER, DRIPPING = "never", "dripping"


@dataclass
class Endpoint:
    """What arrived, and what is answered: `answers` in turn, the last one for ever."""

    answers: tuple[int | str, ...]
    url: str = ""
    arrived: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def next_answer(self, headers: dict[str, str], body: bytes) -> int | str:
        self.arrived.append((headers, body))
        return self.answers[min(len(self.arrived), len(self.answers)) - 1]


@contextmanager
def endpoint(*answers: int | str, path: str = "/hook") -> Iterator[Endpoint]:
    """Serve until the block ends; an endpoint that never answers lets go then."""
    served = Endpoint(answers or (200,))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = served.next_answer({name.lower(): value for name, value in self.headers.items()}, body)
            if answer == NEVER:
                served.released.wait()
            elif answer == DRIPPING:  # never silent for long, and never done
                while not served.released.wait(0.05):
                    self.wfile.write(b"H")
                    self.wfile.flush()
            else:
                self.send_response(int(answer))
                self.send_header("Location", served.url)
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # the sender has gone
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}{path}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield served
    finally:
        served.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
