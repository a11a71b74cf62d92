"""What `optimize` answers: the variants of a model, measured on a job's own rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optinfer.records.proof import Certificate, GateResult
from optinfer.records.record import Record
from optinfer.records.run import MlflowRun


@dataclass(frozen=True, kw_only=True)
class Unmeasured(Record):
    """A variant that was not measured, and why."""

    variant: str
    reason: str
    passed: bool = False


@dataclass(frozen=True, kw_only=True)
class Candidate(Record):
    """A variant that was measured; `speedup` is over the baseline, None where that was not measured."""

    variant: str
    passed: bool
    reason: str
    techniques: str
    backend: str
    gate: GateResult
    certificate: Certificate
    speedup: float | None = None


@dataclass(frozen=True, kw_only=True)
class Registered(Record):
    """The winner as a version of an MLflow model; `error` says why it is none, and then it has no version."""

    name: str
    version: str | int | None = None
    uri: str | None = None
    run_id: str | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().as_dict().items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class OptimizeRecord(Record):
    """A comparison; those that pass come first among `candidates`, the fastest of them is the winner.

    Attributes:
        label: the column that the metric is about; None where the baseline's answers are the truth.
        relative: `threshold` is a share of what the baseline reaches.
        pareto: the variants that no other beats in both speed and quality.
        skipped: variant -> why it was not measured.
        registered: None where nobody asked for it, or nothing passes.
    """

    status: str = "done"
    run_id: str
    job: str
    model: str
    family: str
    metric: str
    label: str | None
    threshold: float
    relative: bool
    sample_rows: int
    baseline: str
    winner: str | None
    pareto: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    skipped: Mapping[str, str]
    plot: str | None = None
    journal: str = ""
    mlflow: MlflowRun | None = None
    registered: Registered | None = None
