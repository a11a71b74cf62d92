"""Measurements that add up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.records.stats import Latencies, Stats

seconds = st.lists(st.floats(1e-6, 1e3), max_size=100)
counts = st.integers(0, 10**9)
NUMBERS = ("rows_in", "rows_out", "rows_deduplicated", "tokens", "micro_batches", "out_of_memory", "infer_seconds")
stats = st.builds(Stats, **dict.fromkeys(NUMBERS, counts))


def latencies(values: list[float]) -> Latencies:
    found = Latencies()
    for value in values:
        found.add(value)
    return found


@given(seconds, seconds)
def test_latencies_of_two_replicas_are_those_of_both(a: list[float], b: list[float]) -> None:
    assert latencies(a) + latencies(b) == latencies(a + b)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=100), st.floats(1, 100))
def test_percentiles_are_within_the_width_of_a_bucket(values: list[float], q: float) -> None:
    rank = next(i for i in range(len(values)) if i + 1 >= q / 100 * len(values))
    assert latencies(values).percentile(q) == pytest.approx(sorted(values)[rank], rel=0.02)


def test_nothing_measured_is_zero() -> None:
    assert Latencies().percentile(99) == 0.0


@given(stats, stats, stats)
def test_stats_add_up_in_any_order(a: Stats, b: Stats, c: Stats) -> None:
    assert (a + b) + c == a + (b + c) == sum([c, a, b], Stats())


@given(st.lists(stats, max_size=5))
def test_a_sum_of_stats_sums_every_field(parts: list[Stats]) -> None:
    whole = sum(parts, Stats())
    for name in NUMBERS:
        assert getattr(whole, name) == sum(getattr(part, name) for part in parts)


@given(seconds, counts)
def test_stats_survive_the_way_through_json(values: list[float], rows: int) -> None:
    one = Stats(rows_in=rows, latencies=latencies(values))
    raw: dict[str, Any] = json.loads(json.dumps(one.as_dict()))
    assert Stats.from_dict(raw) == one


def test_padding_is_the_share_of_tokens_nobody_wrote() -> None:
    assert Stats(tokens=75, padded_tokens=100).padding_fraction == 0.25
    assert Stats().padding_fraction == 0.0
