"""Takes news to endpoints on a thread of its own: one that is down, slow or silent neither slows nor fails a job.

At the end it is waited for, a bounded time. What has not arrived by then is given back with the reason.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit


class Refused(Exception):
    """An endpoint did not take something; the text says what it did instead."""


@dataclass(frozen=True, kw_only=True)
class Letter:
    """One thing to deliver.

    Attributes:
        what: it is, in words; `to` is where it goes, without what could be a secret.
        body: as it is kept where it does not arrive.
        deliver: returns when it has arrived, and raises where it cannot; it may stop early once the event is set.
    """

    what: str
    to: str
    body: str
    deliver: Callable[[threading.Event], None]


@dataclass(frozen=True)
class Undelivered:
    """A letter that has not arrived, as far as anybody knows."""

    letter: Letter
    reason: str


class Courier:
    """Delivers letters to one endpoint, in order."""

    def __init__(self, name: str) -> None:
        self._letters: queue.Queue[Letter | None] = queue.Queue()
        self._turn = threading.Lock()
        self._pending: list[Letter] = []
        self._refused: list[Undelivered] = []
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"optinfer-{name}", daemon=True)

    def send(self, letter: Letter) -> None:
        """Queue a letter; returns at once."""
        with self._turn:
            self._pending.append(letter)
        self._letters.put(letter)
        if not self._thread.ident:
            with contextlib.suppress(RuntimeError):  # no thread is to be had: then nothing arrives
                self._thread.start()

    def close(self, seconds: float) -> list[Undelivered]:
        """Wait so long for what is queued; return what has not arrived."""
        self._letters.put(None)
        if self._thread.ident:
            self._thread.join(max(seconds, 0.0))
        self._given_up.set()
        with self._turn:
            late = [Undelivered(letter, "it has not confirmed in the time there was") for letter in self._pending]
            return [*self._refused, *late]

    def _work(self) -> None:
        while (letter := self._letters.get()) is not None and not self._given_up.is_set():
            reason = ""
            try:
                letter.deliver(self._given_up)
            except Refused as refused:
                reason = str(refused)
            except Exception as error:  # its text may quote what is secret in a URL
                reason = type(error).__name__
            with self._turn:
                self._pending.remove(letter)
                if reason:
                    self._refused.append(Undelivered(letter, reason))


def origin(url: str) -> str:
    """Return a URL without user, path and query: the path of a webhook may be all that guards it."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    except ValueError:
        return "..."
