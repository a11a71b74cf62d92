"""What `tune` answers and records: the trials, those that met again, and what won."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optinfer.commands.resolved import Resolved
from optinfer.commands.tracked import command_begun
from optinfer.records.notes import tune_note
from optinfer.records.text import tune_table
from optinfer.records.tuning import Finalist, Tuned, TuneRecord
from optinfer.tracking.events import Finished, Started
from optinfer.tracking.measured import of_tuning
from optinfer.tracking.plot import draw_tuning, drawn
from optinfer.tuning.node_trials import NodeTrials
from optinfer.tuning.search import Rounds, Search

Say = Callable[[str], None]


@dataclass(frozen=True)
class Searched:
    """A search that ended.

    Attributes:
        rounds: of those that met again.
        earlier: trials that were measured by an earlier search.
    """

    trials: NodeTrials
    search: Search
    rounds: Rounds
    earlier: int


def answer(job: Resolved, run_id: str, searched: Searched, chosen: Tuned, kept: Path, journal: Path) -> TuneRecord:
    trials = searched.trials
    return TuneRecord(
        run_id=run_id,
        job=job.config.name,
        model=trials.facts.model,
        objective=job.config.tuning.objective,
        budget="max_batch_tokens" if trials.by_tokens else "max_batch_size",
        sample=trials.facts.sample,
        memory_mb=trials.memory_mb,
        space=trials.space,
        trials=tuple(searched.search.outcomes),
        default=trials.default(next(iter(trials.proved))),
        finalists=tuple(
            Finalist(point=point, rows_per_second=tuple(rates)) for point, rates in searched.rounds.items()
        ),
        winner=chosen,
        trials_earlier=searched.earlier,
        left_out=trials.facts.left_out,
        record=str(kept),
        journal=str(journal),
    )


def started(job: Resolved, run_id: str) -> Started:
    tuning = {f"tuning.{name}": value for name, value in job.config.tuning.model_dump().items()}
    return command_begun(job, run_id, "tune", "searches for the fastest settings of a node", tuning)


def finished(record: TuneRecord) -> Finished:
    artifacts = {"table.md": tune_table(record), "record.json": json.dumps(record.as_dict(), indent=1, default=str)}
    return Finished(
        metrics=of_tuning(record),
        tags={"optinfer.winner": record.winner.variant},
        artifacts=artifacts,
        note=tune_note(record),
    )


def plotted(record: TuneRecord, folder: Path, say: Say) -> list[Path]:
    """Draw the comparison into `folder`; nothing where that cannot be done, and say why."""
    return drawn(draw_tuning, record, folder / "tuning.png", say)
