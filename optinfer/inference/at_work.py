"""What a replica does just now, step by step, and how long a step may take: a row that never ends is told by that.

A native call that hangs cannot be interrupted, so the process that it is in has to go: see `Watchdog`, which ends an
actor from within, and isolation.py, which ends a process of its own from outside and finds the row.
"""

from __future__ import annotations

import contextlib
import faulthandler
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from optinfer.errors import OptinferError

Rows = np.ndarray[Any, Any]
# A model takes no longer to load, with what is compiled for it.
LOAD_SECONDS = 1800.0
_STDERR = 2


@dataclass(frozen=True, eq=False)
class Step:
    """A micro-batch in the model, or all rows of a table being made ready or finished.

    Attributes:
        rows: of the table that are at work; none named means all.
        count: how many these are.
    """

    rows: Rows
    count: int


# Surrounds a step: whoever waits, in this process or another, learns that it began and ended.
Watch = Callable[[Step], AbstractContextManager[object]]


class Unneeded(OptinferError):
    """The rows at hand are answered elsewhere; for whoever asked for them, and no person reads it.

    Attributes:
        rows: of those that the model was given already.
    """

    def __init__(self, rows: int) -> None:
        super().__init__("the node leaves, its fragments are given back")
        self.rows = rows


def unwatched(step: Step) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


@dataclass(frozen=True, kw_only=True)
class TimeLimits:
    """Seconds after which a step will never end.

    Attributes:
        micro_batch: of one, and the least for any step.
        row: for each of the rows that are made ready or finished together.
    """

    micro_batch: float
    row: float = 0.0

    def of(self, step: Step) -> float:
        return self.micro_batch if len(step.rows) else max(self.micro_batch, self.row * step.count)


class Watchdog:
    """Ends this process when a step does not end: Ray starts the actor again, and isolates what it was doing.

    The clock is one of the C library's, and asks for no GIL: a native call that hangs may hold it. Where each thread
    was is in the process's log.

    Made by the thread that loads the replica. What this thread scores are canaries, with which a runtime compiles: they
    are given the time they take.
    """

    def __init__(self, limits: TimeLimits) -> None:
        self._limits = limits
        self._loader = threading.get_ident()
        self._until: dict[int, float] = {}
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def __call__(self, step: Step) -> Iterator[None]:
        me = threading.get_ident()
        if me == self._loader:
            yield
            return
        self._set(me, monotonic() + self._limits.of(step))
        try:
            yield
        finally:
            self._set(me, None)

    def _set(self, thread: int, until: float | None) -> None:
        """Note until when a thread's step has to end, None where it has; the earliest of all sets the clock."""
        with self._turn:
            if until is None:
                self._until.pop(thread, None)
            else:
                self._until[thread] = until
            if self._until:
                left = max(min(self._until.values()) - monotonic(), 1e-3)
                faulthandler.dump_traceback_later(left, exit=True, file=_STDERR)
            else:
                faulthandler.cancel_dump_traceback_later()


class UntilToldToLeave:
    """Begins no micro-batch any more once somebody says so: what a model has is answered, and the rest is left.

    Made by the thread that loads the replica, whose canaries are scored in any case.

    Args:
        watch: surrounds the steps that are made.
        leaving: asked before each micro-batch.
    """

    def __init__(self, watch: Watch, leaving: Callable[[], bool]) -> None:
        self._watch, self._leaving = watch, leaving
        self._loader = threading.get_ident()
        self._given: dict[int, int] = {}

    def __call__(self, step: Step) -> AbstractContextManager[object]:
        """Raise `Unneeded` instead of a micro-batch."""
        me = threading.get_ident()
        if not len(step.rows):
            self._given[me] = 0  # a table begins, or ends
        elif me != self._loader:
            if self._leaving():
                raise Unneeded(self._given.get(me, 0))
            self._given[me] = self._given.get(me, 0) + step.count
        return self._watch(step)
