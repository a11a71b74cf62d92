"""How the fragments that are left are dealt: in runs, every one once."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from optinfer.data.fragments import Fragments, Plan
from optinfer.execution.pipeline import Todo


def todo(fragments: int, rows: int = 10) -> Todo:
    start = np.arange(fragments, dtype=np.int64) * rows
    cuts = Fragments(("table.parquet",), ((),), np.zeros(fragments, dtype=np.int64), start, start + rows)
    return Todo(Plan(files=(), fragments=cuts, schema=pa.schema([])), np.arange(fragments))


def lengths(fragments: int, replicas: int) -> list[int]:
    return [stop - first for first, stop in todo(fragments).spans(replicas)]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 50_000), st.integers(1, 2_000))
def test_every_fragment_is_in_one_run(fragments: int, replicas: int) -> None:
    spans = list(todo(fragments).spans(replicas))
    edges = [0, *(stop for _, stop in spans)]
    assert [first for first, _ in spans] == edges[:-1]
    assert edges[-1] == fragments
    assert all(stop > first for first, stop in spans)


def test_few_fragments_are_dealt_one_by_one() -> None:
    assert lengths(16_384, replicas=4) == [1] * 16_384


def test_very_many_fragments_are_dealt_in_runs() -> None:
    dealt = lengths(200_000, replicas=4)
    assert max(dealt) == 13
    assert len(dealt) < 17_000


def test_the_first_runs_are_short_so_that_receipts_come_soon() -> None:
    assert lengths(200_000, replicas=4)[:8] == [1] * 8


def test_the_last_runs_are_short_so_that_replicas_finish_together() -> None:
    dealt = lengths(200_000, replicas=100)
    assert dealt[-200:] == [1] * 200
    assert sorted(dealt[-1000:], reverse=True) == dealt[-1000:]


def test_a_run_names_its_fragments_and_their_parts() -> None:
    (run,) = list(todo(1).runs(replicas=1))
    (named,) = json.loads(run)
    assert named["part"] == "part-000000.parquet"
    assert (named["fragment"]["path"], named["fragment"]["stop"]) == ("table.parquet", 10)
