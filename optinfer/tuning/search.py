"""The search of `tune`: which settings to try next, remembered on disk, so that a search that was cut off goes on.

The space is a small grid (variant x micro-batch budget x replicas and their threads); Optuna's TPE walks it, and never
over a point twice. Nothing here measures.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

from optinfer.records.tuning import Outcome, Point, Space

# So many proposals in a row of points that were tried already: then one is drawn from those that were not.
_REPEATS = 8
_SEED = 0


# Rows per second of points, by round.
Rounds = Mapping[Point, Sequence[float]]


class Search:
    """Proposes points and remembers outcomes in `path`, one study for each `identity`."""

    def __init__(
        self, path: Path, identity: Mapping[str, object], space: Space, direction: Literal["maximize", "minimize"]
    ):
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path.parent.mkdir(parents=True, exist_ok=True)
        named = json.dumps({**identity, "space": space.as_dict(), "direction": direction}, sort_keys=True, default=str)
        self._space = space
        self._draw = random.Random(_SEED)
        self._states = optuna.trial.TrialState
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name=hashlib.sha256(named.encode()).hexdigest()[:16],
            # No seed: what earlier processes drew must not be drawn again. All variants have run as they are before
            # TPE proposes; ten random points more, as is usual, would spend a short search on slow variants.
            sampler=optuna.samplers.TPESampler(n_startup_trials=len(space.variants)),
            direction=direction,
            load_if_exists=True,
        )
        self._distributions = {
            "variant": optuna.distributions.CategoricalDistribution(space.variants),
            "budget": optuna.distributions.IntDistribution(0, len(space.budgets) - 1),
            "layout": optuna.distributions.CategoricalDistribution([f"{r}x{t}" for r, t in space.layouts]),
        }
        self._maximize = direction == "maximize"
        self._retry_cut_off()

    @property
    def outcomes(self) -> list[Outcome]:
        """Every trial that ended, in order, those of earlier processes first."""
        return [
            Outcome.of(t.user_attrs["outcome"])
            for t in self._study.get_trials(deepcopy=False)
            if "outcome" in t.user_attrs
        ]

    def first(self, points: Sequence[Point]) -> None:
        """Have these tried before anything else, unless they were already."""
        tried = {outcome.point for outcome in self.outcomes}
        for point in points:
            if point not in tried:
                self._study.enqueue_trial(self._params(point), skip_if_exists=True)

    def ask(self) -> tuple[Any, Point] | None:
        """Return a handle and the next point to try; None where all were."""
        tried = {outcome.point for outcome in self.outcomes}
        untried = sorted(set(self._space.points) - tried)
        if not untried:
            return None
        for attempt in range(_REPEATS + 1):
            if attempt == _REPEATS:
                self._study.enqueue_trial(self._params(self._draw.choice(untried)))
            trial = self._study.ask(self._distributions)
            point = self._point(trial.params)
            if point not in tried:
                return trial, point
            self._study.tell(trial, state=self._states.FAIL)
        raise AssertionError("a point that was enqueued is the next one asked for")

    def tell(self, trial: Any, outcome: Outcome) -> None:
        """Remember how a trial ended."""
        trial.set_user_attr("outcome", outcome.as_dict())
        if outcome.value is None:
            self._study.tell(trial, state=self._states.FAIL)
            return
        trial.set_constraint("memory_mb", outcome.excess_mb)
        self._study.tell(trial, outcome.value)

    def best(self, count: int) -> list[Outcome]:
        """Return the best outcomes that keep every constraint, best first."""
        valid = [outcome for outcome in self.outcomes if outcome.valid]
        return sorted(valid, key=lambda o: o.value or 0.0, reverse=self._maximize)[:count]

    def _retry_cut_off(self) -> None:
        """Trials that were under way when their process ended have no outcome: they are tried again."""
        for trial in self._study.get_trials(deepcopy=False, states=(self._states.RUNNING,)):
            self._study.tell(trial.number, state=self._states.FAIL)
            if "outcome" not in trial.user_attrs and trial.params:
                self._study.enqueue_trial(trial.params)

    def _params(self, point: Point) -> dict[str, Any]:
        return {
            "variant": point.variant,
            "budget": self._space.budgets.index(point.budget),
            "layout": f"{point.replicas}x{point.threads}",
        }

    def _point(self, params: dict[str, Any]) -> Point:
        replicas, _, threads = params["layout"].partition("x")
        return Point(params["variant"], self._space.budgets[params["budget"]], int(replicas), int(threads))


def preferred(rounds: Rounds, default: Point) -> list[Point]:
    """Return points in the order in which they should win.

    Rivals come before the default only where their median is better by more than the spread: the wider of the two
    ranges. Without the default (it cannot run, or takes too much memory) the fastest comes first.
    """
    speed = {point: median(rates) for point, rates in rounds.items()}
    width = {point: max(rates) - min(rates) for point, rates in rounds.items()}
    fastest = sorted((point for point in rounds if point != default), key=lambda point: -speed[point])
    if default not in rounds:
        return fastest
    better = [p for p in fastest if speed[p] - speed[default] > max(width[p], width[default])]
    return [*better, default, *(p for p in fastest if p not in better)]


def budgets(defaults: Sequence[int], below: int, above: int, most: int | None = None) -> tuple[int, ...]:
    """Return micro-batch budgets to try: the defaults, and half-octave steps (2^k, 3*2^k) around all of them.

    Args:
        defaults: budgets that variants use unless told otherwise.
        below: how many times smaller than the smallest default to go; `above` how many times larger than the largest.
        most: a limit of the model.
    """
    low, high = max(min(defaults) / below, 1), max(defaults) * above
    steps = {base << k for k in range(int(high).bit_length() + 1) for base in (1, 3)}
    found = {step for step in steps if low <= step <= high} | set(defaults)
    return tuple(sorted({min(step, most) for step in found} if most else found))


def layouts(
    cpus: int, replicas: int | None, most_replicas: int | None, threads: int | None
) -> tuple[tuple[int, int], ...]:
    """Return (replicas, threads of each) to try on a node with so many CPUs: all of it used, and half of it.

    Half is where memory bandwidth or hyperthreads limit. What is given (`replicas`, `threads`) is kept.
    """
    found = set()
    for each in (threads,) if threads else {cpus, *(1 << k for k in range(cpus.bit_length()) if 1 << k <= cpus)}:
        fit = min(cpus // each, most_replicas or cpus)
        for count in (replicas,) if replicas else (fit, fit // 2):
            if count and 0 < count * each <= cpus:
                found.add((count, each))
    return tuple(sorted(found, reverse=True))
