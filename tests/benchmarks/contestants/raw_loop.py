"""The raw loop: what a job's artifact can do on this machine when nothing but the model runs. The limit, not a job.

The same artifact, processes, threads and micro-batch budget as the job, and no Ray, no Parquet. Rows are dealt so that
all processes finish together, identical inputs are scored once where the job does so, and micro-batches are cut over a
process's whole share: less padding than fragment by fragment. Inputs are made beforehand; with `--prepare` the loop
makes them itself (tokenizes, decodes), fragment by fragment as the job does.

Everything is done twice and the second pass counts. OpenVINO and others compile for every new shape they meet, and over
a few thousand rows most micro-batches have a new one: a first pass ran 15-30% below the second, and below a job whose
fragments repeat each other's shapes. `first_pass_seconds` says what it took.

Processes meet at a barrier before the second pass; seconds are from there to the end of the last. Outputs go to OUTPUT
(npz: id, output); the last stdout line is JSON: {"seconds", "first_pass_seconds", "prepare_share", "variant",
"processes", "threads"}; `prepare_share` is the part of the loop's time that making inputs took.

Usage: python -m contestants.raw_loop JOB.yaml OUTPUT.npz [--prepare]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.synchronize import Barrier
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from preparation import prepare_job

from optinfer.config import AUTO
from optinfer.families import as_roles
from optinfer.inference.replica import Replica, ReplicaSettings

# A process that has not loaded its model and run once by then will not.
_BARRIER_SECONDS = 3600.0
ROWS = np.ndarray[Any, Any]
Batch = tuple[ROWS, dict[str, Any]]

_barrier: Barrier


@dataclass(frozen=True)
class Finished:
    """One process's part; times are of the system-wide monotonic clock."""

    first_pass_seconds: float
    started: float
    ended: float
    prepare_seconds: float
    rows: ROWS
    outputs: np.ndarray[Any, Any]


def measure(job: str, output: str, prepare: bool) -> dict[str, Any]:
    ready = prepare_job(job)
    processes, threads = ready.placement.replicas, ready.placement.threads_per_replica
    # As Ray does for its actors.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    source = ready.config.source
    table = pq.read_table(source.path, columns=["id", *source.columns_read])
    roles = as_roles(table, source.columns)
    spawn = multiprocessing.get_context("spawn")
    settings = replace(ready.settings, threads=threads)
    stands_in = distinct(roles) if ready.config.batching.dedupe == AUTO else np.arange(roles.num_rows)
    once = np.unique(stands_in)
    chunk = max(fragment.rows for fragment in ready.planned.plan.fragments) if prepare else roles.num_rows
    with ProcessPoolExecutor(processes, spawn, _join, (spawn.Barrier(processes),)) as pool:
        # A process waits at the barrier for the others, so each takes exactly one share.
        shares = [once[share] for share in dealt(_sizes(roles)[once], processes)]
        futures = [pool.submit(_score, settings, roles.take(pa.array(share)), chunk, prepare) for share in shares]
        parts = [future.result() for future in futures]
    scored = np.concatenate([share[part.rows] for share, part in zip(shares, parts, strict=True)])
    rows, answers = spread(scored, stands_in)
    outputs = np.concatenate([part.outputs for part in parts])[answers]
    np.savez(output, id=table.column("id").to_numpy()[rows], output=outputs)
    seconds = max(part.ended for part in parts) - min(part.started for part in parts)
    return {
        "seconds": seconds,
        "first_pass_seconds": round(max(part.first_pass_seconds for part in parts), 3),
        "prepare_share": round(sum(p.prepare_seconds for p in parts) / sum(p.ended - p.started for p in parts), 4),
        "variant": ready.prepared.variant.name,
        "processes": processes,
        "threads": threads,
    }


def distinct(roles: pa.Table) -> ROWS:
    """Return for every row the first one with the same input, which stands in for it.

    Only a single column of texts or bytes is compared; of other inputs every row stands for itself.
    """
    column = roles.column(0).combine_chunks()
    if roles.num_columns > 1 or not _is_bytes(column.type):
        return np.arange(roles.num_rows)
    which = column.dictionary_encode(null_encoding="encode").indices.to_numpy()
    return np.unique(which, return_index=True)[1][which]


def spread(scored: ROWS, stands_in: ROWS) -> tuple[ROWS, ROWS]:
    """Return the rows that have an answer, and for each the position in `scored` of the row that stands in for it."""
    order = np.argsort(scored)
    rows = np.flatnonzero(np.isin(stands_in, scored))
    return rows, order[np.searchsorted(scored[order], stands_in[rows])]


def dealt(sizes: ROWS, processes: int) -> list[ROWS]:
    """Deal rows, largest first, so that shares weigh the same; each share's rows ascend."""
    largest_first = np.argsort(-sizes, kind="stable")
    return [np.sort(largest_first[i::processes]) for i in range(processes)]


def _sizes(roles: pa.Table) -> ROWS:
    column = roles.column(0)
    if not _is_bytes(column.type):
        return np.zeros(roles.num_rows)
    return pc.fill_null(pc.binary_length(column), 0).to_numpy()


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind)


def _join(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _score(settings: ReplicaSettings, roles: pa.Table, chunk: int, prepare: bool) -> Finished:
    """Score a share twice, `chunk` rows prepared at a time: inside the loop with `prepare`, else beforehand."""
    try:
        replica = Replica(settings)
        batches = partial(_inputs, replica, settings, roles, chunk)
        prepared = None if prepare else list(batches())
        started = monotonic()
        _loop(replica, prepared or batches())
        first_pass = monotonic() - started
    except BaseException:
        _barrier.abort()
        raise
    _barrier.wait(_BARRIER_SECONDS)
    started = monotonic()
    rows, outputs, preparing = _loop(replica, prepared or batches())
    return Finished(first_pass, started, monotonic(), preparing, np.concatenate(rows), np.concatenate(outputs))


def _loop(replica: Replica, batches: Iterable[Batch]) -> tuple[list[ROWS], list[np.ndarray[Any, Any]], float]:
    """Return rows, outputs, and the seconds that passed outside the model."""
    (name,) = replica.family.outputs
    rows, outputs, outside, returned = [], [], 0.0, monotonic()
    for batch, inputs in batches:
        outside += monotonic() - returned
        outputs.append(replica.session(inputs)[name])
        rows.append(batch)
        returned = monotonic()
    return rows, outputs, outside


def _inputs(replica: Replica, settings: ReplicaSettings, roles: pa.Table, chunk: int) -> Iterator[Batch]:
    """Yield micro-batches as (rows of the share, the model's inputs), cut as the replica cuts them."""
    for start in range(0, roles.num_rows, chunk):
        features = replica.family.preprocess(roles.slice(start, chunk))
        kept = np.delete(np.arange(features.rows), list(features.rejected))
        for batch in (feed := replica.feed(features, kept)):
            yield batch + start, feed.inputs()


if __name__ == "__main__":
    job, output, *options = sys.argv[1:]
    print(json.dumps(measure(job, output, "--prepare" in options)))
