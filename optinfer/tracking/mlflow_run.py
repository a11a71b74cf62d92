"""One MLflow run, fed from events: while a job runs (mlflow_tracker.py), or from its journal afterwards (replay.py).

Whatever is fed may be fed again, whether or not MLflow took it the first time: nothing is there twice. So whoever feeds
needs to remember nothing but what was confirmed.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optinfer.tracking.events import Attached, Below, Dataset, Event, Finished, Params, ParamsKnown, Selected, Started
from optinfer.tracking.mlflow_store import RUN_ID, Store

# The time of the last event that a run has; set when it has all before it, too.
RECORDED = "optinfer.recorded_until"
_PARENT = "mlflow.parentRunId"
_STATUS = {"done": "FINISHED", "interrupted": "KILLED"}
# A point costs some 5 ms of the driver, which shares the machine with replicas.
_POINT_EVERY_SECONDS = 5.0
# MLflow's own limit for one batch of parameters, and of tags.
_A_CALL = 100


@dataclass(frozen=True)
class Point:
    """Rows, and rows per second since the point before, some seconds into a run."""

    seconds: int
    rows: int
    rows_per_second: float | None


class Points:
    """Makes points of receipts, at most one every few seconds: of the same receipts always the same.

    Args:
        started: when the run began; all times are in seconds since the epoch.
    """

    def __init__(self, started: float) -> None:
        self._started, self._rows = started, 0
        self._last: tuple[float, int] | None = None

    def add(self, now: float, rows: int) -> Point | None:
        self._rows += rows
        if self._last and now - self._last[0] < _POINT_EVERY_SECONDS:
            return None
        rate = (self._rows - self._last[1]) / (now - self._last[0]) if self._last else None
        self._last = (now, self._rows)
        return Point(int(now - self._started), self._rows, rate)


class FedRun:
    """Translates events into MLflow calls; raises what MLflow raises.

    Args:
        run_id: MLflow's, where the run is there.
        again: an earlier attempt may have made the run.
    """

    def __init__(self, store: Store, run_id: str | None = None, again: bool = False) -> None:
        self._store, self._again = store, again
        self.run_id = run_id
        self._our_id = ""

    def feed(self, time: float, event: Event | Point) -> None:
        """Bring an event of that time to MLflow; all of it is there when this returns."""
        if isinstance(event, Started):
            self._start(time, event)
        elif isinstance(event, Point):
            self._progress(time, event)
        elif isinstance(event, ParamsKnown):
            self._params(event.params)
        elif isinstance(event, Selected):
            self._tags({f"optinfer.not_chosen.{name}": reason for name, reason in event.others.items()})
        elif isinstance(event, Below):
            self._child(time, event)
        elif isinstance(event, Attached):
            self._files({event.name: base64.b64decode(event.content)})
        elif isinstance(event, Finished):
            self._finish(time, event)

    def _start(self, time: float, event: Started) -> None:
        self._our_id = event.tags.get(RUN_ID, "")
        if self.run_id is None:
            self.run_id = self._found() or self._made(time, event)
        self._params(event.params)
        self._datasets(event.inputs)

    def _found(self) -> str | None:
        """Return the run that an earlier attempt made, though nobody heard of it: MLflow may answer too late."""
        again, self._again = self._again, True
        found = self._store.run_of(self._our_id) if again and self._our_id else None
        return str(found.info.run_id) if found else None

    def _made(self, time: float, event: Started) -> str:
        store, start = self._store, int(time * 1000)
        made = store.ask(store.client.create_run, store.experiment_id, start, dict(event.tags), event.run_name)
        one = store.run_of(self._our_id) if self._our_id else None
        return str((one or made).info.run_id)

    def _params(self, params: Params) -> None:
        from mlflow.entities import Param

        entries = [Param(key, _text(value)[:6000]) for key, value in params.items()]
        for start in range(0, len(entries), _A_CALL):
            self._batch(params=entries[start : start + _A_CALL])

    def _tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entries = [RunTag(key, value[:5000]) for key, value in tags.items()]
        for start in range(0, len(entries), _A_CALL):
            self._batch(tags=entries[start : start + _A_CALL])

    def _metrics(self, metrics: Mapping[str, float], time: float, step: int = 0) -> None:
        from mlflow.entities import Metric

        self._batch(metrics=[Metric(key, float(value), int(time * 1000), step) for key, value in metrics.items()])

    def _batch(self, **entries: Sequence[object]) -> None:
        self._store.ask(self._store.client.log_batch, self.run_id, **entries)

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
        self._store.ask(self._store.client.log_inputs, self.run_id, given)

    def _progress(self, time: float, point: Point) -> None:
        values = {"progress/rows": float(point.rows)}
        if point.rows_per_second is not None:
            values["progress/rows_per_second"] = point.rows_per_second
        self._metrics(values, time, point.seconds)

    def _child(self, time: float, event: Below) -> None:
        below = FedRun(self._store, again=True)
        tags = {_PARENT: str(self.run_id), RUN_ID: f"{self._our_id}/{event.name}"}
        below.feed(time, Started(run_name=event.name, params=event.params, tags=tags))
        below.feed(time, Finished(metrics=event.metrics, artifacts=event.artifacts))

    def _files(self, files: Mapping[str, bytes]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            self._store.ask(self._store.client.log_artifacts, self.run_id, folder)

    def _finish(self, time: float, event: Finished) -> None:
        """End the run: what is most missed where MLflow goes away now, first."""
        self._metrics(event.metrics, time)
        self._tags(event.tags)
        status = _STATUS.get(event.status, "FAILED")
        self._store.ask(self._store.client.set_terminated, self.run_id, status, end_time=int(time * 1000))
        self._datasets(event.outputs)
        self._files({name: text.encode() for name, text in event.artifacts.items()})
        self._tags({RECORDED: repr(time)})


def _text(value: object) -> str:
    """Return a parameter as a journal gives it back: MLflow refuses one that is fed again and differs."""
    return str(json.loads(json.dumps(value, default=str)))
