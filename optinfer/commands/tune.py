"""tune(config): variant, micro-batches, replicas and their threads searched together, on one node, with the job's rows.

`optimize` compares variants one replica at a time; here the replicas of a whole node run together, because what is best
for one alone is seldom best for all. The winner is kept for `run` (tuning/kept.py); so is the search, and one
that was cut off goes on (tuning/search.py). What is measured: tuning/node_trials.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from optinfer.commands.readiness import journal_copies, require_places
from optinfer.commands.resolved import resolve
from optinfer.commands.tuning_answer import Searched, answer, finished, plotted, started
from optinfer.commands.tuning_rounds import meet, observer, opened, search_within, trials_of
from optinfer.config import JobConfig
from optinfer.errors import ConfigError
from optinfer.forecast.worth import objective
from optinfer.records.tuning import TuneRecord
from optinfer.tracking.recorder import new_run_id, recorder_of
from optinfer.tuning import kept
from optinfer.tuning.node_trials import USUAL, Effort
from optinfer.tuning.rivals import chosen_settings, plausible_variants

Say = Callable[[str], None]

# The sample stands for the table where no quantile of its lengths is further off.
_LARGEST_DEVIATION = 0.15


def tune(
    config: JobConfig,
    say: Say = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
    effort: Effort = USUAL,
) -> TuneRecord:
    """Search for the fastest settings of a job on this node, keep them, and return what `tune --json` prints.

    Nothing is scored or written to the job's sink.

    Args:
        clock: gives the seconds that `tuning.time_budget` counts.
        effort: how far the search goes.

    Raises:
        ConfigError: the job cannot work, or has no price for this node where cost is the objective.
        GateError: no variant passes the gate.
    """
    job = resolve(config)
    if job.plan.rows == 0:
        raise ConfigError("tune measures on the job's rows, and its table has none; give one with rows")
    worth = objective(config)
    require_places()
    run_id = new_run_id()
    with recorder_of(config.tracking, run_id, say, journal_copies(run_id)) as recorder:
        recorder.event(started(job, run_id))
        bench = job.bench(say)
        plausible, left_out = plausible_variants(bench)
        trials = trials_of(bench, job, plausible, worth, effort)
        if trials.sample.deviation > _LARGEST_DEVIATION:
            say(f"warning: lengths of the sample differ by {trials.sample.deviation:.0%} from the table's; "
                "raise tuning.sample_rows")  # fmt: skip
        search = opened(bench, trials)
        earlier = len(search.outcomes)
        search_within(search, trials, config.tuning.time_budget, clock, observer(recorder, say))
        rounds = meet(trials, search, recorder, say)
        chosen = chosen_settings(bench, trials, rounds, say)
        path = kept.write(chosen, bench.model.key, config, bench.metric)
        searched = Searched(trials, search, rounds, earlier, left_out)
        record = answer(job, run_id, searched, chosen, path, recorder.journal.path)
        images = plotted(record, recorder.folder, say)
        record = replace(record, plot=str(images[0]) if images else None)
        return replace(record, mlflow=recorder.finish(finished(record), images))
