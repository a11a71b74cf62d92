"""Intervals of an experiment: right at one look as scipy and statsmodels say, and right at thirty as simulation does."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from optinfer.monitoring import arms

DRAWS, NIGHTS, A_NIGHT = 500, 30, 100


def outcomes(share: float, keys: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(keys) < share).astype(float)


def test_one_look_is_what_statsmodels_says() -> None:
    control, arm = outcomes(0.3, 700, 1), outcomes(0.35, 500, 2)
    found = arms.at_one_look(control, arm)
    theirs = CompareMeans(DescrStatsW(arm), DescrStatsW(control))
    assert found.p_value == pytest.approx(theirs.ttest_ind(usevar="unequal")[1])
    assert (found.low, found.high) == pytest.approx(theirs.tconfint_diff(usevar="unequal"))


@pytest.mark.parametrize(("share", "planned"), [(0.1, 6000), (0.5, 6000), (0.1, 1000)])
def test_who_looks_for_thirty_nights_is_misled_by_one_interval_and_not_by_the_sequence(
    share: float, planned: int
) -> None:
    """No arm differs; whoever finds that one does, on any night, is wrong."""
    wrong = {"one look": 0, "every look": 0}
    for draw in range(DRAWS):
        control, arm = (outcomes(share, NIGHTS * A_NIGHT, 2 * draw + side) for side in (0, 1))
        looks = [(control[: night * A_NIGHT], arm[: night * A_NIGHT]) for night in range(1, NIGHTS + 1)]
        every = [arms.at_every_look(*look, planned=planned) for look in looks]
        wrong["every look"] += any(found.low > 0 or found.high < 0 for found in every)
        wrong["one look"] += any(abs(z(*look)) > 1.96 for look in looks)
    assert wrong["one look"] / DRAWS > 0.2
    assert wrong["every look"] / DRAWS <= 0.05


def z(control: np.ndarray, arm: np.ndarray) -> float:
    """Return what Welch's interval is made of; scipy's own takes ten times as long."""
    return float((arm.mean() - control.mean()) / np.sqrt(arm.var() / len(arm) + control.var() / len(control)))


@pytest.mark.parametrize("keys", [200, 2000])
def test_unequal_arms_and_skewed_outcomes_are_covered_at_every_look(keys: int) -> None:
    """A tenth of the keys are the arm's, outcomes are amounts of money; the truth lies inside on all nights."""
    held = 0
    for draw in range(DRAWS):
        random = np.random.default_rng(draw)
        control, arm = random.exponential(10, 9 * keys), random.exponential(12, keys)
        nights = np.linspace(keys // 4, keys, 10).astype(int)
        found = [arms.at_every_look(control[: 9 * night], arm[:night], planned=5000) for night in nights]
        held += all(one.low < 2 < one.high for one in found)
    assert held / DRAWS >= 0.95


def test_a_planned_effect_is_found_and_the_interval_is_narrowest_where_it_was_planned() -> None:
    control, arm = outcomes(0.30, 10_000, 1), outcomes(0.36, 10_000, 2)
    found = arms.at_every_look(control, arm, planned=20_000)
    assert 0 < found.low < 0.06 < found.high
    widths = {planned: arms.at_every_look(control, arm, planned).high - found.value for planned in (200, 20_000, 10**7)}
    assert min(widths, key=widths.__getitem__) == 20_000


@pytest.mark.parametrize(("control", "arm"), [([], []), ([1.0] * 49, [0.0] * 500)])
def test_few_keys_tell_nothing(control: list[float], arm: list[float]) -> None:
    with np.errstate(all="ignore"):
        found = arms.at_every_look(np.array([*control, 0.0]), np.array([*arm, 0.0]), planned=1000)
    assert (found.low, found.high) == ((-np.inf, np.inf) if len(arm) < 49 else (found.low, found.high))


def test_arms_of_other_sizes_than_were_dealt_are_told() -> None:
    shares = {"control": 0.5, "new": 0.5}
    assert arms.misdealt({"control": 5050, "new": 4950}, shares) is None
    assert arms.misdealt({"control": 5300, "new": 4700}, shares) == pytest.approx(1.97e-9, rel=0.01)
    assert arms.misdealt({"control": 3, "new": 0}, shares) is None
