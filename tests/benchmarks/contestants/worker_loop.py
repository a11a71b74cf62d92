"""The worker loop: optinfer's worker without Ray. What lies between it and the raw loop is ours, what lies beyond Ray's.

One process a replica, as the job would place them, holds a FragmentScorer and two threads that pull fragments from one
queue: Parquet in, parts committed to the job's output. Only who hands out fragments and collects receipts differs from
a job. The last stdout line is JSON: {"rows_out", "steady_rows_per_second" (as a job's record counts it, by receipts: it
flatters few fragments, see scoreboard.py), "replica_peak_rss_mb", "variant", "device", "processes", "threads", "gpu_utilization"}; the last is null on
CPUs, else the mean percentage that nvidia-smi shows from the first receipt to the last.

Usage: python -m contestants.worker_loop JOB.yaml
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.queues import Queue
from statistics import mean
from typing import Any

import numpy as np
from preparation import PreparedJob, prepare_job

from optinfer.data.output import Output
from optinfer.execution.task import ScoringTask
from optinfer.execution.todo import Todo
from optinfer.records.receipt import Receipt
from optinfer.tracking.tally import Tally

# As many calls as the job keeps going in each actor.
_THREADS = 2
# A replica that says nothing for so long is dead.
_SILENCE_SECONDS = 1800.0


def measure(job: str) -> dict[str, Any]:
    ready = prepare_job(job)
    planned, placement = ready.planned, ready.placement
    Output(ready.config.sink.path).binding.freeze(planned.frozen, planned.plan)
    # As Ray does for its actors.
    os.environ["OMP_NUM_THREADS"] = str(placement.threads_per_replica)
    context = multiprocessing.get_context("spawn")
    todo, receipts = context.Queue(), context.Queue()
    every = Todo(planned.plan, np.arange(len(planned.plan.fragments)))
    runs = list(every.runs())
    for run in runs:
        todo.put({"run": run})
    for _ in range(placement.replicas * _THREADS):
        todo.put(None)
    for gpu in gpus(placement.replicas, placement.gpus_per_replica):
        context.Process(target=_serve, args=(_task(ready), gpu, todo, receipts), daemon=True).start()
    tally = Tally(planned.plan.rows, ready.config.sink.error_threshold)
    with GpuMeter(placement.device == "cuda") as meter:
        for count in range(len(runs)):
            for receipt in json.loads(receipts.get(timeout=_SILENCE_SECONDS)):
                _count(receipt, tally)
            if count == 0:
                meter.start()
    tally.check_complete(ready.config.sink.path)
    return {
        "rows_out": tally.total.rows_out,
        "steady_rows_per_second": tally.steady_rows_per_second(),
        "replica_peak_rss_mb": tally.replica_peak_rss_mb,
        "variant": ready.prepared.variant.name,
        "device": placement.device,
        "processes": placement.replicas,
        "threads": placement.threads_per_replica,
        "gpu_utilization": meter.utilization(),
    }


def _task(ready: PreparedJob) -> ScoringTask:
    config, planned = ready.config, ready.planned
    return ScoringTask(
        pools=(replace(ready.settings, threads=ready.placement.threads_per_replica),),
        source=planned.subject.source,
        sink=planned.sink,
        columns=config.source.columns,
        columns_read=config.source.columns_read,
        carried=planned.carried,
        output_url=config.sink.path,
        fingerprint=planned.fingerprint,
        on_error=config.sink.on_error,
        on_bad_file=config.source.on_bad_file,
    )


def _count(receipt: dict[str, Any], tally: Tally) -> None:
    if "error" in receipt:
        raise SystemExit(f"{receipt['error']}: {receipt['message']}")
    tally.add(Receipt.heard(receipt))


def _serve(task: ScoringTask, gpu: str | None, todo: Queue[Any], receipts: Queue[Any]) -> None:
    """A replica's process: score until the queue says None to both threads."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    from optinfer.execution.scorer import FragmentScorer

    scorer = FragmentScorer(task)

    def pull() -> None:
        while (row := todo.get()) is not None:
            receipts.put(scorer(row)["receipts"])

    threads = [threading.Thread(target=pull) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def gpus(replicas: int, share: float) -> list[str | None]:
    """Return the GPUs that each replica sees, as CUDA_VISIBLE_DEVICES; None where it takes none."""
    if share <= 0:
        return [None] * replicas
    if share < 1:
        return [str(replica // int(1 / share)) for replica in range(replicas)]
    whole = int(share)
    return [",".join(str(replica * whole + i) for i in range(whole)) for replica in range(replicas)]


class GpuMeter:
    """Asks nvidia-smi every second from `start` to the end of its `with` block; does nothing unless `wanted`."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._process: subprocess.Popen[str] | None = None
        self._said = ""

    def __enter__(self) -> GpuMeter:
        return self

    def start(self) -> None:
        if self._wanted:
            query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop=1"]
            self._process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._said = self._process.communicate()[0]

    def utilization(self) -> float | None:
        return mean_percentage(self._said.split())


def mean_percentage(samples: Sequence[str]) -> float | None:
    """Return the mean of what nvidia-smi printed; what is no number ("[N/A]") is left out."""
    numbers = [float(sample) for sample in samples if sample.isdigit()]
    return round(mean(numbers), 1) if numbers else None


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
