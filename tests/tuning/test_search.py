"""The search proposes every point at most once, goes on where it was cut off, and lets the default stay when in doubt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.records.tuning import Outcome, Point, Space
from optinfer.tuning.search import Search, budgets, layouts, preferred

SPACE = Space(("a", "b"), (512, 1024, 2048), ((2, 1), (1, 2)))
DEFAULT = Point("a", 1024, 2, 1)


def opened(folder: Path, space: Space = SPACE, **identity: Any) -> Search:
    return Search(folder / "study.log", identity, space, "maximize")


def speed(point: Point) -> float:
    return point.budget / 100 + (50 if point.variant == "b" else 0) + point.replicas


def work(search: Search, most: int) -> list[Point]:
    tried: list[Point] = []
    while len(tried) < most and (asked := search.ask()):
        handle, point = asked
        search.tell(handle, Outcome(point, speed(point)))
        tried.append(point)
    return tried


def test_every_point_is_tried_once_then_the_search_ends(tmp_path: Path) -> None:
    search = opened(tmp_path)
    tried = work(search, 100)
    assert sorted(tried) == sorted(SPACE.points)
    assert search.ask() is None
    assert search.best(1)[0].point == Point("b", 2048, 2, 1)


def test_the_first_points_come_first(tmp_path: Path) -> None:
    search = opened(tmp_path)
    first = [DEFAULT, Point("b", 512, 1, 2)]
    search.first(first)
    assert work(search, 2) == first


def test_a_search_that_was_cut_off_goes_on_and_repeats_only_the_trial_that_was_under_way(tmp_path: Path) -> None:
    before = opened(tmp_path)
    before.first([DEFAULT])
    tried = work(before, 3)
    assert (cut := before.ask())
    after = opened(tmp_path)
    after.first([DEFAULT])
    assert [outcome.point for outcome in after.outcomes] == tried
    rest = work(after, 100)
    assert rest[0] == cut[1]
    assert sorted(tried + rest) == sorted(SPACE.points)


def test_another_identity_or_space_is_another_search(tmp_path: Path) -> None:
    work(opened(tmp_path, rows="x"), 3)
    assert len(opened(tmp_path, rows="x").outcomes) == 3
    assert opened(tmp_path, rows="y").outcomes == []
    assert opened(tmp_path, Space(("a",), (512,), ((1, 1),)), rows="x").outcomes == []


def test_a_failed_trial_is_kept_with_its_reason_and_wins_nothing(tmp_path: Path) -> None:
    search = opened(tmp_path)
    handle, point = search.ask() or pytest.fail("there is a point")
    search.tell(handle, Outcome(point, reason="a replica's process was ended by SIGKILL"))
    assert search.outcomes == [Outcome(point, reason="a replica's process was ended by SIGKILL")]
    assert search.best(1) == []
    assert point not in work(search, 100)


def test_the_fastest_that_takes_too_much_memory_is_not_the_best(tmp_path: Path) -> None:
    search = opened(tmp_path)
    for value, excess in ((9.0, 100.0), (5.0, -10.0), (7.0, 0.0)):
        handle, point = search.ask() or pytest.fail("there is a point")
        search.tell(handle, Outcome(point, value, excess_mb=excess))
    assert [outcome.value for outcome in search.best(5)] == [7.0, 5.0]


def test_least_cost_comes_first_where_cost_is_minimized(tmp_path: Path) -> None:
    search = Search(tmp_path / "study.log", {}, SPACE, "minimize")
    for value in (3.0, 1.0, 2.0):
        handle, point = search.ask() or pytest.fail("there is a point")
        search.tell(handle, Outcome(point, value))
    assert [outcome.value for outcome in search.best(5)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("default", "rival", "winner"),
    [
        ([100, 101, 99], [120, 121, 119], "rival"),
        ([100, 101, 99], [101, 102, 100], "default"),
        ([100, 130, 90], [120, 121, 119], "default"),
        ([100, 101, 99], [120, 150, 80], "default"),
        ([100, 101, 99], [90, 91, 89], "default"),
    ],
    ids=["clearly faster", "within the spread", "noisy default", "noisy rival", "slower"],
)
def test_the_default_stays_unless_beaten_by_more_than_the_spread(
    default: list[float], rival: list[float], winner: str
) -> None:
    other = Point("b", 2048, 1, 2)
    order = preferred({DEFAULT: default, other: rival}, DEFAULT)
    assert order[0] == {"default": DEFAULT, "rival": other}[winner]
    assert set(order) == {DEFAULT, other}, "the rest follows, should the first not pass its gate"


def test_without_a_default_that_runs_the_fastest_wins() -> None:
    slow, fast = Point("b", 2048, 1, 2), Point("b", 512, 1, 2)
    assert preferred({slow: [5.0], fast: [6.0]}, DEFAULT) == [fast, slow]


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 8))
def test_budgets_hold_the_defaults_and_stay_around_them(defaults: list[int], below: int, above: int) -> None:
    found = budgets(defaults, below, above)
    assert set(defaults) <= set(found)
    assert list(found) == sorted(set(found))
    assert all(min(defaults) / below <= b <= max(defaults) * above for b in found)


def test_budgets_respect_the_models_own_limit() -> None:
    assert budgets([16], 4, 8, most=32) == (4, 6, 8, 12, 16, 24, 32)


@given(st.integers(1, 128))
def test_layouts_fit_the_cpus_and_use_all_of_them_somewhere(cpus: int) -> None:
    found = layouts(cpus, None, None, None)
    assert all(0 < replicas * threads <= cpus for replicas, threads in found)
    assert (cpus, 1) in found
    assert (1, cpus) in found


def test_layouts_keep_what_the_job_fixes() -> None:
    assert {threads for _, threads in layouts(8, None, None, 2)} == {2}
    assert {replicas for replicas, _ in layouts(8, 3, None, None)} == {3}
    assert layouts(8, 4, None, 2) == ((4, 2),)
    assert max(replicas for replicas, _ in layouts(8, None, 3, None)) == 3
