"""Numbers that are not known exactly: what is likely, and the range that holds it 10 times of 12. Pure.

What runs took is summed up robustly: the median says what is likely, the median distance from it how much it varies, so
that one run on a busy machine moves little, and widens the range. Few runs say little about how much they vary: what is
stated for that counts as so many runs more (an empirical Bayes estimate of a normal distribution's variance).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

# Within so many standard deviations lie 10 of 12 draws of a normal distribution.
_HELD = 1.383
# The median distance from the median is so much less than the standard deviation, of which it tells as much as so many
# times fewer runs would (Rousseeuw and Croux, 1993).
_MAD, _MAD_EFFICIENCY = 1.4826, 0.37
# What is stated of the spread counts as so many runs.
_PRIOR_RUNS = 2
# The last so many fragments are dealt one by one; those before keep all replicas busy.
_DEALT = 4096


@dataclass(frozen=True)
class Estimate:
    """A number: what is likely, and from where to where it may be."""

    likely: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        return Estimate(self.likely * factor, self.low * factor, self.high * factor)


NOTHING = Estimate(0.0, 0.0, 0.0)


def stated(likely: float, times: float) -> Estimate:
    """Return a number that nobody measured: it may be so many times less or more."""
    return Estimate(likely, likely / times, likely * times)


def learnt(seconds: Sequence[float], spread: float, least: float = 0.1) -> Estimate:
    """Return what the next run takes of something, from the seconds that earlier ones took; there is at least one.

    Args:
        spread: standard deviation that is stated, as a share of what is likely; `least` is added to it, in seconds.
    """
    likely = median(seconds)
    wide = _wide([abs(value - likely) for value in seconds], spread * likely + least)
    return Estimate(likely, max(likely - wide, 0.0), likely + wide)


def learnt_ratio(ratios: Sequence[float], spread: float) -> Estimate:
    """Return what the next ratio is, from earlier ones, which are above 0; a half is as far from 1 as the double is.

    Args:
        spread: standard deviation of its logarithm that is stated.
    """
    logs = [math.log(ratio) for ratio in ratios]
    likely = median(logs)
    wide = _wide([abs(value - likely) for value in logs], spread)
    return Estimate(*(math.exp(value) for value in (likely, likely - wide, likely + wide)))


def _wide(distances: Sequence[float], spread: float) -> float:
    """Return half the range of one more draw, whose middle is known as well as so many draws tell."""
    runs = len(distances)
    seen = _MAD * median(distances)
    weight = _MAD_EFFICIENCY * (runs - 1)  # one run alone does not tell how much they vary
    variance = (_PRIOR_RUNS * spread**2 + weight * seen**2) / (_PRIOR_RUNS + weight)
    return _HELD * math.sqrt(variance * (1 + 1 / runs))


def total(parts: Iterable[Estimate]) -> Estimate:
    """Return the sum of parts that vary by themselves: distances add up as their squares do."""
    each = list(parts)
    likely = sum(part.likely for part in each)
    below, above = (
        math.sqrt(sum(distance**2 for distance in distances))
        for distances in ([p.likely - p.low for p in each], [p.high - p.likely for p in each])
    )
    return Estimate(likely, max(likely - below, 0.0), likely + above)


def makespan(rows: np.ndarray[Any, Any], rates: Sequence[float]) -> float:
    """Return the seconds until the last fragment is done, each going to the replica that is free first.

    Fragments are whole: five of the same size take two replicas three times as long as one takes one of them.

    Args:
        rows: (fragments,) of each, in the order in which they are dealt.
        rates: rows per second of each replica.
    """
    if not len(rows) or not len(rates):
        return 0.0
    early, late = rows[:-_DEALT], rows[-_DEALT:]
    busy = float(early.sum()) / sum(rates)
    free = [(busy, -rate) for rate in rates]  # of two that are free at once the faster one takes it
    heapq.heapify(free)
    last = busy
    for count in late.tolist():
        at, rate = free[0]
        last = max(last, done := at + count / -rate)
        heapq.heapreplace(free, (done, rate))
    return last
