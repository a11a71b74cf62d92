"""Two models' answers to the same rows: their difference with an interval that holds what it promises. Pure.

Shares (right or wrong) have Tango's score interval for paired proportions (Statistics in Medicine 17, 1998), which also
holds where few rows differ; whatever else can be computed from rows has scipy's bootstrap over rows (BCa; percentiles
where there are many), both models resampled together, because a row that is hard is hard for both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray[Any, Any]
# From row indices to the metric of (champion, challenger) on these rows.
Score = Callable[[Array], tuple[float, float]]

LEVEL = 0.95
_RESAMPLES = 1000
# What BCa corrects falls with the rows, and costs one more computation of the metric for each of them.
_MOST_ROWS_BCA = 1000
# Halvings of [-1, 1]: to 1e-15.
_HALVINGS = 51


@dataclass(frozen=True)
class Difference:
    """What was measured, challenger minus champion where there are two.

    Attributes:
        low, high: ends of the two-sided interval at `level`.
        p_value: of no difference, exact; None where nothing exact is known.
    """

    value: float
    low: float
    high: float
    level: float
    p_value: float | None = None


def share(right: int, rows: int, level: float = LEVEL) -> Difference:
    """Return the share of rows that are right, with Wilson's interval."""
    low, high = stats.binomtest(right, rows).proportion_ci(level, method="wilson")
    return Difference(right / rows, float(low), float(high), level)


def mean(values: Array, level: float = LEVEL) -> Difference:
    """Return the mean of (rows,) values, with Student's interval."""
    value = float(values.mean())
    if len(values) < 2:
        return Difference(value, -np.inf, np.inf, level)
    reach = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))
    return Difference(value, value - reach, value + reach, level)


def of_shares(champion: Array, challenger: Array, level: float = LEVEL) -> Difference:
    """Return the difference of two shares of rows that are right.

    Args:
        champion, challenger: (rows,) whether each is right; the same rows in the same order.
        level: of the interval.
    """
    won, lost = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
    rows = len(champion)
    low, high = tango(np.array(won), np.array(lost), rows, level)
    return Difference((won - lost) / rows, float(low), float(high), level, mcnemar(won, lost))


def tango(won: Array, lost: Array, rows: int, level: float = LEVEL) -> tuple[Array, Array]:
    """Return the ends of the score interval of (won - lost) / rows.

    Args:
        won, lost: (...) rows that one of two is right about and the other is not.
        rows: all of them.
    """
    limit = stats.norm.ppf((1 + level) / 2)
    return _end(won, lost, rows, limit), _end(won, lost, rows, -limit)


def mcnemar(won: int, lost: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: rows that differ go either way alike."""
    return float(stats.binomtest(min(won, lost), won + lost).pvalue) if won + lost else 1.0


def of_a_metric(score: Score, rows: int, level: float = LEVEL, seed: int = 0) -> Difference:
    """Return the difference of any metric of a set of rows, by a paired bootstrap.

    Args:
        score: gives (champion, challenger) for (rows,) row indices, which may repeat.
        rows: how many there are.
    """

    def difference(indices: Array) -> float:
        ours, theirs = score(indices)
        return theirs - ours

    everything = np.arange(rows)
    value = difference(everything)
    if rows < 2:
        return Difference(value, -np.inf, np.inf, level)
    with warnings.catch_warnings(action="ignore"):  # where all resamples say the same, it has no interval, and says so
        found = stats.bootstrap(
            (everything,),
            difference,
            n_resamples=_RESAMPLES,
            vectorized=False,
            confidence_level=level,
            method="BCa" if rows <= _MOST_ROWS_BCA else "percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    if np.isnan(low) or np.isnan(high):
        low, high = np.percentile(found.bootstrap_distribution, [50 * (1 - level), 50 * (1 + level)])
    return Difference(value, float(low), float(high), level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for having looked at all of them (Holm's step-down)."""
    adjusted = np.zeros(len(p_values))
    order = np.argsort(p_values, kind="stable")
    left = len(p_values) - np.arange(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * left), 1.0)
    return [float(value) for value in adjusted]


def _end(won: Array, lost: Array, rows: int, limit: float) -> Array:
    """Return the difference whose score statistic is `limit`; the statistic falls as the difference grows."""
    low, high = np.full(np.shape(won), -1.0), np.full(np.shape(won), 1.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = _statistic(won, lost, rows, middle) > limit
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return (low + high) / 2


def _statistic(won: Array, lost: Array, rows: int, difference: Array) -> Array:
    """Return how many standard errors the observed difference lies above a supposed one.

    The error is that of the likeliest shares which have the supposed difference: `q` is then the share that is lost,
    the root of `2 rows q^2 + b q + c`.
    """
    b = (2 * rows - won + lost) * difference - (won + lost)
    c = -lost * difference * (1 - difference)
    q = (np.sqrt(b * b - 8 * rows * c) - b) / (4 * rows)
    variance = rows * (2 * q + difference * (1 - difference))
    return np.asarray((won - lost - rows * difference) / np.sqrt(np.maximum(variance, 1e-300)))
