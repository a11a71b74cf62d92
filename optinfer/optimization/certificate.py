"""The measured facts of an artifact: faithful? independent of the batch? what really ran? how fast, how large?

Measured with the replica the job will run, on the job's own rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.backends import BACKENDS, Executed
from optinfer.errors import LoadError
from optinfer.families import FAMILIES, SAME_ANSWERS, Arrays
from optinfer.inference.answers import Scored, joined
from optinfer.inference.engine import Engine
from optinfer.inference.invariance import scale
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization import canaries
from optinfer.optimization.baseline import Answers
from optinfer.optimization.gate import Truth, measure
from optinfer.records.proof import Certificate as Certificate
from optinfer.records.stats import Stats
from optinfer.system.machine import cpu_features, gpu, gpu_memory_mb, installed, peak_rss_mb

# Rounding moves a component by about 1e-7 of the output's scale in fp32 and 4e-3 in bf16, whose kernels differ by
# shape; a scale shared by the micro-batch moves it by 1e-2 and more.
_INVARIANT_WITHIN = {"bf16": 1e-2, "fp16": 2e-3}
_INVARIANT_WITHIN_DEFAULT = 1e-3
# Some models enlarge rounding: a variant may move as far as this many times what its fp32 baseline moves.
_OF_THE_BASELINE = 2.0
_WARM_UP_ROWS = 16
# The sample is scored in so many parts of the same lengths, whose speeds show the spread.
_PARTS = 4
_PART_ROWS = 64
_NARROW = ("int4", "int8", "bf16", "fp16")


@dataclass(frozen=True, eq=False)
class Exam:
    """What the variants of one job are examined on.

    Attributes:
        sample: a column per role.
        labels: the true answers of the sample's rows, where the metric is about them.
        baseline: what they are compared with.
        key: identifies all of this, and the machine.
    """

    sample: pa.Table
    labels: np.ndarray[Any, Any] | None
    baseline: Answers
    metric: str
    key: str


def certify(
    engine: Engine,
    variant: str,
    settings: ReplicaSettings,
    exam: Exam,
    gpu_taken_mb: float = 0.0,
    without: Sequence[int] = (),
) -> Certificate:
    """Measure an engine on a sample against the baseline's outputs.

    Args:
        engine: made of `settings`, but it scores equal rows each by itself: a sample's speed is that of rows the model
            really sees.
        gpu_taken_mb: memory of the GPU that was taken before it was loaded.
        without: rows that would end this process; they count against the variant. Those that the baseline could not
            answer are left out, too, and count for nobody.
    """
    seen = _seen(engine, exam, without)
    return _filled_in(engine, variant, settings, exam, seen, gpu_taken_mb)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What an engine did with a sample: its answers, rows per second by part, how far answers move with their company.

    Attributes:
        scored: `kept` are rows of the whole sample.
        executed: what ran, read back after that.
    """

    scored: Scored
    speeds: list[float]
    cases: Mapping[str, float]
    executed: Executed


def _seen(engine: Engine, exam: Exam, without: Sequence[int]) -> _Seen:
    rows = np.delete(np.arange(exam.sample.num_rows), [*without, *exam.baseline.rejected])
    tried = exam.sample.take(pa.array(rows))
    engine.score(tried.slice(0, _WARM_UP_ROWS))
    scored, speeds = _score_in_parts(engine, tried)
    cases = engine.invariance(tried, scored)
    return _Seen(replace(scored, kept=rows[scored.kept]), speeds, cases, engine.executed())


def _filled_in(
    engine: Engine, variant: str, settings: ReplicaSettings, exam: Exam, seen: _Seen, gpu_taken_mb: float
) -> Certificate:
    baseline, scored, stats = exam.baseline, seen.scored, seen.scored.stats
    ran = (settings.artifact.precision, *seen.executed["precisions"])
    within, worst = _tolerance(ran, baseline), max(seen.cases.values(), default=0.0)
    truth = None if exam.labels is None else Truth(exam.labels[baseline.kept], engine.family.answers)
    if exam.metric == SAME_ANSWERS:
        truth = Truth(engine.family.answers(baseline.outputs), engine.family.answers)
    outputs, answered = aligned(scored, baseline)
    used, total = gpu_memory_mb() if settings.device == "cuda" else (0.0, 0.0)
    return Certificate(
        variant=variant,
        artifact=settings.artifact.key,
        sample=exam.key,
        precision=settings.artifact.precision,
        device=settings.device,
        reference=baseline.reference,
        fidelity=measure(exam.metric, baseline.outputs, outputs, truth, answered),
        batch_invariant=_known_invariant(seen.cases, engine, ran) and worst <= within,
        largest_difference=worst,
        invariance=seen.cases,
        executed=seen.executed,
        mismatch=mismatch(settings, seen.executed),
        rows_per_second=stats.rows_out / _busy(stats),
        rows_per_second_range=(min(seen.speeds), max(seen.speeds)),
        micro_batches=stats.micro_batches,
        micro_batch_p50_ms=stats.latencies.percentile(50) * 1e3,
        micro_batch_p99_ms=stats.latencies.percentile(99) * 1e3,
        padding_fraction=stats.padding_fraction,
        threads=settings.threads,
        peak_rss_mb=peak_rss_mb(),
        gpu_memory_mb=max(used - gpu_taken_mb, 0.0),
        gpu_total_mb=total,
        artifact_mb=settings.artifact.size_bytes / 1e6,
        build_seconds=settings.artifact.build_seconds,
        load_seconds=engine.load_seconds,
        notes=settings.artifact.notes,
        measured_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        row_seconds=(stats.preprocess_seconds + stats.postprocess_seconds) / max(stats.rows_in, 1),
        canaries=canaries.measured(engine, settings, exam.sample.take(pa.array(scored.kept)), scored, ran, within),
    )


def conditions(settings: ReplicaSettings, libraries: Sequence[str]) -> dict[str, object]:
    """Return what a measurement of a replica depends on besides its artifact and its rows.

    Args:
        libraries: those whose answers the baseline is held against.
    """
    backend = BACKENDS.get(settings.backend)
    tokens = settings.max_batch_tokens or backend.max_batch_tokens[settings.device]
    return {
        "runs_on": [settings.backend, settings.device, *cpu_features()],
        "gpu": gpu() if settings.device == "cuda" else None,
        "runtime": runtime(settings.backend, settings.family, libraries),
        "batching": [tokens, settings.max_batch_size],
        "threads": settings.threads,
    }


def runtime(backend: str, family: str, libraries: Sequence[str]) -> dict[str, str]:
    """Return what executes a replica here: packages with their versions, plugins of others with their code."""
    packages = {name: installed(name) for name in (*BACKENDS.get(backend).requires, *libraries)}
    return packages | BACKENDS.provenance(backend) | FAMILIES.provenance(family)


def mismatch(settings: ReplicaSettings, executed: Executed) -> str:
    """Compare what the runtime says it runs with what was asked for; return the difference, or nothing."""
    wanted, ran = settings.artifact.precision, executed["precisions"]
    if executed["device"] != settings.device:
        return f"asked for {settings.device}, it ran on {executed['device']}"
    if wanted in _NARROW and wanted not in ran:
        return f"asked for {wanted}, it ran {_listed(ran)}"
    if wanted == "fp32" and (narrower := [p for p in ran if p in _NARROW]):
        return f"asked for fp32, part of it ran {', '.join(narrower)}"
    return ""


def _listed(precisions: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in precisions.items()) or "nothing that multiplies"


def _score_in_parts(engine: Engine, sample: pa.Table) -> tuple[Scored, list[float]]:
    """Score the sample in interleaved parts; return all of it in order, and each part's rows per second."""
    parts = max(1, min(_PARTS, sample.num_rows // _PART_ROWS))
    pieces, speeds = [], []
    for part in range(parts):
        rows = np.arange(part, sample.num_rows, parts)
        scored = engine.score(sample.take(pa.array(rows)))
        pieces.append((rows, scored))
        speeds.append(scored.stats.rows_out / _busy(scored.stats))
    return joined(pieces), speeds


def _known_invariant(cases: Mapping[str, float], engine: Engine, precisions: Sequence[str]) -> bool:
    """Tell whether anything speaks for a variant: cases; for a lone row, numbers too wide to share a scale."""
    return bool(cases) or engine.limits[1] == 1 or not set(precisions) & set(_NARROW)


def _busy(stats: Stats) -> float:
    return max(stats.preprocess_seconds + stats.infer_seconds + stats.postprocess_seconds, 1e-9)


def _tolerance(precisions: Iterable[str], baseline: Answers) -> float:
    """Return how far a component may move; the coarsest arithmetic that ran sets it."""
    within = max(_INVARIANT_WITHIN.get(name, _INVARIANT_WITHIN_DEFAULT) for name in precisions)
    return max(within * scale(baseline.outputs), _OF_THE_BASELINE * baseline.largest_difference)


def aligned(scored: Scored, baseline: Answers) -> tuple[Arrays, np.ndarray[Any, Any]]:
    """Return outputs for the baseline's rows, in their own types, and whether the variant answered each.

    Raises:
        LoadError: an output has another shape than the baseline's.
    """
    _, ours, theirs = np.intersect1d(scored.kept, baseline.kept, return_indices=True)
    answered = np.zeros(len(baseline.kept), dtype=bool)
    answered[theirs] = True
    outputs = {}
    for name, values in baseline.outputs.items():
        given = scored.outputs.get(name, values[:0])
        if len(ours) and given.shape[1:] != values.shape[1:]:
            raise LoadError(f"output {name!r} has rows of {given.shape[1:]}, the baseline's of {values.shape[1:]}")
        outputs[name] = np.zeros(values.shape, dtype=given.dtype if len(ours) else values.dtype)
        if len(ours):
            outputs[name][theirs] = given[ours]
    return outputs, answered
