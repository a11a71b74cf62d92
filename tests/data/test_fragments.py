"""Cutting row groups into fragments."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.data.fragments import (
    Fragment,
    Fragments,
    Plan,
    cut,
    places,
    rows_for_model,
    rows_per_fragment,
    tapered,
)
from tests.conftest import fragments

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
def test_automatic_fragments_are_as_large_as_wanted_unless_there_would_be_too_many(total: int, wanted: int) -> None:
    rows = rows_per_fragment(total, wanted)
    assert 1 <= rows <= max(wanted, math.ceil(total / 100_000))
    assert math.ceil(total / rows) <= 100_000


def test_a_small_table_still_gives_every_replica_work() -> None:
    rows = rows_per_fragment(total_rows=20_000, wanted_rows=16_384)
    assert math.ceil(20_000 / rows) == 16


def test_a_small_table_is_not_cut_below_what_fills_micro_batches() -> None:
    assert rows_per_fragment(total_rows=600, wanted_rows=1024) == 512
    assert rows_per_fragment(total_rows=600, wanted_rows=256) == 256


@given(st.integers(1, 20_000), st.integers(0, 10**12))
def test_a_larger_model_gets_fewer_rows_but_never_none(wanted: int, model_bytes: int) -> None:
    rows = rows_for_model(wanted, model_bytes)
    assert min(64, wanted) <= rows <= wanted
    assert rows_for_model(wanted, model_bytes * 2) <= rows


def test_a_light_model_gets_all_rows_and_one_ten_times_as_large_a_tenth() -> None:
    assert rows_for_model(1024, 90_000_000) == 1024
    assert rows_for_model(10_240, 2_560_000_000) == 1024


ranges = st.lists(st.integers(1, 5_000), min_size=1, max_size=80)


def taper(sizes: list[int]) -> list[list[tuple[int, int]]]:
    """Return the pieces of each range; ranges follow each other in one table."""
    total, edges = sum(sizes), [0, *itertools.accumulate(sizes)]
    return [list(tapered(start, stop, start, total)) for start, stop in itertools.pairwise(edges)]


@given(ranges)
def test_tapering_keeps_every_row_once_in_order(sizes: list[int]) -> None:
    pieces = [piece for found in taper(sizes) for piece in found]
    assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])]
    assert pieces[-1][1] == sum(sizes)
    assert all(stop > start for start, stop in pieces)


@given(st.integers(4, 2_000), st.integers(33, 200))
def test_both_ends_are_cut_finer_and_the_middle_is_not(rows: int, count: int) -> None:
    counts = [len(found) for found in taper([rows] * count)]
    finer = [i for i, pieces in enumerate(counts) if pieces == 4]
    assert finer == [i for i in range(count) if i < count / 16 or i + 1 > count * 15 / 16]
    assert set(counts) == {1, 4}


TWO_FILES = Fragments(
    paths=("a.parquet", "b.parquet"),
    partitions=((("year", 2023, "int64"),), (("year", 2024, "int64"),)),
    file=np.array([0, 0, 1]),
    start=np.array([0, 10, 0]),
    stop=np.array([10, 25, 7]),
)
THIRD = Fragment(2, "b.parquet", 0, 7, (("year", 2024, "int64"),))


def test_a_fragment_is_found_by_its_index_from_either_end() -> None:
    assert TWO_FILES[2] == TWO_FILES[-1] == THIRD
    with pytest.raises(IndexError):
        TWO_FILES[3]


def test_a_slice_of_fragments_keeps_their_indices() -> None:
    assert TWO_FILES[1:] == [TWO_FILES[1], THIRD]
    assert [f.index for f in TWO_FILES[::-2]] == [2, 0]


def test_fragments_are_counted_and_iterated_in_order() -> None:
    assert (len(TWO_FILES), TWO_FILES.rows) == (3, 32)
    assert [f.rows for f in TWO_FILES] == [10, 15, 7]


def test_what_a_fragment_holds_travels_as_plain_values() -> None:
    assert {type(value) for value in (THIRD.index, TWO_FILES[0].start, TWO_FILES[0].stop)} == {int}


@pytest.mark.parametrize(
    "change",
    [
        {"paths": ("a.parquet", "c.parquet")},
        {"partitions": ((("year", 2023, "int64"),), (("year", 2025, "int64"),))},
        {"file": np.array([0, 1, 1])},
        {"start": np.array([0, 11, 0])},
        {"stop": np.array([10, 25, 8])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_other_cut_has_another_digest(change: dict[str, Any]) -> None:
    assert replace(TWO_FILES, **change).digest() != TWO_FILES.digest()
    assert replace(TWO_FILES).digest() == TWO_FILES.digest()


def test_the_columns_of_a_million_fragments_take_megabytes() -> None:
    many = fragments(*itertools.pairwise(range(0, 1_000_001)))
    assert len(many) == 1_000_000
    assert sum(column.nbytes for column in (many.file, many.start, many.stop)) <= 24e6
    assert many[-1] == Fragment(999_999, "table.parquet", 999_999, 1_000_000)


@pytest.mark.parametrize(("count", "name"), [(1, "part-000007.parquet"), (2_000_000, "part-0000007.parquet")])
def test_part_names_sort_as_their_fragments(count: int, name: str) -> None:
    plan = Plan(files=(), fragments=fragments(*[(0, 1)] * count), schema=pa.schema([]))
    assert plan.part_name(7) == name


@given(st.lists(st.integers(0, 40_000), max_size=40))
def test_places_of_a_sample_are_all_over_the_table_and_share_no_row(rows: list[int]) -> None:
    found = list(places(rows))
    for file, start, stop in found:
        assert 0 <= start < stop <= rows[file]
    total = sum(rows)
    before = [sum(rows[:file]) for file in range(len(rows))]
    taken = [range(before[file] + start, before[file] + stop) for file, start, stop in found]
    assert all(one.stop <= other.start for one, other in itertools.pairwise(taken))
    assert sum(map(len, taken)) == min(
        total, sum(min(1024, total * (i + 1) // 16 - total * i // 16) for i in range(16))
    )
    if total >= 16:
        assert {total * i // 16 for i in range(16)} <= {one.start for one in taken}, "each sixteenth has its place"
