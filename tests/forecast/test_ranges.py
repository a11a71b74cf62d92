"""What earlier runs took becomes what is likely and a range: robust, wider where little is known, honest about waves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.forecast.ranges import Estimate, learnt, learnt_ratio, makespan, stated, total

SECONDS = st.floats(0.01, 1e4)
RATES = st.lists(st.floats(0.5, 500), min_size=1, max_size=8)
FRAGMENTS = st.lists(st.integers(1, 5000), min_size=1, max_size=30)


@given(st.lists(SECONDS, min_size=1, max_size=20))
def test_a_range_holds_what_is_likely_and_is_never_below_nothing(seconds: list[float]) -> None:
    estimate = learnt(seconds, 0.2)
    assert 0 <= estimate.low <= estimate.likely <= estimate.high
    assert min(seconds) <= estimate.likely <= max(seconds)


@given(SECONDS, st.integers(2, 20), st.floats(2, 1000))
def test_one_run_on_a_busy_machine_among_three_moves_nothing_that_is_likely(
    usual: float, runs: int, slower: float
) -> None:
    with_it = learnt([usual] * runs + [usual * slower], 0.2)
    assert with_it.likely == pytest.approx(usual)
    assert with_it.high < usual * 2 + 1, "nor is it the truth that the range makes room for"


@given(SECONDS, st.integers(1, 19))
def test_more_runs_that_agree_narrow_the_range_and_runs_that_differ_widen_it(usual: float, runs: int) -> None:
    few, more = learnt([usual] * runs, 0.2), learnt([usual] * (runs + 1), 0.2)
    apart = learnt([usual * (1 + (i % 3)) for i in range(9)], 0.2)
    alike = learnt([usual * 2] * 9, 0.2)
    assert more.high - more.low < few.high - few.low
    assert apart.high - apart.low > alike.high - alike.low


@pytest.mark.parametrize(("runs", "spread"), [(1, 20.0), (2, 20.0), (3, 20.0), (20, 20.0), (20, 10.0), (20, 30.0)])
def test_a_range_holds_ten_of_twelve_more(runs: int, spread: float) -> None:
    """Held against draws of a normal distribution: what the next one is, given some; 20 are stated as its spread."""
    draw, held = np.random.default_rng(7), 0
    for _ in range(4000):
        *before, after = draw.normal(100, spread, size=runs + 1)
        estimate = learnt(before, 0.2, least=0.0)
        held += estimate.low <= after <= estimate.high
    assert 0.76 <= held / 4000 <= 0.93


@given(st.lists(st.floats(0.05, 20), min_size=1, max_size=20))
def test_of_ratios_a_half_is_as_far_from_one_as_the_double(ratios: list[float]) -> None:
    estimate, turned = learnt_ratio(ratios, 0.1), learnt_ratio([1 / ratio for ratio in ratios], 0.1)
    assert estimate.likely == pytest.approx(1 / turned.likely)
    assert (estimate.low, estimate.high) == pytest.approx((1 / turned.high, 1 / turned.low))


@given(st.lists(SECONDS, min_size=1, max_size=6), st.floats(1.1, 5))
def test_a_sum_is_likely_the_sum_and_less_wide_than_all_its_parts_ranges_together(
    seconds: list[float], times: float
) -> None:
    parts = [stated(value, times) for value in seconds]
    whole = total(parts)
    assert whole.likely == pytest.approx(sum(seconds))
    assert whole.low <= whole.likely <= whole.high <= sum(part.high for part in parts) * (1 + 1e-9)
    assert whole.high - whole.likely >= max(part.high - part.likely for part in parts) * (1 - 1e-9)
    assert whole.low >= sum(part.low for part in parts) * (1 - 1e-9)


def test_nothing_adds_nothing() -> None:
    assert total([]) == Estimate(0, 0, 0)


@given(FRAGMENTS, RATES)
def test_replicas_are_never_faster_than_all_of_them_at_once_nor_slower_than_that_and_one_fragment(
    fragments: list[int], rates: list[float]
) -> None:
    seconds, rows = makespan(np.array(fragments), rates), np.array(fragments)
    at_once = rows.sum() / sum(rates)
    assert at_once * (1 - 1e-9) <= seconds <= at_once + max(fragments) / min(rates) + 1e-6


@given(st.integers(1, 40), st.integers(1, 500), st.integers(1, 8), st.floats(1, 100))
def test_fragments_of_one_size_take_whole_waves(count: int, each: int, replicas: int, rate: float) -> None:
    seconds = makespan(np.full(count, each), [rate] * replicas)
    assert seconds == pytest.approx(math.ceil(count / replicas) * each / rate)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 3))
def test_the_last_replica_ends_no_sooner_than_in_the_best_of_all_ways_to_deal(fragments: list[int], n: int) -> None:
    """Held against trying them all; Graham's bound says how much worse dealing in turn may be."""
    ways = itertools.product(range(n), repeat=len(fragments))
    best = min(max(sum(f for f, r in zip(fragments, way, strict=True) if r == i) for i in range(n)) for way in ways)
    assert best <= makespan(np.array(fragments), [1.0] * n) <= best * (2 - 1 / n) + 1e-9


def test_very_many_fragments_are_all_counted() -> None:
    rows = np.full(1_000_001, 100)
    assert makespan(rows, [10.0] * 100) == pytest.approx(rows.sum() / 1000, rel=1e-3)


def test_no_fragment_takes_no_time() -> None:
    assert makespan(np.array([], dtype=int), [1.0]) == 0
