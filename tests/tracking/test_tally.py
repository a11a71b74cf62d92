"""The account of a run, and what must hold of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from optinfer.errors import AccountingError, QuarantineError
from optinfer.records.receipt import TakenOver
from optinfer.records.stats import Stats
from optinfer.tracking.tally import Tally
from tests.data.committing import receipt


def scored(rows: int, quarantined: int = 0, infer_seconds: float = 0.0) -> Stats:
    return Stats(rows_in=rows, rows_out=rows - quarantined, rows_quarantined=quarantined, infer_seconds=infer_seconds)


def test_rows_in_are_rows_scored_plus_rows_quarantined() -> None:
    tally = Tally(rows=20, error_threshold=5)
    tally.take_over([0], rows_in=10, rows_out=10, rows_quarantined=0)
    tally.add(receipt(1, scored(10, quarantined=2), {"text is null": 2}, time=1.0))
    tally.check_complete("out")
    assert (tally.total.rows_in, tally.total.rows_out, tally.total.rows_quarantined) == (20, 18, 2)
    assert tally.counted == 1


@pytest.mark.parametrize(
    "stats", [scored(9), Stats(rows_in=10, rows_out=9), Stats(rows_in=10, rows_out=10, rows_quarantined=1)]
)
def test_a_row_that_vanished_fails_the_job(stats: Stats) -> None:
    tally = Tally(rows=10, error_threshold=5)
    tally.add(receipt(0, stats, {}, time=1.0))
    with pytest.raises(AccountingError, match=r"10 rows planned.*out is left without _SUCCESS"):
        tally.check_complete("out")


def test_a_fragment_counts_once() -> None:
    tally = Tally(rows=20, error_threshold=5)
    tally.take_over([0], rows_in=10, rows_out=10, rows_quarantined=0)
    with pytest.raises(AccountingError, match="fragment 0 was counted twice"):
        tally.add(receipt(0, scored(10), {}, time=1.0))


@pytest.mark.parametrize(("threshold", "allowed"), [(0.01, 2), (0.5, 100), (7, 7), (0, 0), (1, 1)])
def test_a_threshold_below_one_is_a_share_and_from_one_on_a_count(threshold: float, allowed: int) -> None:
    tally = Tally(rows=200, error_threshold=threshold)
    tally.add(receipt(0, scored(150, quarantined=allowed), {"text is null": allowed}, time=1.0))
    tally.check_threshold("out/_quarantine")
    tally.add(receipt(1, scored(50, quarantined=1), {"too long": 1}, time=2.0))
    with pytest.raises(QuarantineError, match=f"{allowed + 1} rows are quarantined"):
        tally.check_threshold("out/_quarantine")


@pytest.mark.parametrize(("share", "rows", "allowed"), [(0.29, 100, 29), (0.58, 50, 29), (0.57, 100, 57)])
def test_a_share_allows_what_it_says_in_decimals(share: float, rows: int, allowed: int) -> None:
    assert share * rows < allowed, "as floats are multiplied"
    tally = Tally(rows=rows, error_threshold=share)
    tally.add(receipt(0, scored(rows, quarantined=allowed), {"text is null": allowed}, time=1.0))
    tally.check_threshold("out/_quarantine")


def test_too_many_quarantined_rows_name_the_commonest_reason_and_the_place() -> None:
    tally = Tally(rows=100, error_threshold=0)
    tally.add(receipt(0, scored(10, quarantined=4), {"text is null": 3, "odd": 1}, time=1.0))
    with pytest.raises(QuarantineError, match=r"see out/_quarantine\n  3 rows: text is null\n  1 rows: odd\n"):
        tally.check_threshold("out/_quarantine")


def test_steady_speed_adds_what_each_replica_did_after_its_first_fragment() -> None:
    tally = Tally(rows=1_000, error_threshold=0)
    for fragment, (replica, rows, time) in enumerate(
        [("1@a", 900, 100.0), ("1@a", 20, 104.0), ("1@a", 20, 108.0), ("2@b", 800, 103.0), ("2@b", 30, 106.0)]
    ):
        tally.add(receipt(fragment, scored(rows), {}, time, replica))
    assert tally.first_receipt == 100.0
    assert tally.steady_rows_per_second() == 40 / 8.0 + 30 / 3.0


def test_receipts_may_arrive_in_any_order() -> None:
    late, early = Tally(rows=200, error_threshold=0), Tally(rows=200, error_threshold=0)
    for fragment, time in ((0, 104.0), (1, 100.0)):
        late.add(receipt(fragment, scored(100), {}, time, "1@a"))
    for fragment, time in ((0, 100.0), (1, 104.0)):
        early.add(receipt(fragment, scored(100), {}, time, "1@a"))
    assert late.first_receipt == early.first_receipt == 100.0
    assert late.steady_rows_per_second() == early.steady_rows_per_second() == 25.0


def test_one_fragment_a_replica_tells_no_steady_speed() -> None:
    tally = Tally(rows=200, error_threshold=0)
    assert tally.steady_rows_per_second() is None
    tally.add(receipt(0, scored(100), {}, 1.0, "1@a"))
    tally.add(receipt(1, scored(100), {}, 2.0, "2@a"))
    assert tally.steady_rows_per_second() is None


def test_rows_are_counted_by_node() -> None:
    tally = Tally(rows=60, error_threshold=0)
    for fragment, replica in enumerate(("1@a", "2@a", "1@b/cafe")):
        tally.add(receipt(fragment, scored(20), {}, 1.0, replica))
    assert tally.rows_by_node() == {"a": 40, "b/cafe": 20}


def test_the_models_share_is_of_the_time_its_replicas_were_loaded() -> None:
    tally = Tally(rows=200, error_threshold=0)
    assert tally.model_share() is None
    tally.replicas = {"1@a": 90.0, "2@a": 100.0}
    tally.add(receipt(0, scored(100, infer_seconds=5.0), {}, 100.0, "1@a"))
    tally.add(receipt(1, scored(100, infer_seconds=10.0), {}, 110.0, "2@a"))
    assert tally.model_share() == 15.0 / (20.0 + 10.0)


def test_what_is_lost_and_scored_again_counts_once() -> None:
    tally = Tally(rows=30, error_threshold=5)
    tally.take_over([0], rows_in=10, rows_out=10, rows_quarantined=0)
    tally.add(receipt(1, scored(10, quarantined=2), {"odd": 2}, time=1.0))
    tally.add(receipt(2, scored(10), {}, time=2.0))
    tally.lose([0, 1], rows_in=20, rows_out=18, rows_quarantined=2)
    with pytest.raises(AccountingError):
        tally.check_complete("out")
    tally.add(receipt(0, scored(10), {}, time=3.0))
    tally.add(receipt(1, scored(10, quarantined=2), {"odd": 2}, time=4.0))
    tally.check_complete("out")
    assert (tally.counted, tally.scored_again, tally.reasons) == (3, 2, {"odd": 2})
    assert (tally.total.rows_out, tally.total.rows_quarantined, tally.scored.rows_in) == (28, 2, 40)


def test_what_others_had_begun_is_told_by_why_they_did_not_end() -> None:
    tally = Tally(rows=40, error_threshold=0)
    before = (
        None,
        TakenOver(why="left", rows=4, seconds=2.5),
        TakenOver(why="died"),
        TakenOver(why="left", rows=8, seconds=1.0),
    )
    for fragment, one in enumerate(before):
        tally.add(replace(receipt(fragment, scored(10), {}, time=1.0), taken_over=one))
    assert tally.taken_over == {
        "left": {"fragments": 2, "rows_scored_twice": 12, "seconds": 2.5},
        "died": {"fragments": 1},
    }
