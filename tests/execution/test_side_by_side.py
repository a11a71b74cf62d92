"""Work on several nodes at once: what comes of it does not depend on which of them was faster."""

from __future__ import annotations

import threading

import pytest

from optinfer.errors import GateError, OptinferError
from optinfer.execution.side_by_side import Lost, SideBySide

NODES = ["one", "two"]


def test_results_come_in_the_order_of_the_work_whoever_ends_first() -> None:
    later = threading.Event()
    ended: list[str] = []

    def work(node: str, item: str) -> str:
        if item == "a":  # the first ends last
            assert later.wait(60)
        ended.append(item)
        if len(ended) == 3:
            later.set()
        return item.upper()

    assert list(SideBySide("abcd", NODES, work).results()) == ["A", "B", "C", "D"]
    assert ended[-1] == "a"


def test_a_worker_has_one_item_at_a_time_and_all_of_them_work_at_once() -> None:
    both, busy, most = threading.Barrier(2), dict.fromkeys(NODES, 0), []

    def work(node: str, item: int) -> int:
        busy[node] += 1
        most.append(busy[node])
        if item < 2:
            both.wait(60)
        busy[node] -= 1
        return item

    assert list(SideBySide(range(8), NODES, work).results()) == list(range(8))
    assert set(most) == {1}


def test_what_a_lost_worker_had_is_done_by_another() -> None:
    given, lost = [], threading.Event()

    def work(node: str, item: str) -> str:
        if node == "one":
            lost.set()
            raise Lost("its node ended")
        assert lost.wait(60)
        given.append(item)
        return f"{item} by {node}"

    assert list(SideBySide("abc", NODES, work).results()) == ["a by two", "b by two", "c by two"]
    assert sorted(given) == ["a", "b", "c"]


@pytest.mark.parametrize("nodes", [2, 5])
def test_work_whose_workers_are_all_lost_ends_with_the_reason_and_spares_the_others(nodes: int) -> None:
    tried: list[int] = []

    def work(node: int, item: str) -> str:
        tried.append(node)
        raise Lost("its node ended")

    with pytest.raises(OptinferError, match="lived long enough: its node ended"):
        list(SideBySide(["deadly"], range(nodes), work).results())
    assert len(tried) == min(nodes, 3)


def test_an_error_is_raised_where_its_result_would_have_come() -> None:
    def work(node: str, item: str) -> str:
        if item == "b":
            raise GateError("the baseline is another model")
        return item

    found = SideBySide("abc", NODES, work).results()
    assert next(found) == "a"
    with pytest.raises(GateError, match="the baseline is another model"):
        next(found)
