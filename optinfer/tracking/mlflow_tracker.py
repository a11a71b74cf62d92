"""Feeds one MLflow run from journal events, on its own thread: an outage never slows or fails a job.

What could not be sent is still in the journal; `finish` says so in one warning.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from optinfer.errors import redact, without_secrets
from optinfer.records.run import MlflowRun
from optinfer.secrets import clean
from optinfer.system.quiet import hush
from optinfer.tracking.events import (
    Committed,
    Dataset,
    Event,
    Finished,
    Params,
    ParamsKnown,
    Selected,
    Started,
)

_GIVE_UP_SECONDS = 30.0
_LOCKED_SECONDS = 5.0
_STATUS = {"done": "FINISHED", "interrupted": "KILLED"}
# A point costs some 5 ms of the driver, which shares the machine with replicas.
_POINT_EVERY_SECONDS = 5.0
# MLflow's own limit for one batch of parameters.
_PARAMS_A_CALL = 100


class MlflowTracker:
    """One run of one job attempt, with a run below it for each that it compares."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.experiment = experiment
        self.run_id: str | None = None
        self.error: str | None = None
        self._calls: queue.Queue[Callable[[_Sender], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._feed, name="optinfer-mlflow", daemon=True)
        self._thread.start()

    def log(self, time: float, event: Event) -> None:
        """Queue a journal event of that time; returns at once, as do `child` and `attach`."""
        self._calls.put(lambda sender: sender.send(time, clean(event)))

    def child(self, time: float, name: str, params: Params, end: Finished) -> None:
        """Queue a run below this one, which has ended."""
        self._calls.put(lambda sender: sender.child(time, name, clean(params), clean(end)))

    def attach(self, file: Path) -> None:
        """Queue a file."""
        self._calls.put(lambda sender: sender.attach(file))

    def close(self) -> MlflowRun:
        """Wait for what is queued, a bounded time; return `where()`."""
        self._calls.put(None)
        self._thread.join(_GIVE_UP_SECONDS)
        if self._thread.is_alive() and self.error is None:
            self.error = f"no answer within {_GIVE_UP_SECONDS:g} s"
        return self.where()

    def where(self) -> MlflowRun:
        """Return uri, experiment and run id as known now, with a warning if MLflow did not take everything."""
        uri = redact(self.uri)
        warning = f"MLflow at {uri} did not take everything ({self.error}); the journal did" if self.error else ""
        return MlflowRun(uri=uri, experiment=self.experiment, run_id=self.run_id, warning=warning)

    def _feed(self) -> None:
        try:
            bound_retries()
            sender = _Sender(self.uri, self.experiment)
            while (call := self._calls.get()) is not None:
                call(sender)
                self.run_id = sender.run_id
        except Exception as error:
            self.error = f"{type(error).__name__}: {without_secrets(self.uri, str(error))}"


def bound_retries() -> None:
    """MLflow asks an unreachable server for about four minutes by default; a job need not wait for that."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def open_experiment(uri: str, name: str) -> str:
    """Return an experiment's id; artifacts of a local SQLite store stay beside it, not in the working directory."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    location = f"{uri.removeprefix('sqlite:///')}-artifacts" if uri.startswith("sqlite:///") else None
    return str(client.create_experiment(name, artifact_location=location))


def _require_usable(database: Path) -> None:
    """Raise what is wrong with a SQLite file: MLflow asks one that it cannot open for minutes."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(database, timeout=_LOCKED_SECONDS)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


class _Sender:
    """Translates events into MLflow calls; raises what MLflow raises."""

    def __init__(self, uri: str, experiment: str) -> None:
        if uri.startswith("sqlite:///"):
            _require_usable(Path(uri.removeprefix("sqlite:///")))
        from mlflow import MlflowClient

        hush()  # after the import, which sets up MLflow's loggers anew
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = experiment
        self._rows = 0
        self._last_step: tuple[float, int] | None = None
        self._started = 0.0
        self.run_id: str | None = None

    def send(self, time: float, event: Event) -> None:
        if isinstance(event, Started):
            self._start(time, event)
        elif isinstance(event, Committed):
            self._progress(time, event.receipt.stats.rows_in)
        elif isinstance(event, ParamsKnown):
            self._params(event.params)
        elif isinstance(event, Selected):
            for name, reason in event.others.items():
                self._client.set_tag(self.run_id, f"optinfer.not_chosen.{name}", reason[:5000])
        elif isinstance(event, Finished):
            self._finish(time, event)

    def child(self, time: float, name: str, params: Params, end: Finished) -> None:
        below = _Sender(self._client.tracking_uri, self._experiment)
        below.send(time, Started(run_name=name, params=params, tags={"mlflow.parentRunId": str(self.run_id)}))
        below.send(time, end)

    def attach(self, file: Path) -> None:
        self._client.log_artifact(self.run_id, str(file))

    def _start(self, time: float, event: Started) -> None:
        experiment_id = open_experiment(self._client.tracking_uri, self._experiment)
        run = self._client.create_run(
            experiment_id, start_time=int(time * 1000), tags=dict(event.tags), run_name=event.run_name
        )
        self.run_id = run.info.run_id
        self._started = time
        self._params(event.params)
        self._datasets(event.inputs)

    def _params(self, params: Params) -> None:
        from mlflow.entities import Param

        entries = [Param(key, str(value)[:6000]) for key, value in params.items()]
        for start in range(0, len(entries), _PARAMS_A_CALL):
            self._client.log_batch(self.run_id, params=entries[start : start + _PARAMS_A_CALL])

    def _datasets(self, datasets: Sequence[Dataset]) -> None:
        from mlflow.entities import Dataset as MlflowDataset
        from mlflow.entities import DatasetInput, InputTag

        if not datasets:
            return
        given = [
            DatasetInput(
                MlflowDataset(name=d.name, digest=d.digest[:36], source_type="parquet", source=d.source),
                [InputTag("mlflow.data.context", d.context)],
            )
            for d in datasets
        ]
        self._client.log_inputs(self.run_id, given)

    def _progress(self, now: float, rows: int) -> None:
        """Log rows and rows per second over time, at most one point every few seconds."""
        self._rows += rows
        if self._last_step and now - self._last_step[0] < _POINT_EVERY_SECONDS:
            return
        point = {"progress/rows": float(self._rows)}
        if self._last_step:
            point["progress/rows_per_second"] = (self._rows - self._last_step[1]) / (now - self._last_step[0])
        self._metrics(point, now, int(now - self._started))
        self._last_step = (now, self._rows)

    def _metrics(self, metrics: Mapping[str, float], time: float, step: int = 0) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(
            self.run_id, metrics=[Metric(k, float(v), int(time * 1000), step) for k, v in metrics.items()]
        )

    def _finish(self, time: float, event: Finished) -> None:
        self._metrics(event.metrics, time)
        self._datasets(event.outputs)
        for key, value in event.tags.items():
            self._client.set_tag(self.run_id, key, value)
        with tempfile.TemporaryDirectory() as folder:
            for name, text in event.artifacts.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            self._client.log_artifacts(self.run_id, folder)
        self._client.set_terminated(self.run_id, _STATUS.get(event.status, "FAILED"), end_time=int(time * 1000))
