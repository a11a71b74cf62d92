"""A run's parts are foretold from the runs that tell most of it, and corrected by what was measured against them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.forecast.parts import Facts, Parts, Past
from optinfer.forecast.ranges import total
from optinfer.forecast.speed import forecast
from optinfer.records.observation import CERTIFICATE, IN_PROCESS, ON_RAY, TUNED, Observation

FACTS = Facts(
    machine="2 CPUs", where=ON_RAY, basis=CERTIFICATE, replicas=2, threads=1, load_seconds=1.0, start_seconds=1.0
)
RUN = Observation(
    at="2026-11-27T12:00:00+00:00", model="m", variant="v", machine="2 CPUs", where=ON_RAY, basis=CERTIFICATE,
    replicas=2, threads=1, rows=1000, measured=100.0, certified_load=1.0, prepare=2.0, ray=4.0, actors=3.0, load=2.0,
    first=0.5, steady=80.0, closing=1.0, recording=2.0,
)  # fmt: skip


NOTHING = Past()


def told(past: Past = NOTHING, facts: Facts = FACTS, rows: int = 1000, without: Any = ()) -> Any:
    return forecast(np.full(10, rows // 10), [50.0, 50.0], Parts(past, facts), without, 1, None)


def test_the_next_run_is_as_the_last_where_that_is_all_that_is_known() -> None:
    next_one = told(Past(own=(RUN,)))
    assert next_one.startup_seconds == pytest.approx(2 + 4 + 3 + 2 + 0.5)
    assert next_one.scoring_seconds == pytest.approx(1000 / 80)
    assert next_one.closing_seconds == pytest.approx(3)
    assert next_one.seconds == pytest.approx(11.5 + 12.5 + 3)
    assert "times 0.80, as in a run of it here; start-up as in a run of it here" in next_one.basis


def test_before_any_run_it_is_what_was_measured_when_proving_with_a_wide_range() -> None:
    unknown, known = told(), told(Past(own=(RUN,) * 5))
    assert "no run corrects it yet; start-up stated, no run here was done yet" in unknown.basis
    assert (unknown.high_seconds - unknown.low_seconds) / unknown.seconds > 2 * (
        known.high_seconds - known.low_seconds
    ) / known.seconds
    slow = told(facts=replace(FACTS, start_seconds=6.0, load_seconds=10.0))
    assert slow.startup_seconds > unknown.startup_seconds + 20, "on a machine where processes take long to start"


@given(st.floats(0.2, 5.0), st.integers(1, 20))
def test_a_planted_history_moves_the_forecast_as_it_says(slower: float, runs: int) -> None:
    """Runs here, of any other model, were so much slower than measured: so will this one be."""
    planted = replace(RUN, model="other", measured=100.0, steady=100.0 / slower)
    scoring = told(Past(others=(planted,) * runs)).scoring_seconds
    assert scoring == pytest.approx(10 * slower)


def test_own_runs_tell_more_than_others_and_those_than_what_is_stated() -> None:
    others = (replace(RUN, model="other", steady=20.0, actors=30.0),) * 9
    assert told(Past(own=(RUN,), others=others)).seconds == told(Past(own=(RUN,))).seconds
    of_others = told(Past(others=others))
    assert of_others.startup_seconds > 30
    assert "as in 9 runs of other models here" in of_others.basis


def test_another_models_loading_is_this_ones_certified_loading_as_many_times_longer() -> None:
    others = (replace(RUN, model="other", certified_load=1.0, load=3.0),)
    parts = Parts(Past(others=others), replace(FACTS, load_seconds=10.0))
    assert total(parts.startup(("prepare", "ray", "actors", "first"))).likely == pytest.approx(30)


@pytest.mark.parametrize("other", [{"machine": "64 CPUs"}, {"where": IN_PROCESS}])
def test_runs_elsewhere_tell_nothing(other: dict[str, Any]) -> None:
    assert told(Past(own=(replace(RUN, **other),), others=(replace(RUN, **other),))) == told()


@pytest.mark.parametrize("other", [{"replicas": 8}, {"threads": 2}, {"basis": TUNED}])
def test_how_much_replicas_cost_each_other_is_known_from_as_many_of_them(other: dict[str, Any]) -> None:
    changed = told(Past(own=(replace(RUN, **other),)))
    assert changed.scoring_seconds == told().scoring_seconds
    assert changed.startup_seconds == pytest.approx(11.5), "what they take to start has nothing to do with it"


def test_what_a_run_did_not_tell_is_taken_from_one_that_did() -> None:
    first_run, second = replace(RUN, prepare=None, steady=None), replace(RUN, prepare=7.0)
    next_one = told(Past(own=(first_run, second)))
    assert next_one.startup_seconds == pytest.approx(7 + 4 + 3 + 2 + 0.5)
    assert next_one.scoring_seconds == pytest.approx(12.5)


def test_what_is_left_out_is_in_neither_part() -> None:
    whole, less = told(Past(own=(RUN,))), told(Past(own=(RUN,)), without=("prepare", "recording"))
    assert whole.seconds - less.seconds == pytest.approx(RUN.prepare + RUN.recording)  # type: ignore[operator]
    assert (less.startup_seconds, less.closing_seconds) == (9.5, 1.0)


def test_what_earlier_versions_kept_of_the_start_up_counts_until_a_run_tells_more() -> None:
    kept = told(Past(startup=20.0, startup_of_others=30.0), without=("prepare",))
    assert (kept.startup_seconds, "start-up as in the last run" in kept.basis) == (20.0, True)
    of_others = told(Past(startup_of_others=30.0), without=("prepare",))
    assert (of_others.startup_seconds, "start-up of other runs here" in of_others.basis) == (31.0, True)
    assert told(Past(own=(RUN,), startup=20.0)).startup_seconds == pytest.approx(11.5)
    assert told(Past(others=(RUN,), startup=20.0), without=("prepare",)).startup_seconds == 20.0


def test_a_tuning_record_has_what_replicas_cost_each_other_in_it() -> None:
    tuned, certified = (Parts(Past(), replace(FACTS, basis=basis)).slowdown() for basis in (TUNED, CERTIFICATE))
    assert tuned.likely == 1 < certified.likely
    assert tuned.high / tuned.low < certified.high / certified.low


def test_replicas_in_this_process_wait_for_no_ray() -> None:
    assert told(facts=replace(FACTS, where=IN_PROCESS)).startup_seconds < told().startup_seconds - 3
