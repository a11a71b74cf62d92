"""Feeds one MLflow run while its job runs, on a thread of its own: an outage neither slows nor fails the job.

What MLflow does not take is tried again until the job ends, so one that comes back in the night gets all of it. At the
end MLflow is waited for as long as it answers, and through a short silence. What it lacks then is still in the journal:
`optinfer sync` brings it there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from optinfer.errors import redact
from optinfer.records.run import MlflowRun
from optinfer.secrets import clean
from optinfer.tracking.events import Committed, Event, Finished, Resumed, Started
from optinfer.tracking.mlflow_run import FedRun
from optinfer.tracking.mlflow_store import Silence, Store, is_refusal, reason
from optinfer.tracking.points import Point, Points

_AGAIN_SECONDS = 20.0


class MlflowTracker:
    """One run of one job attempt, with a run below it for each that it compares.

    Args:
        again_seconds: from what MLflow did not take to the next try.
    """

    def __init__(self, uri: str, experiment: str, again_seconds: float = _AGAIN_SECONDS) -> None:
        self.uri, self.experiment = uri, experiment
        self.run_id: str | None = None
        self.error: str | None = None
        self._refused: str | None = None
        self._again_seconds = again_seconds
        self._made: Callable[[str], None] = lambda run_id: None
        self._points: Points | None = None
        self._events: queue.Queue[tuple[float, Event | Point] | None] = queue.Queue()
        self._silence, self._closing, self._given_up = Silence(), threading.Event(), threading.Event()
        self._run: FedRun | None = None
        self._thread = threading.Thread(target=self._work, name="optinfer-mlflow", daemon=True)
        self._thread.start()

    def when_made(self, call: Callable[[str], None]) -> None:
        """Let `call` hear of MLflow's id of the run, once, on this tracker's thread; before anything is logged."""
        self._made = call

    def log(self, time: float, event: Event) -> None:
        """Queue a journal event of that time; returns at once."""
        if isinstance(event, Started):
            self._points = Points(time, event)
        if isinstance(event, Resumed) and self._points:
            self._points.resume(event)
        elif isinstance(event, Committed):
            # Not the receipts: in a long outage a large job's would fill the memory.
            if self._points and (point := self._points.add(time, event.receipt.stats.rows_in)):
                self._events.put((time, point))
        else:
            if isinstance(event, Finished) and self._points and (point := self._points.end(time, event)):
                self._events.put((time, point))
            self._events.put((time, clean(event)))

    def close(self) -> MlflowRun:
        """Wait for what is queued, while MLflow answers; return `where()`."""
        self._events.put(None)
        self._closing.set()
        why = self._silence.outwait(self._thread)
        self._given_up.set()
        self.error = self.error or why or None
        return self.where()

    def where(self) -> MlflowRun:
        """Return uri, experiment and run id as known now, with a warning if MLflow did not take everything."""
        uri = redact(self.uri)
        warning = f"MLflow at {uri} did not take everything ({self.error}); the journal did" if self.error else ""
        return MlflowRun(uri=uri, experiment=self.experiment, run_id=self.run_id, warning=warning)

    def _work(self) -> None:
        while (entry := self._events.get()) is not None:
            while not self._taken(*entry):
                if self._given_up.is_set():
                    return

    def _taken(self, time: float, event: Event | Point) -> bool:
        """Bring one event to MLflow; where that fails, wait, and return False. The end of the job ends the wait."""
        last = self._closing.is_set()
        try:
            self._fed().feed(time, event)
        except Exception as error:
            self.error = reason(self.uri, error)
            if is_refusal(error) and not isinstance(event, Started):
                self._refused = self.error  # what comes after is worth more than asking on
                return True
            if last:
                self._given_up.set()
            self._closing.wait(self._again_seconds)
            return False
        finally:
            self._hear()
        self.error = self._refused
        return not self._given_up.is_set()

    def _fed(self) -> FedRun:
        if self._run is None:
            self._run = FedRun(Store(self.uri, self.experiment, self._silence))
        return self._run

    def _hear(self) -> None:
        if self._run and self._run.run_id and not self.run_id:
            self.run_id = self._run.run_id
            self._made(self.run_id)
