"""What `optinfer sync` answers: of each journal, whether MLflow has its run now."""

from __future__ import annotations

from dataclasses import dataclass

from optinfer.records.record import Record

COMPLETE, SENT, RUNNING, FAILED = "complete", "sent", "running", "failed"


@dataclass(frozen=True, kw_only=True)
class Synced(Record):
    """One journal.

    Attributes:
        status: `complete` (MLflow had all of it), `sent` (it has now), `running` (the run feeds MLflow itself) or
            `failed`.
        mlflow_run_id: None where MLflow has no such run.
        reason: why it failed, else empty.
    """

    journal: str
    run_id: str
    status: str
    uri: str = ""
    experiment: str = ""
    mlflow_run_id: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class SyncRecord(Record):
    """What became of each journal that was named."""

    runs: tuple[Synced, ...]

    @property
    def failed(self) -> int:
        return sum(run.status == FAILED for run in self.runs)
