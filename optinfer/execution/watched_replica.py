"""A replica that ends its own process when its model hangs: a row that never ends is found as one that crashes is.

No thread can end another that is stuck in native code, so the process goes, and what made it hang is tried again in a
process of its own (`inference/isolation.py`), down to the row.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic

import pyarrow as pa

from optinfer.inference.answers import Scored
from optinfer.inference.feed import Rows
from optinfer.inference.isolation import Patience
from optinfer.inference.replica import Replica, ReplicaSettings

_LOOK_SECONDS = 1.0
_PATIENCE = Patience()


def _end_process(how: str) -> None:
    print(f"this replica ends itself: {how}", file=sys.stderr, flush=True)
    os._exit(1)


class Pulse:
    """Tells a model that hangs from one that works: by the time since its last step.

    Args:
        patience: how long a step may take.
        clock: gives seconds.
    """

    def __init__(self, patience: Patience = _PATIENCE, clock: Callable[[], float] = monotonic) -> None:
        self._patience, self._clock = patience, clock
        self._lock = threading.Lock()
        self._busy, self._last, self._slowest = 0, 0.0, 0.0
        self._in_model = False

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Work in a `with` block; several threads may."""
        with self._lock:
            self._last = self._last if self._busy else self._clock()
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                self._step(in_model=False)

    def beat(self, rows: Rows) -> None:
        """Begin a step: a micro-batch in the model, or something else where no rows are named."""
        with self._lock:
            if self._busy:
                self._step(in_model=len(rows) > 0)

    def silent(self) -> str:
        """Say how long a model has made no step, where that is too long; "" where it is not."""
        with self._lock:
            least = max(self._patience.least, self._patience.times * self._slowest)
            allowed = least if self._slowest else self._patience.first
            silence = self._clock() - self._last if self._busy else 0.0
        return f"its model made no step for {silence:.0f} s" if silence > allowed else ""

    def _step(self, in_model: bool) -> None:
        now = self._clock()
        if self._in_model:  # of another step nobody learns how long the model may take: the first one may compile
            self._slowest = max(self._slowest, now - self._last)
        self._last, self._in_model = now, in_model


class WatchedReplica(Replica):
    """Like a replica, for a process that has nothing else to do.

    Args:
        patience: how long the model may be silent.
        end: ends the process, and is told why.
    """

    def __init__(
        self, settings: ReplicaSettings, patience: Patience = _PATIENCE, end: Callable[[str], None] = _end_process
    ) -> None:
        self._pulse, self._end = Pulse(patience), end
        super().__init__(settings, watch=self._pulse.beat)
        threading.Thread(target=self._look, name="optinfer-pulse", daemon=True).start()

    def score(self, table: pa.Table) -> Scored:
        with self._pulse.busy():
            return super().score(table)

    def _look(self) -> None:
        pause = threading.Event()
        while not (how := self._pulse.silent()):
            pause.wait(_LOOK_SECONDS)
        self._end(how)
