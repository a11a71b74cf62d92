"""MLflow, wherever it is: asked within bounds, and how long an answer is waited for can be seen from another thread."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from optinfer.errors import without_secrets
from optinfer.system.quiet import hush

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

# MLflow's own tag, which no constant of it names: as what its pages show an experiment. This one is "Model training".
EXPERIMENT_KIND, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"

# The tag with our own id of a run.
RUN_ID = "optinfer.run_id"
_SQLITE = "sqlite:///"
_LOCKED_SECONDS = 5.0
# An answer that takes so long is none of an outage: a server that works needs it, and so does a busy disk.
_USUAL_SECONDS = 0.25
# All of a job's waiting for answers beyond that, once its rows are scored.
_SILENT_SECONDS = 2.0
# Waiting for what this process does itself: importing MLflow, making a SQLite file; on a busy machine it takes ten.
_LONGEST_SECONDS = 30.0
_LOOK_SECONDS = 0.05
# A thread that waits for a lock or a socket looks now and then, and needs less than a tenth of this in a second.
_WORK_SECONDS = 0.005


class Silence:
    """How long a question has been without an answer; asked by one thread, read by another.

    Where the system tells, a thread that works is not waiting: on a busy machine the same call takes ten times as long.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._clock: int | None = None
        self._worked, self._worked_at = 0.0, 0.0

    def ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        if self._clock is None and hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._since = time.monotonic()
        try:
            return call(*arguments, **options)
        finally:
            self._since = None

    def seconds(self) -> float:
        """Return how long the thread has been waiting; one thread asks this, and often."""
        since, now = self._since, time.monotonic()
        if (worked := self._work()) - self._worked >= _WORK_SECONDS:
            self._worked, self._worked_at = worked, now
        return 0.0 if since is None else now - max(since, self._worked_at)

    def outwait(self, thread: threading.Thread) -> str:
        """Wait for the thread that asks, while it is answered; return why no longer, "" when it has ended."""
        began = last = time.monotonic()
        silent = 0.0
        while thread.is_alive() and silent < _SILENT_SECONDS and last - began < _LONGEST_SECONDS:
            thread.join(_LOOK_SECONDS)
            now = time.monotonic()
            silent += now - last if self.seconds() > _USUAL_SECONDS else 0.0
            last = now
        if not thread.is_alive():
            return ""
        return "it does not answer" if silent >= _SILENT_SECONDS else f"not done within {_LONGEST_SECONDS:g} s"

    def _work(self) -> float:
        try:
            return time.clock_gettime(self._clock) if self._clock is not None else 0.0
        except OSError:  # the thread has ended
            return 0.0


class Store:
    """One experiment of one MLflow; raises what MLflow raises.

    Args:
        silence: told of every question.
    """

    def __init__(self, uri: str, experiment: str, silence: Silence) -> None:
        self.ask = silence.ask
        if file := database(uri):
            self.ask(_require_usable, file)
        hush()
        from mlflow import MlflowClient

        hush()  # after the import, which sets up MLflow's loggers anew
        bound()
        # No question: a new SQLite file takes seconds to make, and nobody else is waited for.
        self.client: MlflowClient = MlflowClient(tracking_uri=uri)
        self._experiment = experiment

    @cached_property
    def experiment_id(self) -> str:
        return self.ask(_experiment_id, self.client, self._experiment)

    def run(self, run_id: str) -> Run | None:
        """Return a run by MLflow's id; None where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return self.ask(self.client.get_run, run_id)
        except MlflowException as error:
            if error.get_http_status_code() == 404:
                return None
            raise

    def run_of(self, run_id: str, keep: str | None = None) -> Run | None:
        """Return the run that has a run of ours; None where none has.

        MLflow's client asks again where an answer was lost, and so do we: then there may be several. Whoever looks,
        keeps the same one, and removes the others.

        Args:
            keep: MLflow's id of the one to keep, where it is known.
        """
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        wanted = f"tags.`{RUN_ID}` = '{run_id}'"
        runs = list(self.ask(self.client.search_runs, [self.experiment_id], wanted, 1, 100, order))
        kept = next((run for run in runs if run.info.run_id == keep), runs[0] if runs else None)
        for run in runs:
            if run is not kept:
                self.ask(self.client.delete_run, run.info.run_id)
        return kept


def bound() -> None:
    """MLflow asks an unreachable server for about four minutes by default, and says on stdout where a run is."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # at once; before a second it would wait for seconds
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def is_refusal(error: BaseException) -> bool:
    """Tell whether MLflow refused what it was given, and would again."""
    status: Callable[[], int] | None = getattr(error, "get_http_status_code", None)  # MLflow's own errors have it
    return status is not None and status() == 400


def is_unknown(error: BaseException) -> bool:
    """Tell whether MLflow refused because it knows no such thing, or no such question."""
    status: Callable[[], int] | None = getattr(error, "get_http_status_code", None)
    return status is not None and status() in (400, 404)


def reason(uri: str, error: BaseException) -> str:
    """Say in a line why MLflow did not take something: what lies at the bottom, as MLflow quotes whole requests."""
    while not is_refusal(error) and (below := error.__cause__ or error.__context__):
        error = below
    return f"{type(error).__name__}: {without_secrets(uri, str(error))}"


def database(uri: str) -> Path | None:
    """Return the file of a SQLite store; None where it is another."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None


def located(uri: str) -> str:
    """Return a URI that means the same in any working directory."""
    file = database(uri)
    return uri if file is None else f"{_SQLITE}{file.absolute()}"


def open_experiment(uri: str, name: str) -> str:
    """Return an experiment's id, of one that is made where there is none."""
    from mlflow import MlflowClient

    return _experiment_id(MlflowClient(tracking_uri=uri), name)


def _experiment_id(client: MlflowClient, name: str) -> str:
    """Return the id; artifacts of a local SQLite store stay beside it, not in the working directory.

    One that is there already stays as whoever made it wants it shown.
    """
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    file = database(client.tracking_uri)
    try:
        place, kind = f"{file}-artifacts" if file else None, {EXPERIMENT_KIND: MODEL_TRAINING}
        return str(client.create_experiment(name, artifact_location=place, tags=kind))
    except MlflowException:
        if found := client.get_experiment_by_name(name):  # another job was first
            return str(found.experiment_id)
        raise


def _require_usable(file: Path) -> None:
    """Raise what is wrong with a SQLite file: MLflow asks one that it cannot open for minutes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(file, timeout=_LOCKED_SECONDS)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE optinfer_may_write (it)")  # only a change tells of what may only be read
        connection.rollback()
