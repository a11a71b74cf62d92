"""The trials of `tune`, one after another within their time, and the last rounds in which the best meet the default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from optinfer.config import JobConfig
from optinfer.errors import NoVariantError
from optinfer.execution.placing import layout_of
from optinfer.records.notes import trial_note
from optinfer.records.tuning import Outcome, Point
from optinfer.tracking.events import MetAgain, Tried
from optinfer.tracking.measured import of_trial
from optinfer.tracking.recorder import Recorder
from optinfer.tuning import kept
from optinfer.tuning.node_trials import Effort, NodeTrials
from optinfer.tuning.nodes import Node
from optinfer.tuning.search import Search

Say = Callable[[str], None]

# Of the time budget, at most so much is kept for the rounds in which the best meet the default again.
_MOST_RESERVED = 0.5


def trials_of(node: Node, config: JobConfig, worth: Callable[[float], float], effort: Effort) -> NodeTrials:
    """Return the trials of a job on a node, once the variants that may win are proved there."""
    kind = node.kind
    default = layout_of(config.placement, node.facts.device, kind.cpus, kind.gpus)
    return NodeTrials(node, config, default, worth, effort)


def opened(trials: NodeTrials, config: JobConfig) -> Search:
    """Open the search for exactly these rows, artifacts, packages and limits: what is different is another search."""
    identity = {
        "machine": kept.identity(trials.facts.kind),
        "sample": trials.facts.sample.digest,
        "artifacts": {name: [p.artifact.key, p.settings.backend] for name, p in trials.proved.items()},
        "versions": {name: trials.facts.versions[p.settings.backend] for name, p in trials.proved.items()},
        "batching": config.batching.identity,
        "memory_mb": config.tuning.max_memory_mb,
        "cost_per_hour": config.placement.cost_per_hour,
        "objective": config.tuning.objective,
    }
    direction: Literal["maximize", "minimize"] = (
        "maximize" if config.tuning.objective == "rows_per_second" else "minimize"
    )
    search = Search(kept.study(trials.facts.model), identity, trials.space, direction)
    search.first([trials.default(name) for name in trials.proved])
    return search


def search_within(
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


def observer(trials: NodeTrials, recorder: Recorder, say: Say) -> Callable[[int, Outcome], None]:
    def observe(number: int, outcome: Outcome) -> None:
        point, measured = outcome.point, outcome.measured
        recorder.event(Tried(outcome))
        proved = trials.proved[point.variant]
        found = of_trial(outcome, proved.certificate, proved.gate)
        params = {**point.as_dict(), "reason": outcome.reason}
        recorder.child(f"{number} {point.variant}", params, found, note=trial_note(outcome))
        rate = f"{measured.rows_per_second:.1f} rows/s" if measured else "failed"
        say(f"trial {number}: {point}: {rate}{f' ({outcome.reason})' if outcome.reason else ''}")

    return observe


def meet(trials: NodeTrials, search: Search, recorder: Recorder, say: Say) -> dict[Point, list[float]]:
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
            recorder.event(MetAgain(outcome))
            if outcome.valid and outcome.measured:
                rounds[point].append(outcome.measured.rows_per_second)
            else:
                say(f"{point} is out: {outcome.reason}")
                del rounds[point]
    if not rounds:
        raise NoVariantError("no setting could be measured; the lines above say why, for each")
    return rounds
