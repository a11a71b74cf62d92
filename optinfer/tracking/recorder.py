"""One run's record, whatever its verb: every event goes to the journal, then to MLflow.

A `with` block gives it its final status. While it is open, nobody else feeds MLflow from the journal (replay.py).
"""

from __future__ import annotations

import base64
import contextlib
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType

from optinfer.config import TrackingConfig
from optinfer.errors import OptinferError, redact, scrubbed
from optinfer.records.run import MlflowRun
from optinfer.system import home, last_resort, will
from optinfer.tracking.events import (
    Attached,
    Below,
    Event,
    Finished,
    Params,
    ParamsKnown,
    Selected,
    Started,
    Tracked,
    Warned,
)
from optinfer.tracking.journal import JOURNAL, Journal, held
from optinfer.tracking.journal_copy import JournalCopy, Put
from optinfer.tracking.mlflow_store import located
from optinfer.tracking.mlflow_tracker import MlflowTracker

Say = Callable[[str], None]


class Recorder:
    """Writes events; `clock` gives seconds since the epoch, `say` is told warnings.

    Args:
        copies: where the journal is copied to, in words -> what takes it there, piece by piece.

    Attributes:
        folder: what the run leaves on this machine.
        warnings: those that were given so far.
    """

    def __init__(
        self,
        folder: Path,
        tracker: MlflowTracker,
        clock: Callable[[], float],
        say: Say,
        copies: Mapping[str, Put] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self.journal = Journal(folder / JOURNAL, clock)
        self._held = held(folder)
        self._held.acquire(timeout=0)
        self._copies = {where: JournalCopy(self.journal.path, put) for where, put in copies.items()}
        self.warnings: list[str] = []
        self._tracker = tracker
        where = {"uri": located(tracker.uri), "experiment": tracker.experiment}
        will.leave(will.TRACKED, path=str(self.journal.path), **where)
        self._tracker.when_made(self._tracked)
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
        self._held.release()
        for where, copy in self._copies.items():
            if lacks := copy.close():
                self._say(f"warning: the journal's copy {where} is not whole ({lacks}); {self.journal.path} is")

    def _end(self, error: BaseException | None) -> None:
        """Close a run that came to no end of its own, also where its journal cannot be written to any more."""
        if error is not None:
            self.journal.keep(error)
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        text = str(error) if isinstance(error, OptinferError) else last_resort.named(error) if error else status
        event = self._with_warnings(Finished(status=status, tags={"optinfer.error": text[:500]}))
        time = self._clock()
        with contextlib.suppress(OptinferError):  # it must not hide what ended the run
            time = self.journal.write(event)
        self._tracker.log(time, event)
        self._close()

    def event(self, event: Event) -> None:
        time = self.journal.write(event)
        self._tracker.log(time, event)
        if isinstance(event, Started):
            self._tracked(None)
        for copy in self._copies.values():
            copy.grown(time)

    def _tracked(self, mlflow_run_id: str | None) -> None:
        """Note where MLflow has this run; its own thread tells its id, maybe when the journal is closed already."""
        tracker = self._tracker
        where = Tracked(
            uri=redact(located(tracker.uri)),
            experiment=tracker.experiment,
            host=socket.gethostname(),
            mlflow_run_id=mlflow_run_id,
        )
        with contextlib.suppress(OptinferError, ValueError):
            self.journal.write(where)

    def params(self, params: Params) -> None:
        self.event(ParamsKnown(params))

    def selected(self, chosen: str, not_chosen: Iterable[tuple[str, str]], why: Iterable[tuple[str, str]] = ()) -> None:
        self.event(Selected(chosen, dict(not_chosen), {name: str(word) for name, word in why}))

    def warn(self, line: str) -> None:
        line = scrubbed(line)
        self.warnings.append(line)
        self.event(Warned(line))
        self._say(f"warning: {line}")

    def child(
        self,
        name: str,
        params: Params,
        metrics: Mapping[str, float],
        artifacts: Mapping[str, str] | None = None,
        note: str = "",
    ) -> None:
        """Record one of those that this run compares, as a run of its own under this one."""
        self.event(Below(name=name, params=params, metrics=metrics, artifacts=artifacts or {}, note=note))

    def mlflow_run(self) -> MlflowRun:
        """Return what is known now of the MLflow run."""
        return self._tracker.where()

    def finish(self, event: Finished, files: Sequence[Path] = ()) -> MlflowRun:
        """Close the run; return where MLflow has it, saying a warning where it has not all of it."""
        for file in files:
            self.event(Attached(file.name, base64.b64encode(file.read_bytes()).decode()))
        self._finished = True
        self.event(self._with_warnings(event))
        return self._close()

    def _close(self) -> MlflowRun:
        """Close the run in MLflow, and say what it lacks, with the way to bring it there."""
        where = self._tracker.close()
        if not where.warning:
            return where
        where = replace(where, warning=f"{where.warning}: `optinfer sync {self.journal.path}` brings it there")
        with contextlib.suppress(OptinferError):  # the run is over, and this line is said as well
            self.journal.write(Warned(where.warning))
        self._say(f"warning: {where.warning}")
        return where

    def _with_warnings(self, event: Finished) -> Finished:
        if not self.warnings:
            return event
        return replace(event, tags={**event.tags, "optinfer.warnings": "\n".join(self.warnings)[:5000]})


def new_run_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"


def recorder_of(
    tracking: TrackingConfig, run_id: str, say: Say, copies: Mapping[str, Put] = MappingProxyType({})
) -> Recorder:
    """Return the recorder of a run: its journal in our home, and the experiment that the job names."""
    tracker = MlflowTracker(tracking.uri or home.default_tracking_uri(), tracking.experiment)
    return Recorder(home.runs() / run_id, tracker, time.time, say, copies)
