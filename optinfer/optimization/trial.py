"""Measures a candidate in a process of its own: one that crashes or hangs ends its trial, not the job.

Its memory is its own, too, and so are the threads its runtime starts. A row that ends the process is no row that the
variant can answer: it is found, counts against the variant, and the others are measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from optinfer.errors import OptinferError
from optinfer.inference.engine import Engine
from optinfer.inference.isolation import Died, IsolatedReplica
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization.baseline import Answers, answers_apart, answers_here, kept_apart, kept_here
from optinfer.optimization.certificate import Exam, certify
from optinfer.optimization.probing import probe_apart, probe_here
from optinfer.records.proof import Certificate
from optinfer.system.machine import gpu_memory_mb


def certify_apart(variant: str, settings: ReplicaSettings, exam: Exam, time_limit: float) -> Certificate:
    """Return `certify(...)` of a replica in a new process, which has at most `time_limit` seconds for it.

    Raises:
        OptinferError: of the class the trial raised; or it died with every row, or took too long.
    """
    taken = gpu_memory_mb()[0] if settings.device == "cuda" else 0.0
    arguments = (variant, settings, exam, taken)
    with IsolatedReplica(replace(settings, dedupe=False)) as isolated:
        try:
            certificate: Certificate = isolated.ask(_certify_first, *arguments, time_limit=time_limit)
            return certificate
        except Died as died:
            if died.late:
                raise OptinferError(
                    f"measuring {variant} took more than {time_limit:g} s and was ended; raise selection.time_budget"
                ) from None
            rows = np.delete(np.arange(exam.sample.num_rows), list(exam.baseline.rejected))
            deadly = rows[sorted(isolated.score(exam.sample.take(pa.array(rows))).rejected)].tolist()
        try:
            return _measured(isolated, (*arguments, deadly), time_limit)
        except Died as died:
            raise OptinferError(f"the process that measured {variant} ended: {died}") from None


def certify_here(variant: str, settings: ReplicaSettings, exam: Exam, time_limit: float = 0.0) -> Certificate:
    """Do what `certify_apart` does in this process, which a row may end."""
    return certify(Replica(replace(settings, dedupe=False)), variant, settings, exam)


@dataclass(frozen=True)
class Trials:
    """Where candidates are tried: what scores the sample with the baseline, and what measures a variant.

    Attributes:
        answers: (baseline's settings, rows, say) -> its answers.
        kept: (baseline's settings, rows) -> the rows that it can score.
        certify: (variant, its settings, exam, seconds that it may take) -> its certificate.
        probe: (a variant's settings, micro-batches, seconds that it may take) -> rows per second of each pass.
    """

    answers: Callable[[ReplicaSettings, pa.Table, Callable[[str], None]], Answers]
    kept: Callable[[ReplicaSettings, pa.Table], np.ndarray[Any, Any]]
    certify: Callable[[str, ReplicaSettings, Exam, float], Certificate]
    probe: Callable[[ReplicaSettings, Sequence[pa.Table], float], tuple[float, ...]]


# Each in a process of its own, which a candidate may end; all in this one, where nothing that is tried may.
APART = Trials(answers_apart, kept_apart, certify_apart, probe_apart)
HERE = Trials(answers_here, kept_here, certify_here, probe_here)


def _certify_first(
    engine: Engine, variant: str, settings: ReplicaSettings, exam: Exam, gpu_taken_mb: float
) -> Certificate:
    """Certify in a process that has done nothing else, and say what it took to start."""
    alive = time.time() - psutil.Process().create_time()
    certificate = certify(engine, variant, settings, exam, gpu_taken_mb)
    return replace(certificate, start_seconds=max(alive - certificate.load_seconds, 0.0))


def _measured(isolated: IsolatedReplica, arguments: tuple[Any, ...], time_limit: float) -> Certificate:
    certificate: Certificate = isolated.ask(certify, *arguments, time_limit=time_limit)
    return certificate
