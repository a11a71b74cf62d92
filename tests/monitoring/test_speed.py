"""When a run counts as slower than those before."""

from __future__ import annotations

import numpy as np

from optinfer.monitoring.speed import FEWEST_RUNS, slowdown


def test_few_runs_tell_nothing() -> None:
    assert slowdown([100.0] * (FEWEST_RUNS - 1), 1.0) is None


def test_a_quarter_slower_alarms_and_a_tenth_does_not() -> None:
    earlier = [100.0, 101.0, 99.0, 100.5, 98.0]
    assert [bool((found := slowdown(earlier, now)) and found.alarms) for now in (200.0, 91.0, 79.0)] == [0, 0, 1]


def test_runs_that_vary_alarm_later_and_steady_ones_hardly_ever() -> None:
    random = np.random.default_rng(2)
    alarms = 0
    for _ in range(500):
        *earlier, now = random.normal(100, 10, size=21)
        found = slowdown(earlier, now)
        assert found is not None
        alarms += found.alarms
    assert alarms <= 500 * 0.02
    assert not slowdown([100.0, 20.0, 60.0, 140.0, 180.0], 30.0).alarms  # type: ignore[union-attr]
