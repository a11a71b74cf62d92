"""Runs that were recorded, read back from MLflow: those of other machines, and of journals that are gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optinfer.config import TrackingConfig
from optinfer.errors import redact, without_secrets
from optinfer.records.history import MLFLOW, PastRun
from optinfer.system import home
from optinfer.tracking import metrics as names
from optinfer.tracking.mlflow_store import RUN_ID, bound, database
from optinfer.tracking.past import Asked

_STATUS = {"FINISHED": "done", "KILLED": "interrupted", "FAILED": "failed"}


def from_mlflow(
    tracking: TrackingConfig, asked: Asked, last: int, alive: Callable[[float], bool]
) -> tuple[list[PastRun], list[str]]:
    """Return the newest runs, newest first, and what could not be asked.

    Args:
        alive: tells whether a run that began then, and has no end, is still going on.
    """
    uri = tracking.uri or home.default_tracking_uri()
    if (file := database(uri)) and not file.exists():
        return [], []  # asking would make one
    try:
        return [_run(found, alive) for found in _found(uri, tracking.experiment, asked, last)], []
    except Exception as error:
        said = f"{type(error).__name__}: {without_secrets(uri, str(error))}"
        return [], [f"MLflow at {redact(uri)} was not read ({said}): runs of other machines may be missing"]


def _found(uri: str, experiment: str, asked: Asked, last: int) -> list[Any]:
    from mlflow import MlflowClient

    from optinfer.system.quiet import hush

    hush()
    bound()
    client = MlflowClient(tracking_uri=uri)
    if (kept := client.get_experiment_by_name(experiment)) is None:
        return []
    wanted = f"params.job = '{asked.job}'" if asked.job else f"tags.`optinfer.fingerprint` = '{asked.fingerprint}'"
    # Comparisons are of the same job, and have no fingerprint.
    only_runs = "tags.`optinfer.fingerprint` LIKE '%'"
    order = ["attributes.start_time DESC"]
    return list(client.search_runs([kept.experiment_id], f"{wanted} AND {only_runs}", 1, last, order))


def _run(found: Any, alive: Callable[[float], bool]) -> PastRun:
    info, metrics, tags = found.info, found.data.metrics, found.data.tags
    started = info.start_time / 1000
    seconds = names.SECONDS.read(metrics) or ((info.end_time or info.start_time) / 1000 - started)
    speed = names.SPEED.read(metrics) or 0.0
    counted = names.ROWS.read(metrics) if names.RESUMED.read(metrics) == 0 else None
    rows = counted if counted is not None else speed * seconds or names.PROGRESS_ROWS.read(metrics) or 0.0
    return PastRun(
        run_id=tags.get(RUN_ID, info.run_id),
        started=started,
        status=_STATUS.get(info.status) or ("running" if alive(started) else "cut off"),
        variant=found.data.params.get("variant", ""),
        rows=round(rows),
        quarantined=int(names.QUARANTINED.read(metrics) or 0),
        seconds=round(seconds, 3),
        rows_per_second=speed or (round(rows / seconds, 2) if seconds > 0 else 0.0),
        forecast_seconds=names.FORECAST_SECONDS.read(metrics),
        forecast_error_percent=names.FORECAST_ERROR.read(metrics),
        cost=names.FORECAST_COST.read(metrics),
        error=tags.get("optinfer.error", "").partition("\n")[0],
        known_from=MLFLOW,
    )
