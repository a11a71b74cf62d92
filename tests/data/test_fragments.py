"""Cutting row groups into fragments."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.data.fragments import Fragment, Plan, cut, rows_per_fragment

Groups = list[tuple[int, int]]
groups = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 1_000_000)), max_size=30)
limits = st.tuples(st.integers(1, 3_000), st.integers(1, 2_000_000))


@given(groups, limits)
def test_cut_covers_every_row_once_in_order(groups: Groups, limits: tuple[int, int]) -> None:
    ranges = list(cut(groups, *limits))

    edges = [0, *(stop for _, stop in ranges)]
    assert [start for start, _ in ranges] == edges[:-1]
    assert edges[-1] == sum(rows for rows, _ in groups)
    assert all(stop > start for start, stop in ranges)


@given(groups, limits)
def test_no_fragment_has_more_rows_than_wanted(groups: Groups, limits: tuple[int, int]) -> None:
    max_rows, max_bytes = limits
    assert all(stop - start <= max_rows for start, stop in cut(groups, max_rows, max_bytes))


@given(st.integers(1, 5_000), st.integers(1, 1_000_000), limits)
def test_a_group_above_a_limit_is_split_evenly(rows: int, size: int, limits: tuple[int, int]) -> None:
    sizes = [stop - start for start, stop in cut([(rows, size)], *limits)]
    assert max(sizes) - min(sizes) <= 1


def test_small_groups_are_joined_up_to_the_row_limit() -> None:
    assert list(cut([(10, 1)] * 10, max_rows=35, max_bytes=1e9)) == [(0, 30), (30, 60), (60, 90), (90, 100)]


def test_small_groups_are_joined_up_to_the_byte_limit() -> None:
    assert list(cut([(10, 400)] * 4, max_rows=1_000, max_bytes=1_000)) == [(0, 20), (20, 40)]


def test_one_huge_group_is_split() -> None:
    assert list(cut([(100, 1)], max_rows=40, max_bytes=1e9)) == [(0, 33), (33, 66), (66, 100)]


def test_empty_groups_are_skipped() -> None:
    assert list(cut([(0, 0), (5, 1), (0, 0)], max_rows=10, max_bytes=10)) == [(0, 5)]


@given(st.integers(0, 10**9), st.integers(1, 10**5))
def test_automatic_fragments_are_never_larger_than_the_family_wants(total: int, family_rows: int) -> None:
    assert 1 <= rows_per_fragment(total, family_rows) <= family_rows


def test_a_small_table_still_gives_every_replica_work() -> None:
    rows = rows_per_fragment(total_rows=20_000, family_rows=1024)
    assert math.ceil(20_000 / rows) >= 60


@pytest.mark.parametrize(("fragments", "name"), [(1, "part-000007.parquet"), (2_000_000, "part-0000007.parquet")])
def test_part_names_sort_as_their_fragments(fragments: int, name: str) -> None:
    plan = Plan(files=(), fragments=(Fragment(0, "a", 0, 1),) * fragments, schema=pa.schema([]))
    assert plan.part_name(7) == name
