"""One MLflow run, fed from events: while a job runs (mlflow_tracker.py), or from its journal afterwards (replay.py).

Whatever is fed may be fed again, whether or not MLflow took it the first time: nothing is there twice. So whoever feeds
needs to remember nothing but what was confirmed.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optinfer.tracking import metrics, origin
from optinfer.tracking.events import Attached, Below, Dataset, Event, Finished, Params, ParamsKnown, Selected, Started
from optinfer.tracking.mlflow_dataset import as_input
from optinfer.tracking.mlflow_store import RUN_ID, Store, is_unknown
from optinfer.tracking.points import Point

if TYPE_CHECKING:
    from mlflow.entities import Run

# The time of the last event that a run has; set when it has all before it, too.
RECORDED = "optinfer.recorded_until"
# MLflow's own tags: above a run, its description, its name, and the tables that its page shows.
_PARENT, _NOTE, _NAME, _TABLES = (
    "mlflow.parentRunId", "mlflow.note.content", "mlflow.runName", "mlflow.loggedArtifacts"
)  # fmt: skip
# Why variants were not chosen, as `mlflow.load_table` reads it.
NOT_CHOSEN = "not_chosen.json"
_STATUS = {"done": "FINISHED", "interrupted": "KILLED"}
# MLflow's own limit for one batch of parameters, and of tags.
_A_CALL = 100


class FedRun:
    """Translates events into MLflow calls; raises what MLflow raises.

    Args:
        run_id: MLflow's, where the run is there.
        again: an earlier attempt may have made the run.
    """

    def __init__(self, store: Store, run_id: str | None = None, again: bool = False) -> None:
        self._store, self._again = store, again
        self.run_id = run_id
        self._begun = Started(run_name="", params={}, tags={})
        self._selected: Selected | None = None

    def feed(self, time: float, event: Event | Point) -> None:
        """Bring an event of that time to MLflow; all of it is there when this returns."""
        if isinstance(event, Started):
            self._start(time, event)
        elif isinstance(event, Point):
            self._progress(time, event)
        elif isinstance(event, ParamsKnown):
            self._params(event.params)
        elif isinstance(event, Selected):
            self._selected = event  # its table is a file, and no file is sent before the run's end is known
        elif isinstance(event, Below):
            self._child(time, event)
        elif isinstance(event, Attached):
            self._files({event.name: base64.b64decode(event.content)})
        elif isinstance(event, Finished):
            self._finish(time, event)

    @property
    def _our_id(self) -> str:
        return self._begun.tags.get(RUN_ID, "")

    def _start(self, time: float, event: Started) -> None:
        self._begun = event
        if self.run_id is None:
            self.run_id = self._found() or self._made(time)
        self._params(event.params)
        self._datasets(event.inputs)
        if event.model_id:
            self._model(event.model_id)

    def _found(self) -> str | None:
        """Return the run that an earlier attempt made, though nobody heard of it: MLflow may answer too late."""
        again, self._again = self._again, True
        found = self._store.run_of(self._our_id) if again and self._our_id else None
        return str(found.info.run_id) if found else None

    def _made(self, time: float) -> str:
        store, begun = self._store, self._begun
        tags = {**begun.tags, **({_NOTE: begun.note} if begun.note else {})}
        made = store.ask(store.client.create_run, store.experiment_id, int(time * 1000), tags, begun.run_name)
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
        if datasets:
            self._store.ask(self._store.client.log_inputs, self.run_id, [as_input(one) for one in datasets])

    def _model(self, model_id: str) -> None:
        """Link the model that MLflow logged; one that is gone, or a server from before there were such, links none."""
        from mlflow.entities import LoggedModelInput
        from mlflow.exceptions import MlflowException

        try:
            self._store.ask(self._store.client.log_inputs, self.run_id, None, [LoggedModelInput(model_id)])
        except MlflowException as error:
            if not is_unknown(error):
                raise

    def _progress(self, time: float, point: Point) -> None:
        values: metrics.Measured = {
            metrics.PROGRESS_PERCENT: point.percent,
            metrics.PROGRESS_ROWS: point.rows,
            metrics.PROGRESS_SPEED: point.rows_per_second,
        }
        self._metrics(metrics.named(values), time, point.seconds)

    def _child(self, time: float, event: Below) -> None:
        below = FedRun(self._store, again=True)
        tags = {**origin.of(self._begun.tags), _PARENT: str(self.run_id), RUN_ID: f"{self._our_id}/{event.name}"}
        name = run_name(self._begun.params, event.name)
        below.feed(time, Started(run_name=name, params=event.params, tags=tags, note=event.note))
        below.feed(time, Finished(metrics=event.metrics, artifacts=event.artifacts, note=event.note))

    def _files(self, files: Mapping[str, bytes]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            self._store.ask(self._store.client.log_artifacts, self.run_id, folder)

    def _finish(self, time: float, event: Finished) -> None:
        """End the run: what is most missed where MLflow goes away now, first."""
        self._metrics(event.metrics, time)
        self._tags({**event.tags, **self._said(event)})
        status = _STATUS.get(event.status, "FAILED")
        self._store.ask(self._store.client.set_terminated, self.run_id, status, end_time=int(time * 1000))
        self._datasets(event.outputs)
        artifacts = {name: text.encode() for name, text in event.artifacts.items()}
        if self._selected and self._selected.others:
            self._files({**artifacts, NOT_CHOSEN: _table(self._selected)})
            self._tags({_TABLES: json.dumps([{"path": NOT_CHOSEN, "type": "table"}])})
        else:
            self._files(artifacts)
        self._tags({RECORDED: repr(time)})

    def _said(self, event: Finished) -> dict[str, str]:
        """Return description and name as they are at the end; what somebody wrote meanwhile stays."""
        error = event.tags.get("optinfer.error", "")
        note = event.note or (f"**{event.status}**: {error}" if error else "")
        name = run_name(self._begun.params, self._selected.chosen) if self._selected else ""
        if note == self._begun.note and name in ("", self._begun.run_name):
            return {}
        run: Run = self._store.ask(self._store.client.get_run, self.run_id)
        said = {}
        if note and run.data.tags.get(_NOTE, "") in ("", self._begun.note):
            said[_NOTE] = note
        if name and run.info.run_name == self._begun.run_name:
            said[_NAME] = name
        return said


def run_name(params: Params, what: str) -> str:
    """Return the name of a run of a job, by its parameters: of a variant, or of a command."""
    job = params.get("job")
    return f"{job} · {what}" if job else what


def _table(selected: Selected) -> bytes:
    """Return why the others were not chosen, as MLflow keeps tables."""
    rows = [[name, selected.why.get(name, ""), reason] for name, reason in selected.others.items()]
    return json.dumps({"columns": ["variant", "why", "reason"], "data": rows}).encode()


def _text(value: object) -> str:
    """Return a parameter as a journal gives it back: MLflow refuses one that is fed again and differs."""
    return str(json.loads(json.dumps(value, default=str)))
