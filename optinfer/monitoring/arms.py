"""How far two arms of an experiment differ, whenever one looks. Pure.

An interval for one look (Welch's) is wrong soon where one looks every night and stops at what one likes. A confidence
sequence holds at all looks together: the asymptotic one of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas
(time-uniform central limit theory, 2021), a normal mixture whose width goes with the root of log(n)/n. It is
narrowest when about as many keys are there as were planned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from optinfer.monitoring.paired import LEVEL, Difference

Array = np.ndarray[Any, Any]
# With fewer keys in an arm nothing asymptotic holds.
FEWEST = 50
# Arms that were dealt as they should be look otherwise once in so many experiments.
_MISDEALT = 1000


def at_one_look(control: Array, arm: Array, level: float = LEVEL) -> Difference:
    """Return the difference of two means, arm minus control, with Welch's interval and p-value: for a single look.

    Args:
        control, arm: (keys,) outcomes; other keys in each.
    """
    value = float(arm.mean() - control.mean())
    if _constant(control, arm):
        return Difference(value, value if value else -np.inf, value if value else np.inf, level)
    found = stats.ttest_ind(arm, control, equal_var=False)
    low, high = found.confidence_interval(level)
    return Difference(value, float(low), float(high), level, float(found.pvalue))


def at_every_look(control: Array, arm: Array, planned: int, level: float = LEVEL) -> Difference:
    """Return the same with an interval that holds at this look and at all others together.

    Args:
        planned: keys of both arms at which it is narrowest; the same at every look.
    """
    value = float(arm.mean() - control.mean())
    if min(len(control), len(arm)) < FEWEST:
        return Difference(value, -np.inf, np.inf, level)
    keys = len(control) + len(arm)
    # What each key moves the difference by: its distance from its arm's mean, by the arm's share.
    moved = np.concatenate([(arm - arm.mean()) * (keys / len(arm)), (control.mean() - control) * (keys / len(control))])
    reach = float(moved.std(ddof=2)) * _boundary(keys, planned, 1 - level)
    return Difference(value, value - reach, value + reach, level)


def _boundary(keys: int, planned: int, alpha: float) -> float:
    """Return the half width of the sequence for a standard deviation of 1."""
    spent = -2 * math.log(alpha)
    weight = keys * (spent + math.log(spent + 1)) / planned
    return math.sqrt(2 * (weight + 1) / (keys * weight) * math.log(math.sqrt(weight + 1) / alpha))


def misdealt(counts: Mapping[str, int], shares: Mapping[str, float]) -> float | None:
    """Return the p-value of counts that no such shares would give, None where they may.

    Args:
        counts, shares: of each arm, the control among them.
    """
    keys = sum(counts.values())
    expected = [share * keys for share in shares.values()]
    if min(expected, default=0.0) < 5:
        return None
    p_value = float(stats.chisquare([counts.get(name, 0) for name in shares], expected).pvalue)
    return p_value if p_value < 1 / _MISDEALT else None


def _constant(*sides: Array) -> bool:
    return any(len(side) < 2 for side in sides) or all(np.ptp(side) == 0 for side in sides)
