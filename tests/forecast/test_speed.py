"""A forecast says seconds and cost from what was measured, and nothing where nothing was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.config import PlacementConfig
from optinfer.execution.placing import cpus_when_tuned
from optinfer.forecast.parts import Facts, Parts, Past
from optinfer.forecast.speed import (
    Speed,
    at_lengths,
    compared,
    forecast,
    nodes_needed,
    per_million,
    price,
    speed_of,
    together,
    unknown,
)
from optinfer.records.forecast import Actual
from optinfer.records.observation import CERTIFICATE, IN_PROCESS
from optinfer.records.observation import TUNED as OF_A_NODE
from optinfer.records.tuning import Lengths
from tests.tuning.test_kept import TUNED, like

SPEED = Speed(rows_per_second=100.0, basis="measured", lengths=like(90.0))


FACTS = Facts(machine="", where=IN_PROCESS, basis=OF_A_NODE, replicas=1, threads=1, load_seconds=10.0, prepared=20.0)


def told(rows: int = 36_000, rate: float = 100.0, load: float = 10.0, **changes: Any) -> Any:
    parts = Parts(Past(), replace(FACTS, load_seconds=load), ["measured"])
    given: dict[str, Any] = {"without": (), "nodes": 1, "cost_per_hour": None, **changes}
    return forecast(np.array([rows]), [rate], parts, **given)


def test_seconds_are_startup_scoring_and_closing() -> None:
    one = told()
    assert one.scoring_seconds == 360
    assert one.startup_seconds > 30
    assert one.seconds == pytest.approx(one.startup_seconds + one.scoring_seconds + one.closing_seconds)
    assert one.low_seconds < one.seconds < one.high_seconds
    assert one.rows_per_second == pytest.approx(36_000 / one.seconds)
    assert told(load=50.0).startup_seconds == pytest.approx(one.startup_seconds + 40)
    assert one.basis.startswith("measured; ")


def test_cost_is_that_of_all_nodes_for_the_whole_time() -> None:
    one = told(cost_per_hour=2.0, nodes=3)
    assert one.cost == pytest.approx(one.seconds / 3600 * 3 * 2)
    assert told().cost is None


def test_longer_rows_take_longer_in_proportion() -> None:
    twice = at_lengths(SPEED, like(180.0))
    assert (twice.rows_per_second, twice.kind) == (50, SPEED.kind)
    assert "180 tokens a row instead of 90" in twice.basis
    assert at_lengths(SPEED, Lengths()) == SPEED, "lengths that are not known change nothing"


def test_nothing_measured_is_no_number_and_says_what_to_run() -> None:
    missing = unknown(10, 1, "run `optinfer tune`")
    assert (missing.seconds, missing.cost, missing.basis) == (None, None, "run `optinfer tune`")
    assert missing.low_seconds is missing.high_seconds is None


@given(st.integers(1, 10**9), st.floats(1, 1e5), st.floats(0, 100))
def test_more_rows_never_take_less_and_cost_grows_with_them(rows: int, rate: float, load: float) -> None:
    one, two = (told(n, rate, load, cost_per_hour=1.0) for n in (rows, rows * 2))
    assert two.seconds >= one.seconds >= load
    assert two.low_seconds >= 0
    assert two.high_seconds >= one.high_seconds
    assert two.cost >= one.cost


def test_a_tuning_record_counts_where_the_placement_is_like_it() -> None:
    def basis(replicas: int, threads: int) -> Any:
        return speed_of(TUNED, None, replicas, threads)

    assert basis(2, 1).rows_per_second == 300
    assert basis(4, 1).rows_per_second == 600, "two such nodes"
    assert basis(1, 2) is None
    assert basis(1, 1) is None


@pytest.mark.parametrize(
    ("replicas", "threads", "cpus", "most", "each"),
    [
        (8, 1, 8, None, 1),
        (4, 1, 8, None, 2),
        (2, 2, 8, None, 4),
        (3, 1, 7, None, 2),
        (1, 2, 3, None, 2),  # all that fit
        (1, 4, 6, None, 4),
        (2, 1, 8, 2, 1),  # all that the job allows
    ],
)
def test_a_tuned_replica_has_idle_cpus_only_where_fewer_than_fit_won(
    replicas: int, threads: int, cpus: int, most: int | None, each: int
) -> None:
    assert cpus_when_tuned(replace(TUNED, replicas=replicas, threads_per_replica=threads), cpus, most) == each


def test_the_price_of_a_node_is_found_by_what_it_has() -> None:
    placement = PlacementConfig(cost_per_hour={"cpu": 0.2, "H100": 4.0, "A100-80G": 3.0})
    assert price(placement, None) == 0.2
    assert price(placement, "NVIDIA H100 80GB HBM3, 570.1") == 4.0
    assert price(placement, "NVIDIA A100-SXM4-80GB, 570.1") == 3.0
    assert price(placement, "Tesla T4, 570.1") is None
    assert price(PlacementConfig(), None) is None


def test_a_million_rows_cost_what_their_hours_cost() -> None:
    assert per_million(1e6 / 3600, 2.5) == pytest.approx(2.5)


@pytest.mark.parametrize(("replicas", "cpus", "nodes"), [(2, 2, 1), (3, 2, 2), (8, 4, 2), (1, 64, 1)])
def test_nodes_are_as_many_as_the_replicas_fill(replicas: int, cpus: int, nodes: int) -> None:
    assert nodes_needed(replicas, 1.0, cpus) == nodes


def test_the_error_is_the_forecasts_excess_over_the_actual_time() -> None:
    foretold = told(cost_per_hour=2.0)
    record = compared(foretold, seconds=300.0, rows_per_second=120.0, cost_per_hour=2.0)
    assert record.error_percent == pytest.approx((foretold.seconds / 300 - 1) * 100)
    assert record.actual == Actual(seconds=300.0, rows_per_second=120.0, cost=1 / 6)
    assert (record.low_seconds, record.high_seconds) == (foretold.low_seconds, foretold.high_seconds)


def test_what_was_unknown_is_no_error() -> None:
    assert compared(unknown(10, 1, "why"), 300.0, 120.0, None).error_percent is None


def test_two_variants_beside_each_other_are_as_fast_as_both_each_on_rows_of_the_tables_lengths() -> None:
    table, other = like(180.0), Speed(rows_per_second=10.0, basis="also measured")
    both = together(at_lengths(SPEED, table), at_lengths(other, table))
    assert both.rows_per_second == 50 + 10
    assert both.kind == CERTIFICATE
    assert "180 tokens a row instead of 90; beside it also measured" in both.basis
