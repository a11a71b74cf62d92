"""Lengths to micro-batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optinfer.inference.batching import micro_batches, width

lengths = st.lists(st.integers(0, 600), max_size=200)
budget = st.tuples(st.integers(1, 4096), st.integers(1, 64))


def cut(row_lengths: list[int], max_batch_tokens: int, max_batch_size: int) -> list[list[int]]:
    rows, values = np.arange(len(row_lengths)), np.array(row_lengths, dtype=np.int64)
    return [batch.tolist() for batch in micro_batches(rows, values, max_batch_tokens, max_batch_size)]


@given(lengths, budget)
def test_every_row_is_in_exactly_one_micro_batch(lengths: list[int], budget: tuple[int, int]) -> None:
    assert sorted(row for batch in cut(lengths, *budget) for row in batch) == list(range(len(lengths)))


@given(lengths, budget)
def test_rows_of_different_lengths_stay_apart_where_nothing_may_be_padded(
    lengths: list[int], budget: tuple[int, int]
) -> None:
    rows, values = np.arange(len(lengths)), np.array(lengths, dtype=np.int64)
    batches = list(micro_batches(rows, values, *budget, same_length=True))
    assert all(len(set(values[batch])) == 1 for batch in batches)
    assert sorted(row for batch in batches for row in batch) == rows.tolist()


@given(lengths, budget)
def test_padded_tokens_stay_within_the_budget(lengths: list[int], budget: tuple[int, int]) -> None:
    max_batch_tokens, max_batch_size = budget
    for batch in cut(lengths, *budget):
        assert 1 <= len(batch) <= max_batch_size
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= max_batch_tokens


@given(lengths, budget)
def test_the_longest_rows_go_first(lengths: list[int], budget: tuple[int, int]) -> None:
    order = [lengths[row] for batch in cut(lengths, *budget) for row in batch]
    assert order == sorted(order, reverse=True)


@given(lengths, budget)
def test_the_same_rows_are_cut_the_same_way(lengths: list[int], budget: tuple[int, int]) -> None:
    assert cut(lengths, *budget) == cut(lengths, *budget)


def test_neighbours_in_length_share_a_micro_batch() -> None:
    assert cut([1, 9, 1, 9], max_batch_tokens=18, max_batch_size=64) == [[1, 3], [0, 2]]


def test_a_row_longer_than_the_budget_goes_alone() -> None:
    assert cut([100, 5], max_batch_tokens=50, max_batch_size=64) == [[0], [1]]


def test_only_the_given_rows_are_cut() -> None:
    batches = micro_batches(np.array([2, 0]), np.array([1, 99, 5]), 100, 64)
    assert [batch.tolist() for batch in batches] == [[2, 0]]


def test_rows_of_equal_cost_are_cut_in_order() -> None:
    batches = micro_batches(np.arange(5), None, 1, 2)
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]


def few(row_lengths: list[int], max_batch_tokens: int, max_batch_size: int) -> list[tuple[list[int], int]]:
    """Return (rows, width) of each micro-batch for a runtime that prepares each shape."""
    rows, values = np.arange(len(row_lengths)), np.array(row_lengths, dtype=np.int64)
    batches = micro_batches(rows, values, max_batch_tokens, max_batch_size, few_shapes=True)
    return [(b.tolist(), width(int(values[b].max()), int(values.max()), few_shapes=True)) for b in batches]


@given(lengths, budget)
def test_few_shapes_hold_every_row_once(lengths: list[int], budget: tuple[int, int]) -> None:
    assert sorted(row for batch, _ in few(lengths, *budget) for row in batch) == list(range(len(lengths)))


@given(lengths, budget)
def test_the_budget_counts_the_width_that_is_padded_to(lengths: list[int], budget: tuple[int, int]) -> None:
    max_batch_tokens, max_batch_size = budget
    for batch, padded in few(lengths, *budget):
        assert len(batch) <= max_batch_size
        assert len(batch) == 1 or len(batch) * padded <= max_batch_tokens


@given(lengths, budget)
def test_no_micro_batch_is_wider_than_the_longest_row_there_is(lengths: list[int], budget: tuple[int, int]) -> None:
    for batch, padded in few(lengths, *budget):
        assert max(lengths[row] for row in batch) <= padded <= max(*lengths, 1)


@given(st.integers(1, 100_000), st.integers(0, 100_000))
def test_a_width_is_rounded_up_by_a_sixteenth_at_most(longest: int, further: int) -> None:
    padded = width(longest, longest + further, few_shapes=True)
    assert longest <= padded <= longest * (1 + 1 / 16)
    assert width(longest, longest + further, few_shapes=False) == longest


def test_an_octave_has_sixteen_widths() -> None:
    assert len({width(n, 1_024, few_shapes=True) for n in range(513, 1_025)}) == 16
    assert len({width(n, 8_192, few_shapes=True) for n in range(1, 8_193)}) <= 16 * 10
