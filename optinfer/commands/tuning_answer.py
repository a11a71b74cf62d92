"""What `tune` answers and records: the trials, those that met again, and what won."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optinfer.commands.resolved import Resolved
from optinfer.records.text import tune_table
from optinfer.records.tuning import Tuned
from optinfer.tracking.plot import draw_tuning, drawn
from optinfer.tuning.node_trials import NodeTrials
from optinfer.tuning.search import Rounds, Search

__all__ = ["answer", "params", "plotted", "summary", "tune_table"]

Say = Callable[[str], None]


def answer(
    job: Resolved,
    run_id: str,
    trials: NodeTrials,
    search: Search,
    rounds: Rounds,
    chosen: Tuned,
) -> dict[str, Any]:
    default = trials.default(next(iter(trials.proved)))
    return {
        "status": "done",
        "run_id": run_id,
        "job": job.config.name,
        "model": trials.model,
        "objective": job.config.tuning.objective,
        "budget": "max_batch_tokens" if trials.by_tokens else "max_batch_size",
        "sample": trials.sample.as_dict(),
        "memory_mb": trials.memory_mb,
        "space": {**asdict(trials.space), "points": len(trials.space.points)},
        "trials": [asdict(outcome) for outcome in search.outcomes],
        "default": asdict(default),
        "finalists": [{**asdict(point), "rows_per_second": list(rates)} for point, rates in rounds.items()],
        "winner": asdict(chosen),
    }


def params(job: Resolved) -> dict[str, Any]:
    tuning = job.config.tuning
    return {
        **job.params,
        **{f"tuning.{name}": value for name, value in tuning.model_dump().items()},
    }


def summary(record: dict[str, Any]) -> dict[str, Any]:
    winner = record["winner"]
    metrics = {
        "trials": float(len(record["trials"])),
        "rows_per_second": winner["rows_per_second"],
        "sample.largest_deviation": record["sample"]["largest_deviation"],
    }
    if winner["default_rows_per_second"]:
        metrics["default.rows_per_second"] = winner["default_rows_per_second"]
        metrics["gain"] = winner["rows_per_second"] / winner["default_rows_per_second"]
    return {"tags": {"optinfer.winner": winner["variant"]}, "metrics": metrics}


def plotted(record: dict[str, Any], folder: Path, say: Say) -> list[Path]:
    """Draw the comparison into `folder`; nothing where that cannot be done, and say why."""
    return drawn(draw_tuning, record, folder / "tuning.png", say)
