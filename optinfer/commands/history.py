"""history(target): the runs of a job, from the journals of this machine and of its home's store, and from MLflow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from optinfer.commands.asked_for import Target
from optinfer.config import TrackingConfig
from optinfer.data import home_store
from optinfer.data.lease import holder, is_here, is_live
from optinfer.data.output import Output
from optinfer.errors import ConfigError
from optinfer.records.history import History, PastRun
from optinfer.system import home
from optinfer.tracking.journal import JOURNAL
from optinfer.tracking.journal_copy import whole
from optinfer.tracking.mlflow_past import from_mlflow
from optinfer.tracking.past import Asked, from_journals, kept_here


def history(target: Target, last: int) -> History:
    """Return a job's newest runs; one that a journal and MLflow both have is the journal's.

    A job file stands for all runs of that name, whatever they wrote; a folder for the runs of the job that it holds.

    Raises:
        ConfigError: no optinfer job writes to the folder.
    """
    output = Output(target.url)
    job, asked, tracking = _job(target, output)
    alive = Alive(output)
    kept, damaged = from_journals(_journals(), asked, last, alive)
    elsewhere, silent = from_mlflow(tracking, asked, last, alive)
    runs: dict[str, PastRun] = {run.run_id: run for run in (*elsewhere, *kept)}
    newest = sorted(runs.values(), key=lambda run: -run.started)[:last]
    return History(job=job, output=output.shown, runs=tuple(newest), notes=(*damaged, *silent), home=home.shown())


def _journals() -> Iterator[Path]:
    """Yield the journals of this machine and of the home's store, newest first: an id begins with when a run did."""
    here = {path.parent.name: path for path in kept_here()}
    for run_id in sorted({*here, *home_store.runs()}, reverse=True):
        yield here.get(run_id) or _brought(run_id)


def _brought(run_id: str) -> Path:
    """Return where a journal of the store is brought to, which it need not be: then whoever reads it says so."""
    path = home.home() / "journals" / run_id / JOURNAL
    pieces = home_store.pieces_of_journal(run_id, path.stat().st_size if path.is_file() else 0)
    with contextlib.suppress(ValueError):  # a piece is missing
        if pieces:
            home.put(path, whole(pieces))
    return path


def _job(target: Target, output: Output) -> tuple[str, Asked, TrackingConfig]:
    """Return the job's name, whose runs are wanted, and where MLflow has them."""
    if target.config is not None:
        return target.config.name, Asked(job=target.config.name), target.config.tracking
    frozen = output.binding.job()
    if frozen is None:
        raise ConfigError(f"{output.shown} is not the output of an optinfer job; give the job's file or its sink.path")
    manifest = output.manifest()
    named = manifest.job if manifest else {}
    return str(named.get("name", "")), Asked(fingerprint=frozen.fingerprint), _tracking(named)


def _tracking(job: Mapping[str, object]) -> TrackingConfig:
    """Return where a finished job was tracked; of one that is not, nobody but its file knows."""
    try:
        return TrackingConfig.model_validate(job.get("tracking", {}))
    except ValidationError:
        return TrackingConfig()


class Alive:
    """Tells whether a run that has no end is the one that holds the output now."""

    def __init__(self, output: Output) -> None:
        held = holder(output.folder)
        self._held = held if held is not None and is_live(held, time.time()) else None

    def __call__(self, started: float) -> bool:
        if self._held is None:
            return False
        # Runs that are older than the holder's process were killed; the clock of another machine tells nothing.
        return not is_here(self._held) or started >= self._held.started
