"""The record of a comparison: each event in the journal first, then in MLflow, a run with a child for each compared."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from optinfer.config import TrackingConfig
from optinfer.system import home
from optinfer.tracking.journal import Journal
from optinfer.tracking.mlflow_tracker import NestedRuns


class Comparison:
    """What `optimize` and `tune` record; a `with` block closes it, with the error that ended it.

    Args:
        run_name, params: of the run that the compared ones belong to.
        say: is told warnings.

    Attributes:
        run_id: of the comparison; `folder` holds what it leaves on this machine.
    """

    def __init__(
        self, tracking: TrackingConfig, run_name: str, params: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self.run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self.folder = home.runs() / self.run_id
        self._journal = Journal(self.folder / "journal.jsonl", time.time)
        self._runs = NestedRuns(tracking.uri or home.default_tracking_uri(), tracking.experiment, time.time)
        self._runs.start(run_name, dict(params), {"optinfer.run_id": self.run_id})
        self._say = say

    def __enter__(self) -> Comparison:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runs.__exit__(kind, error, trace)
        self._journal.__exit__(kind, error, trace)

    @property
    def journal(self) -> Path:
        return self._journal.path

    def event(self, event: str, **values: Any) -> None:
        """Append to the journal; it is on disk when this returns."""
        self._journal.write(event, **values)

    def add(
        self, name: str, params: Mapping[str, Any], metrics: dict[str, float], artifacts: dict[str, str] | None = None
    ) -> None:
        """Record one that was compared as a child run."""
        self._runs.add(name, dict(params), metrics, artifacts or {})

    def finish(self, summary: dict[str, Any], table: str, record: dict[str, Any], images: list[Path]) -> dict[str, Any]:
        """End it with metrics and tags; return where MLflow has it, and say a warning where it has not all of it."""
        files = {"table.md": table, "record.json": json.dumps(record, indent=1, default=str)}
        where = self._runs.finish(summary, files, images)
        if warning := where.get("warning"):
            self._say(f"warning: {warning}")
        return where
