"""Arithmetic of the simulation: jobs small enough to follow by hand."""

from dataclasses import replace

import numpy as np
import pytest
from simulation import LIMITS, Job, equal, over, plan, play, requests, simulate, sweep
from simulation_costs import Costs, known

FREE = Costs(block_seconds=0, receipt_seconds=0)
STEADY = Job(rows=1000, replicas=1, speed=10, spread=0, wanted_rows=10, actors_per_second=1e9, load_seconds=5)
TENS = np.full(100, 10)


def singles(count):
    return ((i, i + 1) for i in range(count))


def test_one_replica_scores_one_fragment_after_another():
    trace = play(STEADY, FREE, TENS, singles(100))
    assert trace.ended == pytest.approx(5 + 100)
    assert trace.busy == pytest.approx(100)
    assert trace.shares()["idle_share"] == pytest.approx(0)


def test_replicas_share_the_work():
    trace = play(replace(STEADY, replicas=4), FREE, TENS, singles(100))
    assert trace.ended == pytest.approx(5 + 25)


def test_a_replica_without_a_run_waits_for_the_others():
    trace = play(replace(STEADY, replicas=2), FREE, TENS[:3], [(0, 1), (1, 2), (2, 3)])
    assert trace.shares()["tail_share"] == pytest.approx(1 / 4)


def test_a_long_last_run_keeps_the_others_waiting():
    job = replace(STEADY, replicas=2)
    grouped = play(job, FREE, TENS[:12], [(0, 1), (1, 2), (2, 12)])
    alone = play(job, FREE, TENS[:12], singles(12))
    assert grouped.ended > alone.ended
    assert grouped.shares()["tail_share"] > alone.shares()["tail_share"]


def test_the_driver_hands_out_and_counts_one_after_another():
    costs = Costs(block_seconds=0.5, receipt_seconds=0.25)
    trace = play(STEADY, costs, TENS[:8], [(0, 4), (4, 8)])
    assert trace.driver == pytest.approx(2 * 0.5 + 8 * 0.25)


def test_what_the_driver_cannot_keep_up_with_is_waited_for():
    job = replace(STEADY, replicas=10, speed=1000)
    trace = play(job, Costs(block_seconds=1, receipt_seconds=0), TENS, singles(100))
    assert trace.ended >= 100
    assert trace.shares()["waiting_share"] > 0.9


def test_the_same_seed_gives_the_same_answer():
    job = replace(STEADY, rows=100_000, replicas=7, spread=0.2)
    assert simulate(job, Costs()) == simulate(job, Costs())
    assert simulate(job, Costs()).seconds != simulate(replace(job, seed=8), Costs()).seconds


def test_the_table_is_cut_by_the_real_rule():
    cut = plan(Job(rows=10_000_000, wanted_rows=1024, file_rows=4_000_000, group_rows=1_000_000)).fragments
    sizes = cut.stop - cut.start
    assert sizes.sum() == 10_000_000
    assert len(cut.paths) == 3
    assert sizes.max() <= 1024


def test_a_huge_table_has_larger_fragments_and_not_more():
    small, large = (simulate(Job(rows=rows, replicas=10), FREE) for rows in (200_000_000, 2_000_000_000))
    assert large.fragments < 1.5 * small.fragments
    assert large.rows_a_fragment > 5 * small.rows_a_fragment


def test_runs_that_get_shorter_shorten_the_tail():
    job = Job(rows=2_000_000_000, replicas=500)
    now, before = simulate(job, FREE), simulate(job, FREE, equal_runs=True)
    assert now.tail_share < before.tail_share / 2


def test_equal_runs_cover_every_fragment_once():
    spans = list(equal(40_000))
    assert [first for first, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == 40_000


def test_requests_are_those_of_fragments_accounts_and_listings():
    counted = requests(1000, bytes_in=1e6, bytes_out=1e6, costs=Costs(puts=2, gets=3))
    assert counted["puts"] == 1000 * 2 + 2 + 3
    assert counted["gets"] == 1000 * 3 + 2
    assert counted["dollars"] == pytest.approx((counted["puts"] * 5e-3 + counted["gets"] * 4e-4) / 1000)


def test_a_large_part_is_put_in_pieces():
    one, many = (requests(1, 0, size, Costs(puts=2)) for size in (99 * 2**20, 101 * 2**20))
    assert many["puts"] - one["puts"] == pytest.approx(3 + 1)


def test_limits_name_the_furthest_first():
    result = replace(
        simulate(replace(STEADY, rows=10_000), FREE), driver_share=1.0, driver_bytes=80e9, waiting_share=0, tail_share=0
    )
    assert [line.split()[0] for line in over(result)] == ["driver_bytes", "driver_share"]
    assert set(LIMITS) >= {"driver_bytes", "driver_share"}


def test_a_sweep_ends_with_the_first_job_over_a_limit():
    slow = Costs(block_seconds=1.0)
    tried = sweep((replace(STEADY, rows=10_000, speed=1e6, replicas=n) for n in (1, 2, 4)), slow, until_over=True)
    assert len(tried) == 1
    assert tried[0]["over"]


def test_measured_costs_replace_the_defaults():
    assert known({"block_seconds": 0.1, "s3_commit_seconds": 3.0}) == replace(Costs(), block_seconds=0.1)
