"""The runs of one job, as its journals and MLflow have them."""

from __future__ import annotations

from dataclasses import dataclass

from optinfer.records.record import Record

JOURNAL, MLFLOW = "journal", "mlflow"


@dataclass(frozen=True, kw_only=True)
class PastRun(Record):
    """One run, ended or not.

    Attributes:
        started: seconds since the epoch.
        status: `done`, `failed`, `interrupted`, `running`, or `cut off`: it was killed, or its machine died.
        rows: what it scored or quarantined itself; resumed fragments are another run's.
        quarantined: of these; where MLflow alone knows a run that resumed another: of the whole output.
        forecast_seconds: what was foretold; `forecast_error_percent` is its excess over what it took; None where
            nothing was measured before.
        cost: None where the job names no price.
        error: what ended it, in a line; empty where nothing did.
        known_from: `journal` or `mlflow`.
    """

    run_id: str
    started: float
    status: str
    variant: str
    rows: int
    quarantined: int
    seconds: float
    rows_per_second: float
    forecast_seconds: float | None
    forecast_error_percent: float | None
    cost: float | None
    error: str
    known_from: str


@dataclass(frozen=True, kw_only=True)
class History(Record):
    """What is known of a job's runs.

    Attributes:
        runs: newest first.
        notes: what could not be asked or read, in a line each.
        home: where journals were looked for.
    """

    job: str
    output: str
    runs: tuple[PastRun, ...]
    notes: tuple[str, ...]
    home: str
