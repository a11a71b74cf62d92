"""tune(config): variant, micro-batches, replicas and their threads searched together, on one node, with the job's rows.

`optimize` compares variants one replica at a time; here the replicas of a whole node run together, because what is best
for one alone is seldom best for all. The winner is kept for `run` (tuning/kept.py); so is the search, and one
that was cut off goes on (tuning/search.py). What is measured: tuning/node_trials.py.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from optinfer.commands.readiness import require_temporary
from optinfer.commands.resolved import Resolved, resolve
from optinfer.config import AUTO, JobConfig
from optinfer.errors import ConfigError, GateError, NoVariantError, OptinferError
from optinfer.execution.placement import Node, place
from optinfer.forecast.speed import per_million, price
from optinfer.optimization.selection import Prepared, prove, rank
from optinfer.optimization.variants import require
from optinfer.optimization.workbench import Workbench
from optinfer.records.text import tune_table
from optinfer.records.tuning import Tuned
from optinfer.system import home
from optinfer.system.machine import gpu, nvidia_gpus
from optinfer.tracking.journal import Journal
from optinfer.tracking.mlflow_tracker import NestedRuns
from optinfer.tuning import kept as records
from optinfer.tuning.node_trials import NodeTrials
from optinfer.tuning.search import Outcome, Point, Rounds, Search, preferred

Say = Callable[[str], None]

# A variant so many times slower than the best, one replica alone, is not made the fastest by its micro-batches.
_PLAUSIBLE = 2.0
# The best of the search meet the default again, in turns, so that a machine that slows down slows all of them.
_RIVALS = 2
_ROUNDS = 3
# Of the time budget, at most so much is kept for that.
_MOST_RESERVED = 0.5
# The sample stands for the table where no quantile of its lengths is further off.
_LARGEST_DEVIATION = 0.15


def tune(
    config: JobConfig, say: Say = lambda line: None, clock: Callable[[], float] = time.monotonic
) -> dict[str, Any]:
    """Search for the fastest settings of a job on this node, keep them, and return what `tune --json` prints.

    Nothing is scored or written to the job's sink. `clock` gives the seconds that `tuning.time_budget` counts.

    Raises:
        ConfigError: the job cannot work, or has no price for this node where cost is the objective.
        GateError: no variant passes the gate.
    """
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    job = resolve(config)
    if job.plan.rows == 0:
        raise ConfigError("tune measures on the job's rows, and its table has none; give one with rows")
    worth = _worth(config)
    home.require_writable()
    require_temporary()
    folder = home.runs() / run_id
    journal = Journal(folder / "journal.jsonl", time.time)
    runs = NestedRuns(config.tracking.uri or home.default_tracking_uri(), config.tracking.experiment, time.time)
    runs.start(f"{config.name} tune", _params(job), {"optinfer.run_id": run_id})
    with journal, runs:
        bench = job.bench(say)
        plausible, left_out = _plausible(bench)
        trials = _trials(bench, job, plausible, worth)
        if trials.sample.deviation > _LARGEST_DEVIATION:
            say(f"warning: lengths of the sample differ by {trials.sample.deviation:.0%} from the table's; "
                "raise tuning.sample_rows")  # fmt: skip
        search = _opened(bench, trials)
        earlier = len(search.outcomes)
        _search(search, trials, config.tuning.time_budget, clock, _observer(journal, runs, say))
        rounds = _meet(trials, search, journal, say)
        chosen = _chosen(bench, trials, rounds, say)
        path = records.write(chosen, bench.model.key, config, bench.metric)
        record = _record(job, run_id, bench, trials, search, rounds, chosen)
        record |= {"trials_earlier": earlier, "left_out": left_out, "record": str(path), "journal": str(journal.path)}
        image = _plot(record, folder / "tuning.png", say)
        record["plot"] = str(image) if image else None
        files = {"table.md": tune_table(record), "record.json": json.dumps(record, indent=1, default=str)}
        record["mlflow"] = runs.finish(_summary(record), files, [image] if image else [])
        if warning := record["mlflow"].get("warning"):
            say(f"warning: {warning}")
        journal.write("finish", winner=record["winner"], mlflow=record["mlflow"])
    return record


def _worth(config: JobConfig) -> Callable[[float], float]:
    """Return what turns a node's rows per second into the objective."""
    if config.tuning.objective == "rows_per_second":
        return lambda rows_per_second: rows_per_second
    name = gpu() if nvidia_gpus() else None
    hourly = price(config.placement, name)
    if not hourly:
        raise ConfigError(
            f"tuning.objective: cost needs the price of this node ({name or 'without a GPU'}); set "
            f"placement.cost_per_hour: {{{'<accelerator type>' if name else 'cpu'}: <price of an hour>}}"
        )
    return lambda rows_per_second: per_million(rows_per_second, hourly)


def _plausible(bench: Workbench) -> tuple[list[Prepared], dict[str, str]]:
    """Prove what the job allows; return what may win, fastest replica first, and why the others are left out."""
    config = bench.config
    if config.variant != AUTO:
        named = prove(bench, require(config.variant, bench.catalog, bench.model.format), chosen_by_us=False)
        if not named.gate.passed:
            raise GateError(f"{config.variant} does not pass the gate: {named.gate.reason}; nothing was searched")
        return [named], {}
    ranked, refused = rank(bench)
    left_out, plausible, best = dict(refused), [], ranked[0]
    for prepared in ranked:
        speed, most = prepared.certificate.rows_per_second, best.certificate.rows_per_second
        if prepared.variant.device != best.variant.device:
            left_out[prepared.variant.name] = f"runs on {prepared.variant.device}, the best on {best.variant.device}"
        elif speed * _PLAUSIBLE < most:
            left_out[prepared.variant.name] = (
                f"{speed:.1f} rows/s a replica, {best.variant.name} {most:.1f}: more than {_PLAUSIBLE:g}x slower"
            )
        else:
            plausible.append(prepared)
    return plausible, left_out


def _trials(bench: Workbench, job: Resolved, plausible: list[Prepared], worth: Callable[[float], float]) -> NodeTrials:
    cpus = os.cpu_count() or 1
    device = plausible[0].variant.device
    # As many fragments as could keep the node busy: a larger table may come.
    placed = place(bench.config.placement, device, [Node(cpus, nvidia_gpus())], cpus)
    default = (placed.replicas, placed.threads_per_replica)
    return NodeTrials(bench, plausible, job.plan.fragments, default, cpus, worth)


def _opened(bench: Workbench, trials: NodeTrials) -> Search:
    """Open the search for exactly these rows, artifacts, packages and limits: what is different is another search."""
    identity = {
        "machine": records.machine(),
        "sample": trials.sample.as_dict()["digest"],
        "artifacts": {name: [p.artifact.key, p.settings.backend] for name, p in trials.proved.items()},
        "versions": {name: records.versions(p.settings.backend) for name, p in trials.proved.items()},
        "batching": bench.config.batching.model_dump(),
        "memory_mb": bench.config.tuning.max_memory_mb,
        "cost_per_hour": bench.config.placement.cost_per_hour,
        "objective": bench.config.tuning.objective,
    }
    direction: Literal["maximize", "minimize"] = (
        "maximize" if bench.config.tuning.objective == "rows_per_second" else "minimize"
    )
    search = Search(home.home() / "studies" / f"{bench.model.key}.log", identity, trials.space, direction)
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
    reserved_runs = _ROUNDS * (_RIVALS + 1)
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


def _observer(journal: Journal, runs: NestedRuns, say: Say) -> Callable[[int, Outcome], None]:
    def observe(number: int, outcome: Outcome) -> None:
        point = outcome.point
        journal.write("trial", **asdict(outcome))
        metrics = {name: float(value) for name, value in outcome.measured.items()}
        if outcome.value is not None:
            metrics["objective"] = outcome.value
        runs.add(f"{number} {point.variant}", {**asdict(point), "reason": outcome.reason}, metrics, {})
        rate = f"{outcome.measured['rows_per_second']:.1f} rows/s" if outcome.measured else "failed"
        say(f"trial {number}: {point}: {rate}{f' ({outcome.reason})' if outcome.reason else ''}")

    return observe


def _meet(trials: NodeTrials, search: Search, journal: Journal, say: Say) -> dict[Point, list[float]]:
    """Measure the best of the search and the default again, in turns; return rows per second by round.

    The default is the fastest variant by its certificate, with everything else as the job would have it now. One that
    fails a round is out.
    """
    default = trials.default(next(iter(trials.proved)))
    rivals = [o.point for o in search.best(_RIVALS + 1) if o.point != default][:_RIVALS]
    rounds: dict[Point, list[float]] = {point: [] for point in (default, *rivals)}
    say(f"measuring the best {len(rivals)} and the default again, in turns")
    for _ in range(_ROUNDS):
        for point in list(rounds):
            outcome = trials.run(point)
            journal.write("round", **asdict(outcome))
            if outcome.valid:
                rounds[point].append(outcome.measured["rows_per_second"])
            else:
                say(f"{point} is out: {outcome.reason}")
                del rounds[point]
    if not rounds:
        raise NoVariantError("no setting could be measured; the lines above say why, for each")
    return rounds


def _chosen(bench: Workbench, trials: NodeTrials, rounds: Rounds, say: Say) -> Tuned:
    """Return the best settings that keep the gate with their own micro-batches; their proof stays in the cache."""
    default = trials.default(next(iter(trials.proved)))
    reasons = []
    for point in preferred(rounds, default):
        found = _as_record(trials, rounds, point, default)
        variant = trials.proved[point.variant].variant
        try:
            proof = prove(bench, variant, chosen_by_us=bench.config.variant == AUTO, tuned=found)
        except OptinferError as error:
            reasons.append(f"{point}: {error}")
            continue
        if proof.gate.passed:
            return replace(found, peak_rss_mb=max(found.peak_rss_mb, proof.certificate.peak_rss_mb))
        reasons.append(f"{point}: {proof.gate.reason}")
        say(f"does not pass with these micro-batches: {reasons[-1]}")
    raise GateError("no setting passes the gate with its own micro-batches:\n  " + "\n  ".join(reasons))


def _as_record(trials: NodeTrials, rounds: Rounds, point: Point, default: Point) -> Tuned:
    tokens, size = trials.limits(point)
    return Tuned(
        variant=point.variant,
        max_batch_tokens=tokens,
        max_batch_size=size,
        replicas=point.replicas,
        threads_per_replica=point.threads,
        rows_per_second=median(rounds[point]),
        default_rows_per_second=median(rounds[default]) if default in rounds else None,
        peak_rss_mb=0.0,
        lengths=trials.sample.lengths,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=records.versions(trials.proved[point.variant].settings.backend),
    )


def _record(
    job: Resolved,
    run_id: str,
    bench: Workbench,
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
        "model": bench.model.key,
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


def _params(job: Resolved) -> dict[str, Any]:
    tuning = job.config.tuning
    return {
        **job.params,
        **{f"tuning.{name}": value for name, value in tuning.model_dump().items()},
    }


def _summary(record: dict[str, Any]) -> dict[str, Any]:
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


def _plot(record: dict[str, Any], path: Path, say: Say) -> Path | None:
    from optinfer.tracking.plot import draw_tuning

    try:
        draw_tuning(record, path)
    except ImportError:
        say("warning: no plot: matplotlib is not installed; fix: pip install 'optinfer[plot]'")
        return None
    except OSError as error:
        say(f"warning: no plot: {path} cannot be written: {error.strerror or error}")
        return None
    return path
