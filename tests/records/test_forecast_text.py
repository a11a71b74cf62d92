"""How a forecast is said: as a range, in units that people use."""

from __future__ import annotations

import pytest

from optinfer.records.forecast import Actual, Compared, Forecast
from optinfer.records.run import RunRecord
from optinfer.records.text import expected, run_text


def told(low: float | None, seconds: float | None, high: float | None) -> Forecast:
    return Forecast(
        rows=1, seconds=seconds, low_seconds=low, high_seconds=high, startup_seconds=0.0, rows_per_second=1.0, nodes=1,
        cost=None, basis="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (20, 26.4, "20-26 s"),
        (100, 130, "100 s to 2 min"),
        (180, 600, "3-10 min"),
        (3000, 9000, "50 min to 2 h 30 min"),
        (9000, 12000, "2 h 30 min to 3 h 20 min"),
        (22.1, 22.3, "22 s"),
        (None, None, "22 s"),  # of an earlier version
    ],
)
def test_a_forecast_is_said_as_a_range(low: float | None, high: float | None, said: str) -> None:
    assert expected(told(low, 22.2, high)) == said


@pytest.mark.parametrize(
    ("whole", "said"), [(25.0, "20-26 s, it took 25 s (-8%)"), (90.0, "20-26 s after the proof, it took 25 s (-8%)")]
)
def test_a_run_says_what_was_told_and_since_when(whole: float, said: str) -> None:
    actual = Actual(seconds=25.0, rows_per_second=1.0, cost=None)
    compared = Compared(**vars(told(20, 23, 26)), actual=actual, error_percent=-8.0)
    assert f"forecast    {said}" in run_text(
        RunRecord(run_id="r", fragments=1, rows_in=1, seconds=whole, forecast=compared)
    )


def test_what_was_unknown_is_not_judged() -> None:
    actual = Actual(seconds=25.0, rows_per_second=1.0, cost=None)
    compared = Compared(**vars(told(None, None, None)), actual=actual, error_percent=None)
    assert "forecast" not in run_text(RunRecord(run_id="r", fragments=1, rows_in=1, seconds=30.0, forecast=compared))
