"""The quality a variant must keep: one number for each sampled row, their mean, and a bound on that mean. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from optinfer.config import GateConfig
from optinfer.errors import ConfigError, suggest
from optinfer.families import Arrays

_RESAMPLES = 1000
_CONFIDENCE = 95.0


def cosine(baseline: Arrays, candidate: Arrays) -> np.ndarray[Any, Any]:
    """Return (rows,) cosine similarity of the first output's vectors: 1 for one direction, 0 where an answer is NaN."""
    name = next(iter(baseline))
    a, b = (np.asarray(x[name], dtype=np.float64).reshape(len(x[name]), -1) for x in (baseline, candidate))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    similarity = np.where(norms == 0, (a == b).all(axis=1), (a * b).sum(axis=1) / np.maximum(norms, 1e-30))
    return np.nan_to_num(similarity, nan=0.0)


METRICS = {"cosine": cosine}


@dataclass(frozen=True)
class Fidelity:
    """How well a variant keeps the baseline's answers: mean over rows with its 95% interval, and the worst row."""

    metric: str
    mean: float
    ci_low: float
    ci_high: float
    worst: float
    rows: int


@dataclass(frozen=True)
class GateResult:
    """The verdict; `value` is the lower confidence bound, which is what must reach `threshold`."""

    metric: str
    value: float
    threshold: float
    passed: bool
    sample_rows: int
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(metric: str, baseline: Arrays, candidate: Arrays) -> Fidelity:
    """Compare two outputs of the same rows.

    The interval is a percentile bootstrap over rows (Efron and Tibshirani, 1993), with a fixed seed.

    Raises:
        ConfigError: there is no such metric.
    """
    if metric not in METRICS:
        raise ConfigError(f"gate.metric: no metric {metric!r}" + suggest(metric, METRICS))
    values = METRICS[metric](baseline, candidate)
    draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    tail = (100 - _CONFIDENCE) / 2
    low, high = np.percentile(values[draws].mean(axis=1), [tail, 100 - tail])
    return Fidelity(metric, float(values.mean()), float(low), float(high), float(values.min()), len(values))


def judge(gate: GateConfig, fidelity: Fidelity, batch_invariant: bool, require_invariance: bool) -> GateResult:
    """Tell whether a variant with this fidelity, and answers that do or do not depend on the batch, may score rows."""
    reason = ""
    if fidelity.ci_low < gate.min:
        reason = (
            f"{fidelity.metric} {fidelity.mean:.5f} (95% bound {fidelity.ci_low:.5f}) is "
            f"{gate.min - fidelity.ci_low:.5f} below gate.min {gate.min}"
        )
    elif require_invariance and not batch_invariant:
        reason = "its answers depend on a row's neighbours; gate.require_batch_invariance: false would allow it"
    return GateResult(fidelity.metric, fidelity.ci_low, gate.min, not reason, fidelity.rows, reason)
