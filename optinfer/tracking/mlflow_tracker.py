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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optinfer.errors import redact, without_secrets
from optinfer.system.quiet import hush

_GIVE_UP_SECONDS = 30.0
_LOCKED_SECONDS = 5.0
_STATUS = {"done": "FINISHED", "interrupted": "KILLED"}
# A point costs some 5 ms of the driver, which shares the machine with replicas.
_POINT_EVERY_SECONDS = 5.0
# MLflow's own limit for one batch of parameters.
_PARAMS_A_CALL = 100


class MlflowTracker:
    """One run of one job attempt."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.experiment = experiment
        self.run_id: str | None = None
        self.error: str | None = None
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._feed, name="optinfer-mlflow", daemon=True)
        self._thread.start()

    def log(self, event: dict[str, Any]) -> None:
        """Queue a journal event; returns at once."""
        self._events.put(event)

    def close(self) -> dict[str, Any]:
        """Wait for what is queued, a bounded time; return `where()`."""
        self._events.put(None)
        self._thread.join(_GIVE_UP_SECONDS)
        if self._thread.is_alive() and self.error is None:
            self.error = f"no answer within {_GIVE_UP_SECONDS:g} s"
        return self.where()

    def where(self) -> dict[str, Any]:
        """Return uri, experiment and run id as known now, with a `warning` if MLflow did not take everything."""
        return _where(self.uri, self.experiment, self.run_id, self.error)

    def _feed(self) -> None:
        try:
            bound_retries()
            sender = _Sender(self.uri, self.experiment)
            while (event := self._events.get()) is not None:
                sender.send(event)
                self.run_id = sender.run_id
        except Exception as error:
            self.error = f"{type(error).__name__}: {without_secrets(self.uri, str(error))}"


class NestedRuns:
    """One MLflow run with a child for each variant that is compared; an outage ends the recording, not the work."""

    def __init__(self, uri: str, experiment: str, clock: Callable[[], float]) -> None:
        self.uri = uri
        self.experiment = experiment
        self.error: str | None = None
        self._clock = clock
        self._parent: _Sender | None = None

    def __enter__(self) -> NestedRuns:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the parent run of a comparison that was cut off."""
        if kind is not None and self._parent is not None:
            status = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
            parent, event = self._parent, self._event("finish", status=status, metrics={}, outputs=[], artifacts={})
            self._try(lambda: parent.send(event))

    def start(self, run_name: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Begin the parent run."""

        def begin() -> None:
            bound_retries()
            self._parent = _Sender(self.uri, self.experiment)
            self._parent.send(self._event("start", run_name=run_name, params=params, tags=tags, inputs=[]))

        self._try(begin)

    def add(self, name: str, params: dict[str, Any], metrics: dict[str, float], artifacts: dict[str, str]) -> None:
        """Record one variant as a finished child run."""

        def record() -> None:
            if self._parent is None:
                return
            child = _Sender(self.uri, self.experiment)
            tags = {"mlflow.parentRunId": str(self._parent.run_id)}
            child.send(self._event("start", run_name=name, params=params, tags=tags, inputs=[]))
            child.send(self._event("finish", status="done", metrics=metrics, outputs=[], artifacts=artifacts))

        self._try(record)

    def finish(self, summary: dict[str, Any], artifacts: dict[str, str], files: list[Path]) -> dict[str, Any]:
        """End the parent run with `metrics`, `tags` and files; return where it is; `warning` if not all."""

        def end() -> None:
            if self._parent is None:
                return
            for file in files:
                self._parent.attach(file)
            self._parent.send(self._event("finish", status="done", outputs=[], artifacts=artifacts, **summary))

        self._try(end)
        return _where(self.uri, self.experiment, self._parent.run_id if self._parent else None, self.error)

    def _event(self, kind: str, **values: Any) -> dict[str, Any]:
        return {"event": kind, "time": self._clock(), **values}

    def _try(self, send: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            send()
        except Exception as error:
            self.error = f"{type(error).__name__}: {without_secrets(self.uri, str(error))}"


def _where(uri: str, experiment: str, run_id: str | None, error: str | None) -> dict[str, Any]:
    """Say where MLflow has a run, with a `warning` where it has not all of it."""
    where = {"uri": redact(uri), "experiment": experiment, "run_id": run_id}
    if error:
        where["warning"] = f"MLflow at {redact(uri)} did not take everything ({error}); the journal did"
    return where


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

    def send(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "start":
            self._start(event)
        elif kind == "receipt":
            self._progress(event)
        elif kind == "params":
            self._params(event["params"])
        elif kind == "selection":
            for name, reason in event["others"].items():
                self._client.set_tag(self.run_id, f"optinfer.not_chosen.{name}", reason[:5000])
        elif kind == "finish":
            self._finish(event)

    def attach(self, file: Path) -> None:
        self._client.log_artifact(self.run_id, str(file))

    def _start(self, event: dict[str, Any]) -> None:
        experiment_id = open_experiment(self._client.tracking_uri, self._experiment)
        run = self._client.create_run(
            experiment_id, start_time=int(event["time"] * 1000), tags=event["tags"], run_name=event["run_name"]
        )
        self.run_id = run.info.run_id
        self._started = event["time"]
        self._params(event["params"])
        self._datasets(event["inputs"])

    def _params(self, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, str(value)[:6000]) for key, value in params.items()]
        for start in range(0, len(entries), _PARAMS_A_CALL):
            self._client.log_batch(self.run_id, params=entries[start : start + _PARAMS_A_CALL])

    def _datasets(self, datasets: list[dict[str, str]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not datasets:
            return
        given = [
            DatasetInput(
                Dataset(name=d["name"], digest=d["digest"][:36], source_type="parquet", source=d["source"]),
                [InputTag("mlflow.data.context", d["context"])],
            )
            for d in datasets
        ]
        self._client.log_inputs(self.run_id, given)

    def _progress(self, event: dict[str, Any]) -> None:
        """Log rows and rows per second over time, at most one point every few seconds."""
        self._rows += event["stats"]["rows_in"]
        now = event["time"]
        if self._last_step and now - self._last_step[0] < _POINT_EVERY_SECONDS:
            return
        point = {"progress/rows": float(self._rows)}
        if self._last_step:
            point["progress/rows_per_second"] = (self._rows - self._last_step[1]) / (now - self._last_step[0])
        self._metrics(point, now, int(now - self._started))
        self._last_step = (now, self._rows)

    def _metrics(self, metrics: dict[str, float], time: float, step: int = 0) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(
            self.run_id, metrics=[Metric(k, float(v), int(time * 1000), step) for k, v in metrics.items()]
        )

    def _finish(self, event: dict[str, Any]) -> None:
        self._metrics(event["metrics"], event["time"])
        self._datasets(event["outputs"])
        for key, value in event.get("tags", {}).items():
            self._client.set_tag(self.run_id, key, value)
        with tempfile.TemporaryDirectory() as folder:
            for name, text in event["artifacts"].items():
                Path(folder, name).write_text(text, encoding="utf-8")
            self._client.log_artifacts(self.run_id, folder)
        self._client.set_terminated(
            self.run_id, _STATUS.get(event["status"], "FAILED"), end_time=int(event["time"] * 1000)
        )
