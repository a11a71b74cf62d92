"""A replica that refuses its node ends that node's part in a job, not the job."""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.errors import LoadError, UnfitNodeError
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from optinfer.records.receipt import Receipt
from tests.conftest import MakeJob, WriteTable, read_rows

pytestmark = pytest.mark.usefixtures("fake_variant")

WHY = "node other does not score with fake: it was certified on another CPU"
ROWS = 96


class Refusing(InProcess):
    """A cluster with a node that is refused by a replica which has fragments at hand, once one is committed.

    Args:
        late: the node was not there when the job looked at its nodes; else it is one of them.
        others: there is another one.
        told: the refusal is known to those who place the next replicas.
    """

    growing = True

    def __init__(self, late: bool = True, others: bool = True, told: bool = True) -> None:
        super().__init__([Node(cpus=1, name="first")] * others + [Node(cpus=1, name="other")] * (not late))
        self._told, self._refused, self._news = told, False, list[str]()
        self.streams: list[int] = []

    def nodes(self, pools: Sequence[Any] = ()) -> list[Node]:
        refused = {"other"} if self._refused else set()
        return [replace(one, unfit=WHY if one.name in refused else "") for one in super().nodes()]

    def stream(self, task: Any, placements: Any, todo: Any) -> Generator[Receipt, None, None]:
        self.streams.append(len(todo))
        scored = super().stream(task, placements, todo)
        if self._refused:
            yield from scored
            return
        yield from itertools.islice(scored, 1)
        self._refused, self._news = self._told, [WHY] * self._told
        raise UnfitNodeError(WHY)

    def refusals(self) -> list[str]:
        news, self._news = self._news, []
        return news


@pytest.fixture
def job(make_job: MakeJob, write_table: WriteTable, tmp_path: Path, sink: Path) -> Any:
    return make_job(write_table(tmp_path / "table.parquet", rows=ROWS), sink, source__fragment_rows=16)


@pytest.mark.parametrize("late", [True, False], ids=["a node that came late", "a node that was there"])
def test_the_others_go_on_with_what_is_left(job: Any, tmp_path: Path, sink: Path, late: bool) -> None:
    executor = Refusing(late)
    record = optinfer.run(job, executor=executor)
    assert executor.streams == [6, 5]
    assert (record.status, record.rows_out) == ("done", ROWS)
    assert [row["id"] for row in read_rows(sink)] == pq.read_table(tmp_path / "table.parquet")["id"].to_pylist()
    assert json.loads((sink / "_manifest.json").read_text())["warnings"] == [f"left out: {WHY}"]


def test_a_job_ends_where_no_node_is_left(job: Any) -> None:
    with pytest.raises(LoadError, match="certified on another CPU"):
        optinfer.run(job, executor=Refusing(late=False, others=False))


def test_a_refusal_that_nobody_would_heed_ends_the_job(job: Any) -> None:
    executor = Refusing(told=False)
    with pytest.raises(UnfitNodeError, match="certified on another CPU"):
        optinfer.run(job, executor=executor)
    assert executor.streams == [6]
