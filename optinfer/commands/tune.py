"""tune(config): variant, micro-batches, replicas and their threads searched together, on one node, with the job's rows.

`optimize` compares variants one replica at a time; here the replicas of a whole node run together, because what is best
for one alone is seldom best for all. The winner is kept for `run` (tuning/kept.py); so is the search, and one
that was cut off goes on (tuning/search.py). What is measured: tuning/node_trials.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace

from optinfer.commands.readiness import journal_copies, require_places
from optinfer.commands.resolved import Resolved, resolve
from optinfer.commands.tuning_answer import Searched, answer, finished, plotted, started
from optinfer.commands.tuning_rounds import meet, observer, opened, search_within, trials_of
from optinfer.config import JobConfig
from optinfer.errors import ConfigError
from optinfer.execution.executor import Executor
from optinfer.forecast.worth import objective
from optinfer.records.tuning import TuneRecord
from optinfer.tracking.recorder import new_run_id, recorder_of
from optinfer.tuning import kept
from optinfer.tuning.node_trials import USUAL, Effort
from optinfer.tuning.nodes import Node, ThisNode
from optinfer.tuning.winner import chosen_settings

Say = Callable[[str], None]

# The sample stands for the table where no quantile of its lengths is further off.
_LARGEST_DEVIATION = 0.15


def tune(
    config: JobConfig,
    say: Say = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
    effort: Effort = USUAL,
    executor: Executor | None = None,
) -> TuneRecord:
    """Search for the fastest settings of a job on one node, keep them, and return what `tune --json` prints.

    Nothing is scored or written to the job's sink.

    Args:
        clock: gives the seconds that `tuning.time_budget` counts.
        effort: how far the search goes.
        executor: what is measured is a node of its kind that would score; None measures this machine. What won is kept
            here, wherever that was.

    Raises:
        ConfigError: the job cannot work, or has no price for this node where cost is the objective.
        GateError: no variant passes the gate.
    """
    job = resolve(config, runs_here=executor is None or executor.machine() is not None)
    if job.plan.rows == 0:
        raise ConfigError("tune measures on the job's rows, and its table has none; give one with rows")
    require_places()
    run_id = new_run_id()
    with executor or nullcontext(), closing(_node(executor, job, effort, say)) as node:
        worth = objective(config, node.kind)
        with recorder_of(config.tracking, run_id, say, journal_copies(run_id)) as recorder:
            recorder.event(started(job, run_id))
            trials = trials_of(node, config, worth, effort)
            _say_unlikeness(trials.facts.sample.largest_deviation, say)
            search = opened(trials, config)
            earlier = len(search.outcomes)
            search_within(search, trials, config.tuning.time_budget, clock, observer(trials, recorder, say))
            rounds = meet(trials, search, recorder, say)
            chosen = chosen_settings(node, trials, rounds, say)
            path = kept.write(chosen, trials.facts.model, config, job.subject.metric)
            searched = Searched(trials, search, rounds, earlier)
            record = answer(job, run_id, searched, chosen, path, recorder.journal.path)
            images = plotted(record, recorder.folder, say)
            record = replace(record, plot=str(images[0]) if images else None)
            return replace(record, mlflow=recorder.finish(finished(record), images))


def _node(executor: Executor | None, job: Resolved, effort: Effort, say: Say) -> Node:
    if executor:
        return executor.tuning_node(job.proving, effort.measure, say)
    return ThisNode(job.bench(say), job.plan.fragments, effort.measure)


def _say_unlikeness(deviation: float, say: Say) -> None:
    if deviation > _LARGEST_DEVIATION:
        say(f"warning: lengths of the sample differ by {deviation:.0%} from the table's; raise tuning.sample_rows")
