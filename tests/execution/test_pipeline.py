"""How fragments are handed out: alone while they are few, in runs where they are very many."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer import errors
from optinfer.data.fragments import Plan
from optinfer.execution import pipeline
from optinfer.execution.pipeline import Todo
from tests.conftest import fragments


def todo(rows: list[int], left: list[int] | None = None) -> Todo:
    plan = Plan(files=(), fragments=fragments(*[(0, n) for n in rows]), schema=pa.schema([]))
    return Todo(plan, np.array(range(len(rows)) if left is None else left, dtype=np.int64))


def spans(rows: list[int], replicas: int, most_blocks: int) -> list[tuple[int, int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_MOST_BLOCKS", most_blocks)
        return list(todo(rows).spans(replicas))


many = st.lists(st.integers(1, 2_000), max_size=300)


@given(many, st.integers(1, 8), st.integers(1, 400))
def test_every_fragment_is_in_one_run_in_order(rows: list[int], replicas: int, most_blocks: int) -> None:
    handed = [i for first, stop in spans(rows, replicas, most_blocks) for i in range(first, stop)]
    assert handed == list(range(len(rows)))


@given(many, st.integers(1, 8), st.integers(1, 400))
def test_no_run_is_more_than_a_replicas_fair_share_of_what_is_left(
    rows: list[int], replicas: int, most_blocks: int
) -> None:
    for first, stop in spans(rows, replicas, most_blocks):
        assert stop == first + 1 or sum(rows[first:stop]) <= sum(rows[first:]) / (2 * replicas)


@given(st.integers(1, 300), st.integers(1, 8))
def test_the_first_fragments_are_handed_out_alone(count: int, replicas: int) -> None:
    assert all(stop == first + 1 for first, stop in spans([10] * count, replicas, 1)[: 2 * replicas])


@given(many, st.integers(1, 8))
def test_few_fragments_are_all_handed_out_alone(rows: list[int], replicas: int) -> None:
    assert len(spans(rows, replicas, 400)) == len(rows)


def test_a_run_names_its_fragments_and_their_parts() -> None:
    runs = [json.loads(run) for run in todo([5, 6, 7], left=[0, 2]).runs(replicas=1)]
    assert [
        [(named["fragment"]["index"], named["fragment"]["stop"], named["part"]) for named in run] for run in runs
    ] == [
        [(0, 5, "part-000000.parquet")],
        [(2, 7, "part-000002.parquet")],
    ]


def test_an_error_travels_as_its_own_class() -> None:
    with pytest.raises(errors.RowError, match="row 3"):
        pipeline._receipt({"error": "RowError", "message": "row 3 cannot be scored"})
