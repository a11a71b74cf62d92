"""One run's record: every event goes to the journal, then to MLflow; a `with` block gives it its final status."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from optinfer.config import TrackingConfig
from optinfer.errors import OptinferError
from optinfer.system import home, last_resort
from optinfer.tracking.journal import Journal
from optinfer.tracking.mlflow_tracker import MlflowTracker


class Recorder:
    """Writes events; `clock` gives seconds since the epoch, `say` is told warnings."""

    def __init__(
        self, folder: Path, tracker: MlflowTracker, clock: Callable[[], float], say: Callable[[str], None]
    ) -> None:
        self.journal = Journal(folder / "journal.jsonl", clock)
        self.warnings: list[str] = []
        self._tracker = tracker
        self._say = say
        self._finished = False

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished:
            return
        if error is not None:
            self.journal.keep(error)
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        text = str(error) if isinstance(error, OptinferError) else last_resort.named(error) if error else status
        with contextlib.suppress(OptinferError):  # a full disk, say: it must not hide what ended the run
            self.finish(status, tags={"optinfer.error": text[:500]})
        self.journal.close()
        self._say(f"journal: {self.journal.path}")

    def event(self, event: str, **values: Any) -> dict[str, Any]:
        record = self.journal.write(event, **values)
        self._tracker.log(record)
        return record

    def params(self, params: dict[str, Any]) -> None:
        self.event("params", params=params)

    def warn(self, line: str) -> None:
        self.warnings.append(line)
        self.event("warning", message=line)
        self._say(f"warning: {line}")

    def mlflow_run(self) -> dict[str, Any]:
        """Return what is known now of the MLflow run."""
        return self._tracker.where()

    def finish(
        self,
        status: str,
        metrics: dict[str, float] | None = None,
        outputs: list[dict[str, str]] | None = None,
        artifacts: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Close the run; return where MLflow has it, saying a warning where it has not all of it."""
        self._finished = True
        self.event(
            "finish",
            status=status,
            metrics=metrics or {},
            outputs=outputs or [],
            artifacts=artifacts or {},
            tags={**(tags or {}), **({"optinfer.warnings": "\n".join(self.warnings)[:5000]} if self.warnings else {})},
        )
        where = self._tracker.close()
        if "warning" in where:
            self.journal.write("warning", message=where["warning"])
            self._say(f"warning: {where['warning']}")
        self.journal.close()
        return where


def recorder_of(tracking: TrackingConfig, run_id: str, say: Callable[[str], None]) -> Recorder:
    """Return the recorder of a run: its journal in our home, and the experiment that the job names."""
    tracker = MlflowTracker(tracking.uri or home.default_tracking_uri(), tracking.experiment)
    return Recorder(home.runs() / run_id, tracker, time.time, say)
