"""A short probe of a candidate: how fast a replica scores a few micro-batches of the sample.

On a CPU the seconds are those that the replica had the CPU, so whatever else runs there counts for little. Its rows are
taken from the sample in its order of lengths, some micro-batches apart, so that they are as the job's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import OptinferError
from optinfer.inference.engine import Engine
from optinfer.inference.isolation import Died, IsolatedReplica
from optinfer.inference.replica import Replica, ReplicaSettings

_MICRO_BATCHES = 4
_ROWS = 8
_PASSES, _MOST_PASSES, _SECONDS = 3, 10, 1.0


def probe_rows(lengths: np.ndarray[Any, Any] | None, rows: int, most_rows: int, device: str) -> list[list[int]]:
    """Return rows of a sample that stand for it, micro-batch by micro-batch.

    Args:
        lengths: (rows,) of the sample in tokens; None where rows have none.
        most_rows: what a micro-batch may hold. All of the sample is taken where a device wants more than a few.
    """
    if device != "cpu":
        return [list(range(rows))]
    if lengths is None:
        return [list(range(min(rows, most_rows)))]
    order = np.argsort(lengths, kind="stable")
    size = min(_ROWS, rows)
    starts = np.unique(np.linspace(0, rows - size, _MICRO_BATCHES + 2).astype(int)[1:-1])
    return [order[start : start + size].tolist() for start in starts]


def speeds(engine: Engine, batches: Sequence[pa.Table], device: str) -> tuple[float, ...]:
    """Return rows per second of each of a few passes, after one that counts for nothing."""
    clock = process_time if device == "cpu" else perf_counter
    began, found, rows = 0.0, list[float](), sum(batch.num_rows for batch in batches)
    for at in range(1 + _MOST_PASSES):
        started = clock()
        for batch in batches:
            engine.score(batch)
        if at == 0:
            began = perf_counter()
            continue
        found.append(rows / max(clock() - started, 1e-9))
        if len(found) >= _PASSES and perf_counter() - began > _SECONDS:
            break
    return tuple(found)


def probe_apart(settings: ReplicaSettings, batches: Sequence[pa.Table], time_limit: float) -> tuple[float, ...]:
    """Return `speeds(...)` of a replica in a process of its own, which has at most `time_limit` seconds for it.

    Raises:
        OptinferError: what loading raised; or the process died, or took too long.
    """
    with IsolatedReplica(replace(settings, dedupe=False)) as isolated:
        try:
            found: tuple[float, ...] = isolated.ask(speeds, batches, settings.device, time_limit=time_limit)
        except Died as died:
            raise OptinferError(f"the process that probed {settings.variant} ended: {died}") from None
        return found


def probe_here(settings: ReplicaSettings, batches: Sequence[pa.Table], time_limit: float = 0.0) -> tuple[float, ...]:
    """Do what `probe_apart` does in this process, which a row may end."""
    return speeds(Replica(replace(settings, dedupe=False)), batches, settings.device)
