"""What a run answers: the object that `run --json` prints, its manifest has, and MLflow is fed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optinfer.records.drift import Drift
from optinfer.records.forecast import Compared
from optinfer.records.placement import Placement, placements, told
from optinfer.records.proof import Certificate, GateResult
from optinfer.records.record import Record, decoded_leniently, plain


@dataclass(frozen=True, kw_only=True)
class MlflowRun(Record):
    """Where MLflow has a run; `warning` says why it has not all of it, nothing where it has."""

    uri: str
    experiment: str
    run_id: str | None
    warning: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().as_dict().items() if name != "warning" or value}


@dataclass(frozen=True)
class Breakdown(Record):
    """Seconds by part.

    Attributes:
        startup_seconds: command to first committed fragment, by step; the rest of it is the first fragment.
        replica_seconds: seconds of all replicas by part; `wait` is a fragment's wait for its turn in the model.
        model_share: share of the loaded replicas' time that the model was busy; None where nothing tells.
        bottleneck: the part that limits, `infer` where the model does.
    """

    startup_seconds: dict[str, float]
    replica_seconds: dict[str, float]
    model_share: float | None
    bottleneck: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Proof(Record):
    """What is said of the variant of a further pool, or of an experiment's arm."""

    variant: str
    gate: GateResult
    certificate: Certificate
    variants_not_chosen: Mapping[str, str]


_EMPTY = ("time", "gate", "certificate", "beside", "mlflow")


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """One attempt of a job, as docs/jobs.md explains it key by key.

    Attributes:
        time, gate, certificate, beside: None, and empty in JSON, where nothing was scored, or by one pool alone.
        arms: of an experiment, beside the control, which is `variant`.
        forecast: None where there was nothing to do.
        drift: None, and not in JSON, where the job is not watched, and in outputs of before.
    """

    status: str = "done"
    run_id: str
    job: str = ""
    variant: str = ""
    fingerprint: str = ""
    output: str = ""
    fragments: int
    fragments_resumed: int = 0
    fragments_scored_again: int = 0
    rows_in: int
    rows_out: int = 0
    rows_quarantined: int = 0
    rows_deduplicated: int = 0
    seconds: float = 0.0
    startup_seconds: float | None = None
    rows_per_second: float | None = None
    steady_rows_per_second: float | None = None
    tokens_per_second: float | None = None
    padding_fraction: float = 0.0
    time: Breakdown | None = None
    rows_by_node: Mapping[str, int] = field(default_factory=dict)
    rows_by_variant: Mapping[str, int] = field(default_factory=dict)
    out_of_memory: int = 0
    taken_over: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    placement: tuple[Placement, ...] = ()
    gate: GateResult | None = None
    certificate: Certificate | None = None
    beside: Proof | None = None
    arms: Mapping[str, Proof] = field(default_factory=dict)
    forecast: Compared | None = None
    drift: Drift | None = None
    mlflow: MlflowRun | None = None

    def as_dict(self) -> dict[str, Any]:
        empty = {name: plain(getattr(self, name)) or {} for name in _EMPTY}
        found = {**super().as_dict(), **empty, "placement": told(self.placement)}
        return {name: value for name, value in found.items() if name != "drift" or value is not None}

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> RunRecord:
        """Return the record that a manifest holds, of an earlier version, too.

        Raises:
            ValueError: it does not say which run it was, or over how many rows.
        """
        return decoded_leniently(cls, {**raw, "placement": placements(raw.get("placement"))})
