"""Somebody who waits is told, every few seconds, that the work goes on, and what it is at."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from time import monotonic

Say = Callable[[str], None]

# No silence is longer than ten seconds, also where a library keeps this thread from its turn.
_SECONDS = 5.0


class Telling:
    """Says what it is told, and the last of it again where nothing else was said for a while."""

    def __init__(self, say: Say, every: float) -> None:
        self._say, self._every = say, every
        self._what, self._began, self._told = "", monotonic(), threading.Event()
        self.done = False
        self.thread = threading.Thread(target=self._repeat, name="optinfer-heartbeat", daemon=True)

    def __call__(self, what: str, silently: bool = False) -> None:
        """Say it, and begin to count its seconds; `silently`: it is said when it takes long."""
        self._what, self._began = what, monotonic()
        if not silently:
            self._say(what)
        self._told.set()

    def end(self) -> None:
        self.done = True
        self._told.set()
        self.thread.join()

    def _repeat(self) -> None:
        while not self.done:
            if self._told.wait(self._every):
                self._told.clear()
            elif self._what:
                self._say(f"{self._what}: {monotonic() - self._began:.0f} s so far")


@contextlib.contextmanager
def telling(say: Say, every: float = _SECONDS) -> Iterator[Telling]:
    """Give what says things once, and again every few seconds while the `with` block takes long."""
    tell = Telling(say, every)
    tell.thread.start()
    try:
        yield tell
    finally:
        tell.end()
