"""Runs that were recorded, read back from journals: of this machine, or brought here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from optinfer.records.history import JOURNAL, PastRun
from optinfer.system import home
from optinfer.tracking import metrics as names
from optinfer.tracking.journal import JOURNAL as NAME
from optinfer.tracking.journal import RECEIPT

Event = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Whose runs are wanted: those of a job's name, or of an output's fingerprint."""

    job: str = ""
    fingerprint: str = ""

    def wants(self, start: Event) -> bool:
        """Tell whether a run's first event is of the job."""
        if self.fingerprint:
            return bool(start["tags"].get("optinfer.fingerprint") == self.fingerprint)
        return bool(start["params"].get("job") == self.job)


def kept_here() -> list[Path]:
    """Return the journals of this machine."""
    return list(home.runs().glob(f"*/{NAME}"))


def from_journals(
    journals: Iterable[Path], asked: Asked, last: int, alive: Callable[[float], bool]
) -> tuple[list[PastRun], list[str]]:
    """Return the newest runs, newest first, and what could not be read.

    Args:
        journals: newest first; no more of them are asked for than it takes.
        alive: tells whether a run that began then, and has no end, is still going on.
    """
    notes: list[str] = []
    runs = islice(_wanted(journals, asked, alive, notes), last)
    return sorted(runs, key=lambda run: -run.started), notes


def _wanted(
    journals: Iterable[Path], asked: Asked, alive: Callable[[float], bool], notes: list[str]
) -> Iterator[PastRun]:
    for path in journals:
        try:
            start = _start(path)
            if start is not None and asked.wants(start):
                yield _run(path, start, alive)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            notes.append(f"{path} cannot be read ({type(error).__name__}) and is left out")


def _start(path: Path) -> Event | None:
    """Return the first event where it is that of a run; a comparison's journal has none."""
    with open(path, encoding="utf-8") as file:
        line = file.readline()
    if not line.endswith("\n"):
        return None
    event: Event = json.loads(line)
    return event if event["event"] == "start" else None


def _run(path: Path, start: Event, alive: Callable[[float], bool]) -> PastRun:
    variant, finish, ended = str(start["params"].get("variant", "")), None, float(start["time"])
    for event in _events(path, receipts=False):
        ended = max(ended, float(event["time"]))
        if event["event"] == "selection":
            variant = str(event["chosen"])
        elif event["event"] == "params":
            variant = str(event["params"].get("variant", variant))
        elif event["event"] == "finish":
            finish = event
            break
    metrics: Mapping[str, float] = finish["metrics"] if finish else {}
    rows, quarantined, last = _counted(path, metrics)
    seconds = names.SECONDS.read(metrics) or max(ended, last) - start["time"]
    return PastRun(
        run_id=path.parent.name,
        started=float(start["time"]),
        status=str(finish["status"]) if finish else "running" if alive(float(start["time"])) else "cut off",
        variant=variant,
        rows=rows,
        quarantined=quarantined,
        seconds=round(seconds, 3),
        rows_per_second=names.SPEED.read(metrics) or (round(rows / seconds, 2) if seconds > 0 else 0.0),
        forecast_seconds=names.FORECAST_SECONDS.read(metrics),
        forecast_error_percent=names.FORECAST_ERROR.read(metrics),
        cost=names.FORECAST_COST.read(metrics),
        error=str(finish["tags"].get("optinfer.error", "")).partition("\n")[0] if finish else "",
        known_from=JOURNAL,
    )


def _counted(path: Path, metrics: Mapping[str, float]) -> tuple[int, int, float]:
    """Return rows and quarantined rows of a run, and when its last fragment was committed."""
    rows_in, bad = names.ROWS.read(metrics), names.QUARANTINED.read(metrics)
    if rows_in is not None and bad is not None and not names.RESUMED.read(metrics):
        return int(rows_in), int(bad), 0.0
    rows = quarantined = 0
    last = 0.0
    for event in _events(path, receipts=True):
        rows += event["stats"]["rows_in"]
        quarantined += event["stats"]["rows_quarantined"]
        last = event["time"]
    return rows, quarantined, last


def _events(path: Path, receipts: bool) -> Iterator[Event]:
    """Yield the receipts, or all other events; lines of the other kind are not parsed."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n") and line.startswith(RECEIPT) == receipts:
                yield json.loads(line)
