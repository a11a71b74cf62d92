"""What `make soak` draws."""

from __future__ import annotations

from collections import Counter

from tests.faults.kill_soak import WHOM, drawn


def test_kills_are_drawn_by_a_seed_as_many_of_each_kind() -> None:
    kills = drawn(30, seed=7)
    assert kills == drawn(30, seed=7) != drawn(30, seed=8)
    assert Counter(kill.whom for kill in kills) == dict.fromkeys(WHOM, 5)
    assert sum(kill.share == 0 for kill in kills) == 15, "half of them at a start"
