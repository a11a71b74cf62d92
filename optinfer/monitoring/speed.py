"""Is a run slower than runs of the same variant on the same hardware were? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import median_abs_deviation

FEWEST_RUNS = 5
# A quarter slower is what somebody would look into; more where runs differ by more anyway.
LEAST = 1.25
_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Slowdown:
    """How many times longer a row takes than it did, and above what that alarms; `usual` is in rows per second."""

    value: float
    threshold: float
    usual: float

    @property
    def alarms(self) -> bool:
        return self.value > self.threshold


def slowdown(earlier: Sequence[float], now: float) -> Slowdown | None:
    """Hold a run's rows per second against the median of earlier runs; None while there are few.

    The threshold is 4 standard deviations, estimated by the median absolute one, which a slow night does not shift.
    """
    if len(earlier) < FEWEST_RUNS or now <= 0:
        return None
    usual = float(np.median(earlier))
    slow = usual - _DEVIATIONS * float(median_abs_deviation(earlier, scale="normal"))
    threshold = max(LEAST, usual / slow) if slow > 0 else float("inf")
    return Slowdown(usual / now, threshold, usual)
