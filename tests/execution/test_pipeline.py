"""How fragments are handed out: alone while they are few, in runs where they are very many."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer import errors
from optinfer.data.fragments import Plan
from optinfer.execution import pipeline
from optinfer.execution.scorer import receipts
from optinfer.execution.todo import Todo
from optinfer.records.placement import Placement
from tests.conftest import fragments


def todo(rows: list[int], left: list[int] | None = None) -> Todo:
    plan = Plan(files=(), fragments=fragments(*[(0, n) for n in rows]), schema=pa.schema([]))
    return Todo(plan, np.array(range(len(rows)) if left is None else left, dtype=np.int64))


def spans(rows: list[int], replicas: int, most_blocks: int) -> list[tuple[int, int]]:
    return list(replace(todo(rows), most_blocks=most_blocks).spans(replicas))


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
        list(receipts({"receipts": json.dumps([{"error": "RowError", "message": "row 3 cannot be scored"}])}))


def placement(device: str, replicas: int, gpus: float, **more: Any) -> Placement:
    return Placement(device, replicas, replicas, 2, 2.0, gpus, (), **more)


def test_every_actor_of_one_variant_is_started_with_the_same() -> None:
    args = pipeline._remote_args([placement("cuda", 2, 1.0, resources={"jetson": 1.0}, accelerator_type="H100")], dict)
    first, second = args(), args()
    assert first == second
    assert (first["resources"], first["accelerator_type"]) == ({"jetson": 1.0}, "H100")
    assert not {"num_cpus", "num_gpus", "scheduling_strategy"} & set(first), "the map has them"


def test_actors_are_kept_away_from_nodes_that_are_refused_meanwhile() -> None:
    refused: dict[str, str] = {}
    args = pipeline._remote_args([placement("cpu", 2, 0.0)], lambda: refused)
    assert "label_selector" not in args()
    refused["b" * 56] = "its CPU has no VNNI"
    assert args()["label_selector"] == {"ray.io/node-id": f"!in({'b' * 56})"}


def test_actors_of_two_variants_get_what_their_kind_takes_and_the_second_stay_on_their_nodes() -> None:
    nodes = {"a" * 56: 2, "b" * 56: 1}
    beside = placement("cpu", 3, 0.0, resources={"rack": 1.0}, pinned=nodes)
    args = pipeline._remote_args([placement("cuda", 2, 0.5, accelerator_type="H100"), beside], dict)
    first, second = [args() for _ in range(2)], [args() for _ in range(3)]
    assert [(a["num_cpus"], a["num_gpus"], a["accelerator_type"]) for a in first] == [(2.0, 0.5, "H100")] * 2
    assert all("scheduling_strategy" not in a for a in first)
    assert [(a["num_cpus"], a.get("num_gpus"), a.get("accelerator_type")) for a in second] == [(2.0, None, None)] * 3
    assert [a["resources"] for a in second] == [{"rack": 1.0}] * 3
    pinned = [a["scheduling_strategy"] for a in second]
    assert [(p.node_id[0], p.soft) for p in pinned] == [("a", True), ("a", True), ("b", True)]
    assert len({a["max_restarts"] for a in first + second}) == 1
