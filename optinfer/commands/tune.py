"""tune(config): variant, micro-batches, replicas and their threads searched together, on one node, with the job's rows.

`optimize` compares variants one replica at a time; here the replicas of a whole node run together, because what is best
for one alone is seldom best for all. The winner is kept for `run` (tuning/kept.py); so is the search, and one
that was cut off goes on (tuning/search.py). What is measured: tuning/node_trials.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from optinfer.commands.readiness import require_places
from optinfer.commands.resolved import Resolved, resolve
from optinfer.commands.tuning_answer import answer, params, plotted, summary, tune_table
from optinfer.config import JobConfig
from optinfer.errors import ConfigError, NoVariantError
from optinfer.execution.placing import layout_here
from optinfer.forecast.worth import objective
from optinfer.optimization.selection import Prepared
from optinfer.optimization.workbench import Workbench
from optinfer.tracking.comparison import Comparison
from optinfer.tuning import kept
from optinfer.tuning.node_trials import USUAL, Effort, NodeTrials
from optinfer.tuning.rivals import chosen_settings, plausible_variants
from optinfer.tuning.search import Outcome, Point, Search

Say = Callable[[str], None]

# Of the time budget, at most so much is kept for that.
_MOST_RESERVED = 0.5
# The sample stands for the table where no quantile of its lengths is further off.
_LARGEST_DEVIATION = 0.15


def tune(
    config: JobConfig,
    say: Say = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
    effort: Effort = USUAL,
) -> dict[str, Any]:
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
    with Comparison(config.tracking, f"{config.name} tune", params(job), say) as comparison:
        bench = job.bench(say)
        plausible, left_out = plausible_variants(bench)
        trials = _trials(bench, job, plausible, worth, effort)
        if trials.sample.deviation > _LARGEST_DEVIATION:
            say(f"warning: lengths of the sample differ by {trials.sample.deviation:.0%} from the table's; "
                "raise tuning.sample_rows")  # fmt: skip
        search = _opened(bench, trials)
        earlier = len(search.outcomes)
        _search(search, trials, config.tuning.time_budget, clock, _observer(comparison, say))
        rounds = _meet(trials, search, comparison, say)
        chosen = chosen_settings(bench, trials, rounds, say)
        path = kept.write(chosen, bench.model.key, config, bench.metric)
        record = answer(job, comparison.run_id, trials, search, rounds, chosen)
        record |= {
            "trials_earlier": earlier,
            "left_out": left_out,
            "record": str(path),
            "journal": str(comparison.journal),
        }
        images = plotted(record, comparison.folder, say)
        record["plot"] = str(images[0]) if images else None
        record["mlflow"] = comparison.finish(summary(record), tune_table(record), record, images)
        comparison.event("finish", winner=record["winner"], mlflow=record["mlflow"])
    return record


def _trials(
    bench: Workbench, job: Resolved, plausible: list[Prepared], worth: Callable[[float], float], effort: Effort
) -> NodeTrials:
    cpus = os.cpu_count() or 1
    device = plausible[0].variant.device
    default = layout_here(bench.config.placement, device, cpus)
    return NodeTrials(bench, plausible, job.plan.fragments, default, cpus, worth, effort)


def _opened(bench: Workbench, trials: NodeTrials) -> Search:
    """Open the search for exactly these rows, artifacts, packages and limits: what is different is another search."""
    identity = {
        "machine": kept.machine(),
        "sample": trials.sample.as_dict()["digest"],
        "artifacts": {name: [p.artifact.key, p.settings.backend] for name, p in trials.proved.items()},
        "versions": {name: kept.versions(p.settings.backend) for name, p in trials.proved.items()},
        "batching": bench.config.batching.model_dump(),
        "memory_mb": bench.config.tuning.max_memory_mb,
        "cost_per_hour": bench.config.placement.cost_per_hour,
        "objective": bench.config.tuning.objective,
    }
    direction: Literal["maximize", "minimize"] = (
        "maximize" if bench.config.tuning.objective == "rows_per_second" else "minimize"
    )
    search = Search(kept.study(bench.model.key), identity, trials.space, direction)
    search.first([trials.default(name) for name in trials.proved])
    return search


def _search(
    search: Search,
    trials: NodeTrials,
    time_budget: float,
    clock: Callable[[], float],
    observe: Callable[[int, Outcome], None],
) -> None:
    """Try points until the time is spent, less what the last rounds will take, or all were tried."""
    started, longest = clock(), 0.0
    reserved_runs = trials.effort.rounds * (trials.effort.rivals + 1)
    while clock() - started + min(reserved_runs * longest, _MOST_RESERVED * time_budget) < time_budget:
        asked = search.ask()
        if asked is None:
            return
        handle, point = asked
        began = clock()
        outcome = trials.run(point)
        search.tell(handle, outcome)
        longest = max(longest, clock() - began)
        observe(len(search.outcomes), outcome)


def _observer(comparison: Comparison, say: Say) -> Callable[[int, Outcome], None]:
    def observe(number: int, outcome: Outcome) -> None:
        point = outcome.point
        comparison.event("trial", **asdict(outcome))
        metrics = {name: float(value) for name, value in outcome.measured.items()}
        if outcome.value is not None:
            metrics["objective"] = outcome.value
        comparison.add(f"{number} {point.variant}", {**asdict(point), "reason": outcome.reason}, metrics)
        rate = f"{outcome.measured['rows_per_second']:.1f} rows/s" if outcome.measured else "failed"
        say(f"trial {number}: {point}: {rate}{f' ({outcome.reason})' if outcome.reason else ''}")

    return observe


def _meet(trials: NodeTrials, search: Search, comparison: Comparison, say: Say) -> dict[Point, list[float]]:
    """Measure the best of the search and the default again, in turns; return rows per second by round.

    The default is the fastest variant by its certificate, with everything else as the job would have it now. One that
    fails a round is out.
    """
    default = trials.default(next(iter(trials.proved)))
    most = trials.effort.rivals
    rivals = [o.point for o in search.best(most + 1) if o.point != default][:most]
    rounds: dict[Point, list[float]] = {point: [] for point in (default, *rivals)}
    say(f"measuring the best {len(rivals)} and the default again, in turns")
    for _ in range(trials.effort.rounds):
        for point in list(rounds):
            outcome = trials.run(point)
            comparison.event("round", **asdict(outcome))
            if outcome.valid:
                rounds[point].append(outcome.measured["rows_per_second"])
            else:
                say(f"{point} is out: {outcome.reason}")
                del rounds[point]
    if not rounds:
        raise NoVariantError("no setting could be measured; the lines above say why, for each")
    return rounds
