"""The measured facts of an artifact: faithful? independent of the batch? what really ran? how fast, how large?

Measured with the replica the job will run, on the job's own rows, and kept beside the artifact by sample, so the second
run of a job pays nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer import home
from optinfer.families import Arrays
from optinfer.inference.replica import Replica, ReplicaSettings, Scored
from optinfer.optimization.gate import Fidelity, measure
from optinfer.tracking.metrics import peak_rss_mb

# Rounding moves a component by about 1e-7 of the output's scale in fp32 and 4e-3 in bf16, whose kernels differ by
# shape; a scale shared by the micro-batch moves it by 1e-2 and more.
_INVARIANT_WITHIN = {"bf16": 1e-2, "fp16": 2e-3}
_INVARIANT_WITHIN_DEFAULT = 1e-3
_INVARIANCE_ROWS = 8
_NEIGHBOURS = 3
_WARM_UP_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was measured of one artifact on one sample. Seconds, megabytes, rows per second of one replica."""

    variant: str
    artifact: str
    sample: str
    fidelity: Fidelity
    batch_invariant: bool
    largest_difference: float
    invariance: dict[str, float]
    executed: dict[str, Any]
    rows_per_second: float
    micro_batch_p50_ms: float
    micro_batch_p99_ms: float
    padding_fraction: float
    threads: int
    peak_rss_mb: float
    artifact_mb: float
    build_seconds: float
    load_seconds: float
    notes: tuple[str, ...]
    measured_at: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Answers:
    """The baseline's outputs for the sample rows `kept`, the ones it could score."""

    outputs: Arrays
    kept: np.ndarray[Any, Any]


def certify(
    variant: str,
    settings: ReplicaSettings,
    replica: Replica,
    sample: pa.Table,
    baseline: Answers,
    metric: str,
    key: str,
) -> Certificate:
    """Measure a loaded replica on `sample` (a column per role) against the baseline's outputs, and keep the result."""
    replica.score(sample.slice(0, _WARM_UP_ROWS))
    scored = replica.score(sample)
    cases = invariance(replica, sample)
    scale = max(float(np.abs(values).max()) for values in baseline.outputs.values())
    worst = max(cases.values(), default=0.0)
    tolerance = _INVARIANT_WITHIN.get(settings.artifact.precision, _INVARIANT_WITHIN_DEFAULT)
    busy = scored.stats.preprocess_seconds + scored.stats.infer_seconds + scored.stats.postprocess_seconds
    certificate = Certificate(
        variant=variant,
        artifact=settings.artifact.key,
        sample=key,
        fidelity=measure(metric, baseline.outputs, _aligned(scored, baseline)),
        batch_invariant=worst <= tolerance * scale,
        largest_difference=worst,
        invariance=cases,
        executed=replica.session.executed(),
        rows_per_second=scored.stats.rows_out / busy,
        micro_batch_p50_ms=scored.stats.latencies.percentile(50) * 1e3,
        micro_batch_p99_ms=scored.stats.latencies.percentile(99) * 1e3,
        padding_fraction=scored.stats.padding_fraction,
        threads=settings.threads,
        peak_rss_mb=peak_rss_mb(),
        artifact_mb=settings.artifact.size_bytes / 1e6,
        build_seconds=settings.artifact.build_seconds,
        load_seconds=replica.load_seconds,
        notes=settings.artifact.notes,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _path(settings.artifact.key, key).parent.mkdir(parents=True, exist_ok=True)
    _path(settings.artifact.key, key).write_text(json.dumps(certificate.as_dict(), indent=1))
    return certificate


def read(artifact: str, key: str) -> Certificate | None:
    """Return the certificate kept for this artifact and sample, if any."""
    path = _path(artifact, key)
    if not path.is_file():
        return None
    raw = json.loads(path.read_text())
    return Certificate(**{**raw, "fidelity": Fidelity(**raw["fidelity"]), "notes": tuple(raw["notes"])})


def invariance(replica: Replica, sample: pa.Table) -> dict[str, float]:
    """Return the largest difference of any output component between a row alone and the same row in company.

    Cases: ordinary neighbours, outlier neighbours (the longest rows), and padding to twice the length.
    """
    features = replica.family.preprocess(sample)
    rows = np.array([i for i in range(features.rows) if i not in features.rejected])
    chosen = rows[:_INVARIANCE_ROWS]
    if len(chosen) < 2:
        return {}
    alone = {int(r): replica.session(features.collate(np.array([r]))) for r in chosen}
    ordered = rows if features.lengths is None else rows[np.argsort(-features.lengths[rows], kind="stable")]
    companies = {"neighbours": rows, "outlier neighbours": ordered}
    worst = dict.fromkeys(companies, 0.0)
    for row in chosen:
        for case, pool in companies.items():
            company = np.array([row, *[r for r in pool if r != row][:_NEIGHBOURS]])
            worst[case] = max(worst[case], _difference(alone[int(row)], replica.session(features.collate(company))))
        if features.lengths is not None:
            padded = features.collate(np.array([row]), pad_to=2 * int(features.lengths[row]))
            difference = _difference(alone[int(row)], replica.session(padded))
            worst["padding"] = max(worst.get("padding", 0.0), difference)
    return worst


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
    return max(float(np.abs(alone[name][0] - company[name][0]).max()) for name in alone)


def _path(artifact: str, key: str) -> Any:
    return home.home() / "certificates" / artifact / f"{key}.json"
