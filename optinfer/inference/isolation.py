"""A replica in a process of its own, which may die or hang in the place of its caller's.

A fragment that took a replica's process down is scored here, and so is the sample that proves a model. The whole table
is tried first (the crash may have been another's, and the micro-batches stay the same). Where the process dies or falls
silent, the rows that were at work are told from the others and go to the next process one by one: whichever ends it is
rejected, the others are scored. Very many rows are halved first. So a row that ends a process costs two loads of the
model, or one where it shares its micro-batch with others of its kind, however many good rows are around it.
`python -m optinfer.inference.isolation FD` is the other side.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import LoadError, QuarantineError
from optinfer.inference.answers import Scored, joined
from optinfer.inference.at_work import LOAD_SECONDS, Step, TimeLimits
from optinfer.inference.canaries import require_proved
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.records.stats import Stats
from optinfer.system import last_resort
from optinfer.system.child import Child
from optinfer.system.quiet import muted

Rows = np.ndarray[Any, Any]
_NOTHING: Rows = np.array([], dtype=np.int64)
# So many rows at most are scored one by one: trying them together would cost a load for each half that fails.
_FEW = 256
# Nor is it any row's fault that the process ends before it has seen one.
_MOST_LOADS = 3


@dataclass(frozen=True)
class Patience:
    """How long, and how often, a process may fail to answer: seconds of silence after which it is ended.

    Attributes:
        load: until the model is loaded.
        first: until the first micro-batch is done: what is compiled on the first call. Also between two steps.
        least: later, or `times` what the slowest micro-batch took, whichever is more.
        row: for each of the rows that are made ready or finished together, where that is more.
        deaths: so many without an answer are no row's fault.
    """

    load: float = LOAD_SECONDS
    first: float = 600.0
    least: float = 60.0
    times: float = 50.0
    row: float = 0.0
    deaths: int = 12

    @classmethod
    def within(cls, limits: TimeLimits | None) -> Patience:
        """Return the patience of a replica with these limits; the usual one where there are none."""
        return cls() if limits is None else cls(least=limits.micro_batch, times=0.0, row=limits.row)


class Died(Exception):
    """The process ended, or was ended, without an answer; the text says how.

    Attributes:
        rows: those that were at work; none where all were.
        late: it was busy, and all the time it had was over.
        loaded: it had loaded, and proved itself.
    """

    def __init__(self, how: str, rows: Rows, late: bool, loaded: bool) -> None:
        super().__init__(how)
        self.rows = rows
        self.late = late
        self.loaded = loaded


class IsolatedReplica:
    """Answers like `Replica.score`, but survives rows that kill the process or never end.

    Args:
        patience: None takes that of the settings.
        most_rejected: as many rows may end the process; with more the whole job is hopeless.

    Attributes:
        loads: how many processes were started.
    """

    def __init__(
        self, settings: ReplicaSettings, patience: Patience | None = None, most_rejected: float = math.inf
    ) -> None:
        self._settings = settings
        self.patience = patience or Patience.within(settings.limits)
        self._most_rejected = most_rejected
        self.loads = 0
        self._child: _Child | None = None
        self._slowest = 0.0
        self._answered = settings.canaries is not None  # each process answers these before it sees a row
        self._deaths = self._unloaded = self._rejections = 0

    def __enter__(self) -> IsolatedReplica:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_child()

    def score(self, table: pa.Table) -> Scored:
        """Score a table with one column per role; a row that ends the process is rejected with how it did.

        Raises:
            LoadError: the process ends with whatever it is given.
            QuarantineError: more rows end it than the job may leave out.
        """
        try:
            scored: Scored = self.ask(_score, table.combine_chunks())
        except Died as died:
            self._require_rows_fault(died)
            if not died.loaded:
                return self.score(table)
            if table.num_rows == 1:
                return self._rejected(f"the row ends the replica's process: {died}")
            return joined(
                [(rows, self.score(table.take(pa.array(rows)))) for rows in _apart(table.num_rows, died.rows)]
            )
        self._answered = self._answered or bool(len(scored.kept))
        return scored

    def _require_rows_fault(self, died: Died) -> None:
        """Tell rows that end the process from a process that ends whatever it is given.

        Raises:
            LoadError: it does.
        """
        self._deaths += 1
        self._unloaded += not died.loaded
        if self._unloaded >= _MOST_LOADS:
            raise LoadError(f"the replica's process ends before it has seen a row: {died}; check its memory") from None
        # A micro-batch that came to its end, whatever became of its rows, speaks for the process.
        if not (self._answered or self._slowest) and self._deaths >= self.patience.deaths:
            raise LoadError(
                f"the replica's process ends with every row that was tried: {died}; check its memory, and whether a "
                "micro-batch of batching.max_batch_tokens can be scored within batching.timeout"
            ) from None

    def ask(self, function: Callable[..., Any], *arguments: Any, time_limit: float = math.inf) -> Any:
        """Return `function(replica, *arguments)`, called in the replica's process.

        Args:
            function: of a module, so that the other side finds it by name.
            time_limit: seconds after which it is ended, however busy it is.

        Raises:
            Died: the process did, or fell silent, or took too long.
            OptinferError: what the function, or loading the replica, raised.
        """
        until = monotonic() + time_limit
        try:
            if self._child is None:
                self.loads += 1
                self._child = _Child(self._settings)
            kind, value = self._request(self._child, (function, arguments), until)
        except (EOFError, ConnectionError):
            raise self._ended(self._child.death() if self._child else "it did not start") from None
        except TimeoutError as silent:
            raise self._ended(str(silent), late=monotonic() >= until) from None
        if kind == "error":
            raise last_resort.again(value)
        return value

    def _request(self, child: _Child, request: Any, until: float) -> tuple[str, Any]:
        """Return the child's answer; each of its steps has to come in time."""
        if not child.loaded:
            kind, value = self._heard(child, self.patience.load, until)
            if kind == "error":
                return kind, value
            child.loaded = True
        child.connection.send(request)
        while True:
            began = monotonic()
            kind, value = self._heard(child, self._silence(child.step), until)
            if kind != "step":
                return kind, value
            if len(child.rows):
                self._slowest = max(self._slowest, monotonic() - began)
            child.step = value

    def _silence(self, step: Step | None) -> float:
        """Return how long a step may take; the same for what is done between two, that no row is to blame for."""
        patience = self.patience
        if step is None:
            return patience.first
        known = max(patience.least, patience.times * self._slowest)
        if patience.times and not self._slowest:
            known = patience.first
        return TimeLimits(micro_batch=known, row=patience.row).of(step)

    def _heard(self, child: _Child, patience: float, until: float) -> tuple[str, Any]:
        left = until - monotonic()
        if not child.connection.poll(max(min(patience, left), 0.0)):
            raise TimeoutError("its time was over" if left < patience else f"no answer within {round(patience, 1):g} s")
        kind, value = child.connection.recv()
        return kind, value

    def _rejected(self, reason: str) -> Scored:
        self._rejections += 1
        if self._rejections > self._most_rejected:
            raise QuarantineError(
                f"{self._rejections} rows of one fragment end the replica's process, and sink.error_threshold leaves "
                f"room for {self._most_rejected:g} more in the whole table; the last: {reason}\n"
                "correct the rows, give each replica more memory or time (batching.timeout), or raise "
                "sink.error_threshold and run again: committed fragments are kept"
            )
        return Scored({}, pa.table({}), _NOTHING, {0: reason}, Stats(rows_in=1, rows_quarantined=1))

    def _ended(self, how: str, late: bool = False) -> Died:
        rows, loaded = (self._child.rows, self._child.loaded) if self._child else (_NOTHING, False)
        self._end_child()
        return Died(how, rows, late, loaded)

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """A process that loads a replica and does what it is asked; `step` is what it is at, as it told last."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self.step: Step | None = None
        self.loaded = False
        self.connection, theirs = Pipe()
        self._child = Child(__name__, str(theirs.fileno()), pass_fds=(theirs.fileno(),))
        theirs.close()
        self.connection.send(settings)

    @property
    def rows(self) -> Rows:
        """Those that are at work, as far as it told."""
        return self.step.rows if self.step else _NOTHING

    def death(self) -> str:
        """Wait for the end, and say how it came."""
        code, words = self._child.ended()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{how} {words}".strip()

    def end(self) -> None:
        self.connection.close()
        self._child.end()


def _apart(count: int, suspects: Rows) -> list[Rows]:
    """Return the rows of a table that ended a process, in the parts in which they are tried again.

    Args:
        suspects: those that were at work; none where all were.
    """
    rows = np.arange(count)
    others = np.setdiff1d(rows, suspects) if len(suspects) else _NOTHING
    doubtful = suspects if len(suspects) else rows
    parts = np.split(doubtful, len(doubtful)) if len(doubtful) <= _FEW else np.array_split(doubtful, 2)
    # The others first: what they take tells how long a row may take.
    return [others, *parts] if len(others) else parts


def _score(replica: Replica, table: pa.Table) -> Scored:
    return replica.score(table)


def _serve(connection: Connection) -> None:
    """Load the replica and do what is asked, until the other side hangs up."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    settings, proved = connection.recv(), threading.Event()

    @contextlib.contextmanager
    def watch(step: Step) -> Iterator[None]:
        told = proved.is_set()  # canaries are no rows of whoever waits
        if told:
            connection.send(("step", step))
        try:
            yield
        finally:
            if told:
                connection.send(("step", None))

    try:
        replica = require_proved(settings, lambda given: Replica(given, watch=watch))
    except Exception as error:
        return connection.send(("error", last_resort.told(error)))
    proved.set()
    connection.send(("step", None))
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = ("answer", function(replica, *arguments))
        except Exception as error:
            answer = ("error", last_resort.told(error))
        connection.send(answer)


def _leave_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # ends when the parent does, also where that was killed
        pass
    os._exit(1)


if __name__ == "__main__":
    try:
        with muted():
            _serve(Connection(int(sys.argv[1])))
    except SystemExit as left:  # a row's, and its last word: what Python does at its end is nobody's
        sys.stderr.write(f"SystemExit: {left.code}\n")
        sys.stderr.flush()
        os._exit(left.code if isinstance(left.code, int) else 1)
