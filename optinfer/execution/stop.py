"""Ends a stream of receipts from outside: by whoever notices that nothing can come of it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

from optinfer.errors import OptinferError

PATIENCE_SECONDS = 300.0
End = Callable[[OptinferError], None]


class Stop:
    """Called with an error, in any thread, it has the stream raise that; also one that begins later.

    Args:
        patience: seconds in which nothing can move, after which a stream ends by itself.
    """

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self.patience = patience
        self._lock = threading.Lock()
        self._end: End = lambda error: None
        self._error: OptinferError | None = None

    def __reduce__(self) -> tuple[type[Stop], tuple[()]]:
        """Travel as another one: Ray Data sends its settings to every process, and there is nothing to end there."""
        return Stop, ()

    def __call__(self, error: OptinferError) -> None:
        with self._lock:
            self._error = self._error or error
            self._end(self._error)

    def reaches(self, end: End) -> None:
        """Have `end` called when the stream is to end; at once where it was to already."""
        with self._lock:
            self._end = end
            if self._error:
                end(self._error)
