"""The raw loop: what optinfer's artifact can do on these CPUs when nothing but the model runs. The limit, not a job.

The same artifact, number of processes and threads as optinfer's placement, and the same micro-batches by length and
token budget; but texts are tokenized, micro-batches cut and padded beforehand, rows dealt so that all processes finish
together, and there is no Ray and no Parquet. Processes load, warm up and meet at a barrier; seconds are from there to
the end of the last. Vectors go to OUTPUT (npz: id, embedding); the last stdout line is JSON: {"seconds", "processes",
"threads"}.

Usage: python -m contestants.raw_loop JOB.yaml OUTPUT.npz
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from preparation import prepare_job

from optinfer import plugins
from optinfer.inference.batching import micro_batches
from optinfer.inference.replica import Replica, ReplicaSettings

_WARM_UP_BATCHES = 4
# A process that has not loaded its model by then will not.
_BARRIER_SECONDS = 600.0

_barrier: Barrier


@dataclass(frozen=True)
class Finished:
    """One process's part; times are of the system-wide monotonic clock."""

    started: float
    ended: float
    rows: np.ndarray[Any, Any]
    vectors: np.ndarray[Any, Any]


def measure(job: str, output: str) -> dict[str, Any]:
    prepared = prepare_job(job)
    processes, threads = prepared.placement.replicas, prepared.placement.threads_per_replica
    # As Ray does for its actors.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    source = prepared.config.source
    table = pq.read_table(source.path, columns=["id", source.columns["text"]])
    texts = table.column(1)
    longest_first = np.argsort(-pc.utf8_length(texts).to_numpy(), kind="stable")
    shares = [np.sort(longest_first[i::processes]) for i in range(processes)]
    spawn = multiprocessing.get_context("spawn")
    settings = replace(prepared.settings, threads=threads)
    with ProcessPoolExecutor(processes, spawn, _join, (spawn.Barrier(processes),)) as pool:
        # A process waits at the barrier for the others, so each takes exactly one share.
        futures = [pool.submit(_score, settings, share, texts.take(share).combine_chunks()) for share in shares]
        parts = [future.result() for future in futures]
    rows = np.concatenate([part.rows for part in parts])
    ids = table.column("id").to_numpy()[rows]
    np.savez(output, id=ids, embedding=np.concatenate([part.vectors for part in parts]))
    seconds = max(part.ended for part in parts) - min(part.started for part in parts)
    return {"seconds": seconds, "processes": processes, "threads": threads}


def _join(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _score(settings: ReplicaSettings, share: np.ndarray[Any, Any], texts: pa.Array) -> Finished:
    try:
        replica = Replica(settings)
        (name,) = replica.family.outputs
        features = replica.family.preprocess(pa.table({"text": texts}))
        budget = settings.max_batch_tokens or plugins.load("backends", settings.backend).MAX_BATCH_TOKENS["cpu"]
        batches = list(micro_batches(np.arange(features.rows), features.lengths, budget, settings.max_batch_size))
        inputs = [features.collate(batch) for batch in batches]
        for batch in inputs[:: max(1, len(inputs) // _WARM_UP_BATCHES)]:
            replica.session(batch)
    except BaseException:
        _barrier.abort()
        raise
    _barrier.wait(_BARRIER_SECONDS)
    started = monotonic()
    vectors = [replica.session(batch)[name] for batch in inputs]
    ended = monotonic()
    return Finished(started, ended, share[np.concatenate(batches)], np.concatenate(vectors))


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
