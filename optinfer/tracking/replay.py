"""A journal brought to MLflow afterwards: into the run that it names, or else into one that has its id as a tag.

Feeding is idempotent (mlflow_run.py), and a run that has all says so in a tag: a second time changes nothing, from
whichever machine, and what a first time left half done is completed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from optinfer.errors import OptinferError
from optinfer.tracking.events import Event, Finished, Resumed, Started, Tracked, read_back
from optinfer.tracking.journal import RECEIPT, held
from optinfer.tracking.mlflow_run import RECORDED, FedRun
from optinfer.tracking.mlflow_store import RUN_ID, Silence, Store, reason
from optinfer.tracking.points import Point, Points

_CUT_OFF = "cut off: the journal has no end, so its process was killed, or its machine died"
# The tag that keeps the id which MLflow gave the run when it ran, where that is gone or elsewhere.
_WAS = "optinfer.mlflow_run_id"


@dataclass(frozen=True)
class Story:
    """What a journal says of its run, but for the receipts.

    Attributes:
        tracked: where MLflow is to have it; None in journals of before that was noted.
        ended: the time of its end, or of its last event where it was cut off; seconds since the epoch.
    """

    path: Path
    start: Started
    started: float
    tracked: Tracked | None
    ended: float
    cut_off: bool

    @property
    def run_id(self) -> str:
        return str(self.start.tags.get(RUN_ID, ""))


def story(path: Path) -> Story:
    """Read what a journal is of.

    Raises:
        ValueError: it is none of a run.
    """
    start: tuple[float, Started] | None = None
    tracked: Tracked | None = None
    last, finished = 0.0, False
    for time, event in _told(path):
        last = last if finished else max(last, time)  # what is noted after the end is of those who were told of it
        if isinstance(event, Started):
            start = (time, event)
        elif isinstance(event, Tracked):
            tracked = event
        finished = finished or isinstance(event, Finished)
    if start is None:
        raise ValueError("it has no event of a run's start")
    return Story(path, start[1], start[0], tracked, last, not finished)


def replay_while_it_answers(told: Story, uri: str, experiment: str) -> str:
    """Bring a journal to MLflow in the time that the end of a job has; return why it is not all there, "" if it is."""
    silence, whys = Silence(), [""]

    def work() -> None:
        try:
            with held(told.path.parent).acquire(timeout=0):
                replay(told, uri, experiment, silence)
        except Exception as error:  # as it is whatever MLflow raises, and all of it is said
            whys.append(reason(uri, error))

    thread = threading.Thread(target=work, name="optinfer-mlflow", daemon=True)
    thread.start()
    return silence.outwait(thread) or whys[-1]


def replay(told: Story, uri: str, experiment: str, silence: Silence | None = None) -> tuple[str, bool]:
    """Bring a journal to MLflow; return MLflow's id of the run, and whether anything was missing there.

    Raises:
        OptinferError: the run was deleted there.
        Exception: whatever MLflow raises.
    """
    store = Store(uri, experiment, silence or Silence())
    named = told.tracked.mlflow_run_id if told.tracked else None
    found = store.run_of(told.run_id, keep=named) or (store.run(named) if named else None)
    if found is not None and found.info.lifecycle_stage == "deleted":
        raise OptinferError(f"its run {named} was deleted there; restore it if it is wanted")
    if found is not None and found.data.tags.get(RECORDED) == repr(told.ended):
        return str(found.info.run_id), False
    run = FedRun(store, found.info.run_id if found else None)
    for time, event in _to_feed(told, {} if found or not named else {_WAS: named}):
        run.feed(time, event)
    return str(run.run_id), True


def _to_feed(told: Story, tags: dict[str, str]) -> Iterator[tuple[float, Event | Point]]:
    """Yield what the run itself fed, in its order; a run that was cut off is given an end."""
    points = Points(told.started, told.start)
    for time, event in _told(told.path, points):
        if isinstance(event, Started):
            event = replace(event, tags={**event.tags, **tags})
        if isinstance(event, Resumed):
            points.resume(event)
        elif isinstance(event, Finished):
            yield from _ended(points, time, event)
            return
        elif event is not None:
            yield time, event
    yield from _ended(points, told.ended, Finished(status="failed", tags={"optinfer.error": _CUT_OFF}))


def _ended(points: Points, time: float, event: Finished) -> Iterator[tuple[float, Event | Point]]:
    if last := points.end(time, event):
        yield time, last
    yield time, event


def _told(path: Path, points: Points | None = None) -> Iterator[tuple[float, Event | Point | None]]:
    """Yield events with their times; of the receipts the points that they make, else the time of the last one."""
    receipt = ""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):  # cut short by a crash
                continue
            if not line.startswith(RECEIPT):
                raw = json.loads(line)
                yield float(raw["time"]), read_back(raw)
            elif points is None:
                receipt = line
            else:
                raw = json.loads(line)
                yield float(raw["time"]), points.add(float(raw["time"]), int(raw["stats"]["rows_in"]))
    if receipt:
        yield float(json.loads(receipt)["time"]), None
