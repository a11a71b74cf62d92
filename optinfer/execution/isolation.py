"""Scores a fragment that took a replica's process down before: in a child process, which may die in its place.

The whole fragment is tried first (the crash may have been another's, and the micro-batches stay the same); if the child
dies, halves are tried, down to the single row that kills it. That row is quarantined, the others are scored.
"""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np
import pyarrow as pa

from optinfer.inference.replica import Replica, ReplicaSettings, Scored
from optinfer.tracking.metrics import Stats


class _Died(Exception):
    """The child ended without an answer; the text says how."""


class IsolatedReplica:
    """Answers like `Replica.score`, but survives rows that kill the process."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self._settings = settings
        self._child: tuple[BaseProcess, Connection] | None = None

    def __enter__(self) -> IsolatedReplica:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_child()

    def score(self, table: pa.Table) -> Scored:
        """Score a table with one column per role; a row that kills the process is rejected with the signal."""
        try:
            return self._ask(table)
        except _Died as error:
            if table.num_rows == 1:
                reason = f"the row ends the replica's process: {error}"
                return Scored({}, np.array([], dtype=np.int64), {0: reason}, Stats(rows_in=1, rows_quarantined=1))
        half = table.num_rows // 2
        return _join(self.score(table.slice(0, half)), self.score(table.slice(half)), half)

    def _ask(self, table: pa.Table) -> Scored:
        process, connection = self._child = self._child or self._start_child()
        try:
            connection.send(table.combine_chunks())
            answer = connection.recv()
        except (EOFError, ConnectionError):
            process.join()
            code = process.exitcode or 0
            self._end_child()
            raise _Died(signal.Signals(-code).name if code < 0 else f"exit code {code}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start_child(self) -> tuple[BaseProcess, Connection]:
        # spawn: a forked copy of an actor would inherit threads' locks, and CUDA cannot be forked at all
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self._settings, theirs), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _end_child(self) -> None:
        if self._child is not None:
            process, connection = self._child
            connection.close()
            process.kill()
            process.join()
            self._child = None


def _serve(settings: ReplicaSettings, connection: Connection) -> None:
    """The child: answer tables until the parent hangs up."""
    try:
        replica = Replica(settings)
        while True:
            connection.send(replica.score(connection.recv()))
    except EOFError:
        return
    except Exception as error:
        connection.send(error)


def _join(first: Scored, second: Scored, offset: int) -> Scored:
    rejected = {**first.rejected, **{row + offset: reason for row, reason in second.rejected.items()}}
    if not len(first.kept) or not len(second.kept):
        outputs = first.outputs if len(first.kept) else second.outputs
    else:
        outputs = {name: np.concatenate([first.outputs[name], second.outputs[name]]) for name in first.outputs}
    kept = np.concatenate([first.kept, second.kept + offset])
    return Scored(outputs, kept, rejected, first.stats + second.stats)
