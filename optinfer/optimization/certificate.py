"""The measured facts of an artifact: faithful? independent of the batch? what really ran? how fast, how large?

Measured with the replica the job will run, on the job's own rows, and kept beside the artifact by sample, so the second
run of a job pays nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer import home
from optinfer.families import Arrays, Features
from optinfer.inference.replica import Replica, ReplicaSettings, Scored
from optinfer.machine import gpu_memory_mb
from optinfer.optimization.gate import Fidelity, Truth, measure
from optinfer.tracking.metrics import Stats, peak_rss_mb

# Rounding moves a component by about 1e-7 of the output's scale in fp32 and 4e-3 in bf16, whose kernels differ by
# shape; a scale shared by the micro-batch moves it by 1e-2 and more.
_INVARIANT_WITHIN = {"bf16": 1e-2, "fp16": 2e-3}
_INVARIANT_WITHIN_DEFAULT = 1e-3
# Some models enlarge rounding: a variant may move as far as this many times what its fp32 baseline moves.
_OF_THE_BASELINE = 2.0
_INVARIANCE_ROWS = 8
_NEIGHBOURS = 3
_WARM_UP_ROWS = 16
_OUTLIERS_AMONG = 128
# The sample is scored in so many parts of the same lengths, whose speeds show the spread.
_PARTS = 4
_PART_ROWS = 64
_NARROW = ("int4", "int8", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was measured of one artifact on one sample. Seconds, megabytes, rows per second of one replica.

    Attributes:
        mismatch: how what the runtime says it executed differs from what was asked for; empty where it does not.
        rows_per_second_range: slowest and fastest part of the sample.
        peak_rss_mb: most memory of a process that does nothing else but load and score.
        gpu_memory_mb: what it took of a GPU's `gpu_total_mb`; zeros on a CPU.
    """

    variant: str
    artifact: str
    sample: str
    precision: str
    device: str
    fidelity: Fidelity
    batch_invariant: bool
    largest_difference: float
    invariance: dict[str, float]
    executed: dict[str, Any]
    mismatch: str
    rows_per_second: float
    rows_per_second_range: tuple[float, float]
    micro_batches: int
    micro_batch_p50_ms: float
    micro_batch_p99_ms: float
    padding_fraction: float
    threads: int
    peak_rss_mb: float
    gpu_memory_mb: float
    gpu_total_mb: float
    artifact_mb: float
    build_seconds: float
    load_seconds: float
    notes: tuple[str, ...]
    measured_at: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Answers:
    """The baseline's outputs for the sample rows `kept`, the ones it could score; and how far neighbours move them."""

    outputs: Arrays
    kept: np.ndarray[Any, Any]
    largest_difference: float


def certify(
    variant: str,
    settings: ReplicaSettings,
    sample: pa.Table,
    labels: np.ndarray[Any, Any] | None,
    baseline: Answers,
    metric: str,
    key: str,
) -> Certificate:
    """Load a replica, measure it on `sample` (a column per role) against the baseline's outputs, and keep the result.

    `labels` are the true answers of the sample's rows, where the metric is about them.
    """
    taken, total = gpu_memory_mb() if settings.device == "cuda" else (0.0, 0.0)
    # A sample's speed is that of rows the model really sees.
    replica = Replica(replace(settings, dedupe=False))
    replica.score(sample.slice(0, _WARM_UP_ROWS))
    scored, speeds = _score_in_parts(replica, sample)
    cases = invariance(replica, sample)
    worst = max(cases.values(), default=0.0)
    executed = replica.session.executed()
    ran = (settings.artifact.precision, *executed["precisions"])
    truth = None if labels is None else Truth(labels[baseline.kept], replica.family.answers)
    certificate = Certificate(
        variant=variant,
        artifact=settings.artifact.key,
        sample=key,
        precision=settings.artifact.precision,
        device=settings.device,
        fidelity=measure(metric, baseline.outputs, _aligned(scored, baseline), truth),
        batch_invariant=bool(cases or replica.max_batch_size == 1) and worst <= _tolerance(ran, baseline),
        largest_difference=worst,
        invariance=cases,
        executed=executed,
        mismatch=mismatch(settings, executed),
        rows_per_second=scored.stats.rows_out / _busy(scored.stats),
        rows_per_second_range=(min(speeds), max(speeds)),
        micro_batches=scored.stats.micro_batches,
        micro_batch_p50_ms=scored.stats.latencies.percentile(50) * 1e3,
        micro_batch_p99_ms=scored.stats.latencies.percentile(99) * 1e3,
        padding_fraction=scored.stats.padding_fraction,
        threads=settings.threads,
        peak_rss_mb=peak_rss_mb(),
        gpu_memory_mb=max(gpu_memory_mb()[0] - taken, 0.0) if total else 0.0,
        gpu_total_mb=total,
        artifact_mb=settings.artifact.size_bytes / 1e6,
        build_seconds=settings.artifact.build_seconds,
        load_seconds=replica.load_seconds,
        notes=settings.artifact.notes,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    home.put(_path(settings.artifact.key, key), json.dumps(certificate.as_dict(), indent=1).encode())
    return certificate


def read(artifact: str, key: str) -> Certificate | None:
    """Return the certificate kept for this artifact and sample, if any."""
    return home.read_json(_path(artifact, key), _from_dict)


def _from_dict(raw: dict[str, Any]) -> Certificate:
    lists = {name: tuple(raw[name]) for name in ("notes", "rows_per_second_range")}
    return Certificate(**{**raw, **lists, "fidelity": Fidelity(**raw["fidelity"])})


def invariance(replica: Replica, sample: pa.Table) -> dict[str, float]:
    """Return the largest difference of any output component between a row alone and the same row in company.

    Cases: ordinary neighbours, outlier neighbours (the longest rows, or those with the largest inputs), and padding to
    twice the length. Empty where no two rows could share a micro-batch.
    """
    features = replica.family.preprocess(sample)
    rows = np.array([i for i in range(features.rows) if i not in features.rejected])
    chosen = rows[:_INVARIANCE_ROWS]
    if len(chosen) < 2 or replica.max_batch_size < 2:
        return {}
    alone = {int(r): replica.session(features.collate(np.array([r]))) for r in chosen}
    companies = {"neighbours": rows, "outlier neighbours": _outliers_first(features, rows)}
    worst: dict[str, float] = {}
    for row in chosen:
        for case, pool in companies.items():
            others = [r for r in pool if r != row and features.may_share(r, row)][:_NEIGHBOURS]
            if others:
                together = replica.session(features.collate(np.array([row, *others])))
                worst[case] = max(worst.get(case, 0.0), _difference(alone[int(row)], together))
        if features.lengths is not None and not features.same_length:
            padded = features.collate(np.array([row]), pad_to=2 * int(features.lengths[row]))
            difference = _difference(alone[int(row)], replica.session(padded))
            worst["padding"] = max(worst.get("padding", 0.0), difference)
    return worst


def _outliers_first(features: Features, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return rows, those that stretch a shared scale the most first."""
    if features.lengths is not None:
        sizes = features.lengths[rows]
    else:
        rows = rows[:_OUTLIERS_AMONG]
        inputs = [features.collate(np.array([row])).values() for row in rows]
        sizes = np.array([max(float(np.abs(a.astype(np.float64)).max(initial=0)) for a in given) for given in inputs])
    return np.asarray(rows[np.argsort(-sizes, kind="stable")])


def mismatch(settings: ReplicaSettings, executed: dict[str, Any]) -> str:
    """Compare what the runtime says it runs with what was asked for; return the difference, or nothing."""
    wanted, ran = settings.artifact.precision, executed["precisions"]
    if executed["device"] != settings.device:
        return f"asked for {settings.device}, it ran on {executed['device']}"
    if wanted in _NARROW and wanted not in ran:
        return f"asked for {wanted}, it ran {_listed(ran)}"
    if wanted == "fp32" and (narrower := [p for p in ran if p in _NARROW]):
        return f"asked for fp32, part of it ran {', '.join(narrower)}"
    return ""


def _listed(precisions: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in precisions.items()) or "nothing that multiplies"


def _score_in_parts(replica: Replica, sample: pa.Table) -> tuple[Scored, list[float]]:
    """Score the sample in interleaved parts; return all of it in order, and each part's rows per second."""
    parts = max(1, min(_PARTS, sample.num_rows // _PART_ROWS))
    pieces, speeds = [], []
    for part in range(parts):
        rows = np.arange(part, sample.num_rows, parts)
        scored = replica.score(sample.take(pa.array(rows)))
        pieces.append((rows, scored))
        speeds.append(scored.stats.rows_out / _busy(scored.stats))
    kept = np.concatenate([rows[scored.kept] for rows, scored in pieces])
    order = np.argsort(kept)
    answered = [scored.outputs for _, scored in pieces if len(scored.kept)]
    outputs = {name: np.concatenate([o[name] for o in answered])[order] for name in (answered[0] if answered else {})}
    rejected = {int(rows[i]): why for rows, scored in pieces for i, why in scored.rejected.items()}
    return Scored(outputs, kept[order], rejected, sum((s.stats for _, s in pieces), Stats())), speeds


def _busy(stats: Stats) -> float:
    return max(stats.preprocess_seconds + stats.infer_seconds + stats.postprocess_seconds, 1e-9)


def _tolerance(precisions: Iterable[str], baseline: Answers) -> float:
    """Return how far a component may move; the coarsest arithmetic that ran sets it."""
    floats = [np.abs(v).max() for v in baseline.outputs.values() if v.size and np.issubdtype(v.dtype, np.floating)]
    scale = max(map(float, floats), default=1.0)
    within = max(_INVARIANT_WITHIN.get(name, _INVARIANT_WITHIN_DEFAULT) for name in precisions) * scale
    return max(within, _OF_THE_BASELINE * baseline.largest_difference)


def _aligned(scored: Scored, baseline: Answers) -> Arrays:
    """Return outputs for the baseline's rows; NaN where the variant has no answer, which agrees with nothing."""
    aligned = {}
    for name, values in baseline.outputs.items():
        aligned[name] = np.full(values.shape, np.nan, dtype=np.float32)
        both, ours, theirs = np.intersect1d(scored.kept, baseline.kept, return_indices=True)
        if len(both):
            aligned[name][theirs] = scored.outputs[name][ours]
    return aligned


def _difference(alone: Arrays, company: Arrays) -> float:
    return max(float(np.abs(alone[name][0].astype(np.float64) - company[name][0]).max()) for name in alone)


def _path(artifact: str, key: str) -> Path:
    return home.home() / "certificates" / artifact / f"{key}.json"
