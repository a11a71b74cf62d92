"""The soak of kills, in small: what `make soak` does at length, and for replicas alone on a job of a minute."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.faults.kill_soak import WHOM, drawn, soak


def test_kills_are_drawn_by_a_seed_as_many_of_each_kind() -> None:
    kills = drawn(30, seed=7)
    assert kills == drawn(30, seed=7) != drawn(30, seed=8)
    assert Counter(kill.whom for kill in kills) == dict.fromkeys(WHOM, 5)
    assert sum(kill.share == 0 for kill in kills) == 15, "half of them at a start"


@pytest.mark.cluster
def test_replicas_that_are_killed_on_a_failing_s3_are_replaced_and_no_row_is_lost_or_doubled(tmp_path: Path) -> None:
    record = soak(tmp_path, rows=3000, kills=drawn(4, seed=2, whom=("replica",)), faults=0.05, seed=2)
    assert record.wrong == []
    assert [kill.whom for kill in record.kills] == ["replica"] * 4
    assert (record.commands, record.faults > 0) == (1, True)
