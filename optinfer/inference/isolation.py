"""A replica in a process of its own, which may die or hang in the place of its caller's.

A fragment that took a replica's process down is scored here, and so is the sample that proves a model. The whole table
is tried first (the crash may have been another's, and the micro-batches stay the same). Where the process dies or falls
silent, the rows that were at work are told from the others, halved, and halved again, down to the row that does it.
That row is rejected, the others are scored. `python -m optinfer.inference.isolation FD` is the other side.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import LoadError
from optinfer.inference.answers import Scored, joined
from optinfer.inference.canaries import require_proved
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.records.stats import Stats
from optinfer.system import last_resort
from optinfer.system.child import Child
from optinfer.system.quiet import muted

Rows = np.ndarray[Any, Any]
_NOTHING: Rows = np.array([], dtype=np.int64)
# So many deaths without an answer are no row's fault: halving a micro-batch of a thousand down to one takes ten.
_MOST_DEATHS = 12


@dataclass(frozen=True)
class Patience:
    """Seconds of silence after which a process is ended.

    Attributes:
        load: until the model is loaded.
        first: until the first micro-batch is done: what is compiled on the first call.
        least: later, or `times` what the slowest micro-batch took, whichever is more.
    """

    load: float = 1800.0
    first: float = 600.0
    least: float = 60.0
    times: float = 50.0


class Died(Exception):
    """The process ended, or was ended, without an answer; the text says how.

    Attributes:
        rows: those that were at work; none where all were.
        late: it was busy, and all the time it had was over.
    """

    def __init__(self, how: str, rows: Rows, late: bool = False) -> None:
        super().__init__(how)
        self.rows = rows
        self.late = late


class IsolatedReplica:
    """Answers like `Replica.score`, but survives rows that kill the process or never end."""

    def __init__(self, settings: ReplicaSettings, patience: Patience = Patience()) -> None:
        self._settings = settings
        self.patience = patience
        self._child: _Child | None = None
        self._slowest = 0.0
        self._answered = False
        self._deaths = 0

    def __enter__(self) -> IsolatedReplica:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_child()

    def score(self, table: pa.Table) -> Scored:
        """Score a table with one column per role; a row that ends the process is rejected with how it did.

        Raises:
            LoadError: the process ends with whatever it is given.
        """
        try:
            scored: Scored = self.ask(_score, table.combine_chunks())
        except Died as died:
            self._deaths += 1
            if not self._answered and self._deaths >= _MOST_DEATHS:
                raise LoadError(
                    f"the replica's process ends with every row that was tried: {died}; check its memory, and whether "
                    "a micro-batch of batching.max_batch_tokens can be scored in minutes"
                ) from None
            if table.num_rows == 1:
                return self._rejected(f"the row ends the replica's process: {died}")
            suspects = died.rows if 0 < len(died.rows) < table.num_rows else np.arange(table.num_rows // 2)
        else:
            self._answered = self._answered or bool(len(scored.kept))
            return scored
        # The others first: what they take tells how long a row may take.
        others = np.setdiff1d(np.arange(table.num_rows), suspects)
        return joined([(rows, self.score(table.take(pa.array(rows)))) for rows in (others, suspects)])

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
            self._child = self._child or _Child(self._settings)
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
            silence = max(self.patience.least, self.patience.times * self._slowest)
            began = monotonic()
            kind, value = self._heard(child, silence if self._slowest else self.patience.first, until)
            if kind != "step":
                return kind, value
            if len(child.rows):
                self._slowest = max(self._slowest, monotonic() - began)
            child.rows = value

    def _heard(self, child: _Child, patience: float, until: float) -> tuple[str, Any]:
        left = until - monotonic()
        if not child.connection.poll(max(min(patience, left), 0.0)):
            raise TimeoutError("its time was over" if left < patience else f"no answer within {patience:.0f} s")
        kind, value = child.connection.recv()
        return kind, value

    def _rejected(self, reason: str) -> Scored:
        return Scored({}, pa.table({}), _NOTHING, {0: reason}, Stats(rows_in=1, rows_quarantined=1))

    def _ended(self, how: str, late: bool = False) -> Died:
        rows = self._child.rows if self._child else _NOTHING
        self._end_child()
        return Died(how, rows, late)

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """A process that loads a replica and does what it is asked; `rows` are those at work, as it told last."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self.rows: Rows = _NOTHING
        self.loaded = False
        self.connection, theirs = Pipe()
        self._child = Child(__name__, str(theirs.fileno()), pass_fds=(theirs.fileno(),))
        theirs.close()
        self.connection.send(settings)

    def death(self) -> str:
        """Wait for the end, and say how it came."""
        code, words = self._child.ended()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{how} {words}".strip()

    def end(self) -> None:
        self.connection.close()
        self._child.end()


def _score(replica: Replica, table: pa.Table) -> Scored:
    return replica.score(table)


def _serve(connection: Connection) -> None:
    """Load the replica and do what is asked, until the other side hangs up."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    settings, proved = connection.recv(), threading.Event()

    def watch(rows: Rows) -> None:
        if proved.is_set():  # canaries are no rows of whoever waits
            connection.send(("step", rows))

    try:
        replica = require_proved(settings, lambda given: Replica(given, watch=watch))
    except Exception as error:
        return connection.send(("error", last_resort.told(error)))
    proved.set()
    connection.send(("step", _NOTHING))
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
    sys.stdin.buffer.read()  # ends when the parent does, also where that was killed
    os._exit(1)


if __name__ == "__main__":
    with muted():
        _serve(Connection(int(sys.argv[1])))
