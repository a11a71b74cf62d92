"""One run's record, whatever its verb: every event goes to the journal, then to MLflow.

A `with` block gives it its final status.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from optinfer.config import TrackingConfig
from optinfer.errors import OptinferError, scrubbed
from optinfer.records.run import MlflowRun
from optinfer.system import home, last_resort
from optinfer.tracking.events import Event, Finished, Params, ParamsKnown, Selected, Warned
from optinfer.tracking.journal import Journal
from optinfer.tracking.mlflow_tracker import MlflowTracker


class Recorder:
    """Writes events; `clock` gives seconds since the epoch, `say` is told warnings.

    Attributes:
        folder: what the run leaves on this machine.
        warnings: those that were given so far.
    """

    def __init__(
        self, folder: Path, tracker: MlflowTracker, clock: Callable[[], float], say: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal.jsonl", clock)
        self.warnings: list[str] = []
        self._tracker = tracker
        self._clock = clock
        self._say = say
        self._finished = False

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self._end(error)
            self._say(f"journal: {self.journal.path}")
        elif error is not None:
            self.journal.keep(error)
        self.journal.close()

    def _end(self, error: BaseException | None) -> None:
        """Close a run that came to no end of its own, also where its journal cannot be written to any more."""
        if error is not None:
            self.journal.keep(error)
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        text = str(error) if isinstance(error, OptinferError) else last_resort.named(error) if error else status
        event = self._with_warnings(Finished(status=status, tags={"optinfer.error": text[:500]}))
        with contextlib.suppress(OptinferError):  # it must not hide what ended the run
            self.journal.write(event)
        self._tracker.log(self._clock(), event)
        self._warn_of(self._tracker.close())

    def event(self, event: Event) -> None:
        self._tracker.log(self.journal.write(event), event)

    def params(self, params: Params) -> None:
        self.event(ParamsKnown(params))

    def selected(self, chosen: str, not_chosen: Iterable[tuple[str, str]]) -> None:
        self.event(Selected(chosen, dict(not_chosen)))

    def warn(self, line: str) -> None:
        line = scrubbed(line)
        self.warnings.append(line)
        self.event(Warned(line))
        self._say(f"warning: {line}")

    def child(
        self, name: str, params: Params, metrics: Mapping[str, float], artifacts: Mapping[str, str] | None = None
    ) -> None:
        """Record one of those that this run compares, as a run of its own under this one."""
        self._tracker.child(self._clock(), name, params, Finished(metrics=metrics, artifacts=artifacts or {}))

    def mlflow_run(self) -> MlflowRun:
        """Return what is known now of the MLflow run."""
        return self._tracker.where()

    def finish(self, event: Finished, files: Sequence[Path] = ()) -> MlflowRun:
        """Close the run; return where MLflow has it, saying a warning where it has not all of it."""
        for file in files:
            self._tracker.attach(file)
        self._finished = True
        self.event(self._with_warnings(event))
        where = self._tracker.close()
        if where.warning:
            self.journal.write(Warned(where.warning))
        self._warn_of(where)
        return where

    def _with_warnings(self, event: Finished) -> Finished:
        if not self.warnings:
            return event
        return replace(event, tags={**event.tags, "optinfer.warnings": "\n".join(self.warnings)[:5000]})

    def _warn_of(self, where: MlflowRun) -> None:
        if where.warning:
            self._say(f"warning: {where.warning}")


def new_run_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"


def recorder_of(tracking: TrackingConfig, run_id: str, say: Callable[[str], None]) -> Recorder:
    """Return the recorder of a run: its journal in our home, and the experiment that the job names."""
    tracker = MlflowTracker(tracking.uri or home.default_tracking_uri(), tracking.experiment)
    return Recorder(home.runs() / run_id, tracker, time.time, say)
