"""Arithmetic of the raw loop and of the worker loop; no model runs."""

import numpy as np
import pyarrow as pa
import pytest
from contestants.raw_loop import dealt, distinct, spread
from contestants.worker_loop import GpuMeter, gpus, mean_percentage


def test_shares_weigh_the_same_and_hold_every_row_once():
    sizes = np.array([1, 9, 5, 8, 2, 6])
    shares = dealt(sizes, 2)
    assert sorted(np.concatenate(shares)) == list(range(6))
    assert [share.tolist() for share in shares] == [[1, 4, 5], [0, 2, 3]]


def test_the_first_of_equal_inputs_stands_in_for_all():
    assert distinct(pa.table({"text": ["b", "a", "b", None, None]})).tolist() == [0, 1, 0, 3, 3]
    assert distinct(pa.table({"image": pa.array([b"x", b"x"], pa.binary())})).tolist() == [0, 0]


def test_numbers_and_several_columns_are_not_compared():
    assert distinct(pa.table({"x": [1, 1]})).tolist() == [0, 1]
    assert distinct(pa.table({"x": ["a", "a"], "y": ["b", "c"]})).tolist() == [0, 1]


def test_answers_reach_all_rows_they_stand_for_and_rejected_rows_have_none():
    stands_in = np.array([0, 1, 0, 3, 1])
    rows, answers = spread(np.array([3, 0]), stands_in)
    assert rows.tolist() == [0, 2, 3]
    assert answers.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("replicas", "share", "seen"),
    [(2, 0.0, [None, None]), (2, 1.0, ["0", "1"]), (4, 0.5, ["0", "0", "1", "1"]), (2, 2.0, ["0,1", "2,3"])],
)
def test_each_replica_sees_its_share_of_the_gpus(replicas, share, seen):
    assert gpus(replicas, share) == seen


def test_utilization_is_the_mean_of_the_numbers():
    assert mean_percentage(["90", "[N/A]", "100"]) == 95
    assert mean_percentage([]) is None


def test_nothing_is_asked_on_cpus():
    with GpuMeter(wanted=False) as meter:
        meter.start()
    assert meter.utilization() is None
