"""Intervals hold what they promise: by simulation, and against statsmodels and likelihoods maximised by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from optinfer.monitoring import paired
from optinfer.monitoring.verdict import decide

DRAWS = 2000
# (share that the challenger alone has right, share that the champion alone has right)
DISCORDANT = {
    "rare": (0.01, 0.02),
    "rare, equal": (0.02, 0.02),
    "common": (0.10, 0.15),
    "common, equal": (0.05, 0.05),
    "hardly correlated": (0.30, 0.25),
    "one way": (0.00, 0.05),
}


@pytest.mark.parametrize("rows", [100, 500, 5000])
@pytest.mark.parametrize("kind", DISCORDANT)
def test_a_95_percent_interval_of_shares_holds_the_truth_in_95_of_100(kind: str, rows: int) -> None:
    won, lost = DISCORDANT[kind]
    drawn = np.random.default_rng(rows).multinomial(rows, [won, lost, 1 - won - lost], size=DRAWS)
    low, high = paired.tango(drawn[:, 0], drawn[:, 1], rows)
    covered = float(((low <= won - lost) & (won - lost <= high)).mean())
    # Where five rows or fewer differ, counts are too coarse for any interval to come nearer from above.
    assert 0.93 <= covered <= (0.97 if rows * (won + lost) > 5 else 0.99)


@pytest.mark.parametrize("rows", [100, 500, 5000])
@pytest.mark.parametrize("kind", ["rare, equal", "common, equal", "hardly correlated"])
def test_not_worse_is_said_wrongly_in_at_most_5_of_100(kind: str, rows: int) -> None:
    """The truth lies at the margin: whoever says `not worse` there is wrong."""
    margin = 0.02
    lost = DISCORDANT[kind][1] + margin
    won = lost - margin
    drawn = np.random.default_rng(rows).multinomial(rows, [won, lost, 1 - won - lost], size=DRAWS)
    low, high = paired.tango(drawn[:, 0], drawn[:, 1], rows)
    values = (drawn[:, 0] - drawn[:, 1]) / rows
    verdicts = [
        decide(paired.Difference(value, a, b, 0.95), rows, margin).verdict
        for value, a, b in zip(values, low, high, strict=True)
    ]
    assert np.isin(verdicts, ["not worse", "better"]).mean() <= 0.05
    assert np.mean(np.array(verdicts) == "worse") <= 0.05


@pytest.mark.parametrize(("won", "lost", "rows"), [(12, 2, 50), (3, 9, 100), (1, 0, 30), (0, 5, 40), (0, 0, 25)])
def test_the_ends_are_where_the_likeliest_shares_lie_so_many_standard_errors_away(
    won: int, lost: int, rows: int
) -> None:
    def statistic(difference: float) -> float:
        def unlikely(q: float) -> float:
            shares = ((won, q + difference), (lost, q), (rows - won - lost, 1 - 2 * q - difference))
            return -sum(count * np.log(share) for count, share in shares if count)

        lower, upper = max(0.0, -difference) + 1e-13, (1 - difference) / 2 - 1e-13
        q = minimize_scalar(unlikely, bounds=(lower, upper), method="bounded", options={"xatol": 1e-14}).x
        return float((won - lost - rows * difference) / np.sqrt(rows * (2 * q + difference * (1 - difference))))

    low, high = paired.tango(np.array(won), np.array(lost), rows)
    assert statistic(float(low)) == pytest.approx(1.959964, abs=1e-3)
    assert statistic(float(high)) == pytest.approx(-1.959964, abs=1e-3)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_that_of_statsmodels(won: int, lost: int) -> None:
    theirs = their_mcnemar([[50, lost], [won, 50]], exact=True).pvalue if won + lost else 1.0
    assert paired.mcnemar(won, lost) == pytest.approx(min(float(theirs), 1.0))


@pytest.mark.parametrize("p_values", [[0.2], [0.01, 0.04, 0.03, 0.5], [0.0, 0.0, 1.0], [0.05] * 9, [0.9, 0.001]])
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert paired.holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


@given(st.integers(1, 500), st.data())
def test_wilson_is_that_of_statsmodels(rows: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, rows))
    found = paired.share(right, rows)
    assert (found.low, found.high) == pytest.approx(proportion_confint(right, rows, method="wilson"), abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 500))
def test_who_is_champion_only_turns_the_sign(won: int, lost: int, agree: int) -> None:
    rows = won + lost + agree + 1
    low, high = paired.tango(np.array(won), np.array(lost), rows)
    turned_low, turned_high = paired.tango(np.array(lost), np.array(won), rows)
    assert (float(low), float(high)) == pytest.approx((-float(turned_high), -float(turned_low)), abs=1e-9)
    assert low <= (won - lost) / rows <= high


def test_any_metric_has_an_interval_that_holds_it_in_95_of_100() -> None:
    rows, draws = 60, 150
    covered = 0
    for seed in range(draws):
        drawn = np.random.default_rng(seed)
        hard = drawn.exponential(size=rows)
        ours, theirs = hard + drawn.exponential(size=rows), hard + drawn.exponential(size=rows) * 1.5
        found = paired.of_a_metric(lambda at, a=ours, b=theirs: (a[at].mean(), b[at].mean()), rows)  # type: ignore[misc]
        covered += found.low <= 0.5 <= found.high
    # Three standard errors of a share of 150.
    assert covered / draws > 0.95 - 3 * (0.95 * 0.05 / draws) ** 0.5


def test_two_that_never_differ_have_an_interval_of_no_width() -> None:
    found = paired.of_a_metric(lambda rows: (0.5, 0.5), 20)
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.02, 0.001, 0.04), "better"),
        ((0.00, -0.009, 0.01), "not worse"),
        ((-0.005, -0.009, -0.001), "not worse"),
        ((-0.05, -0.08, -0.011), "worse"),
        ((-0.01, -0.02, 0.0), "cannot tell"),
        ((0.05, -0.02, 0.12), "cannot tell"),
    ],
)
def test_an_interval_decides_against_the_margin(interval: tuple[float, float, float], verdict: str) -> None:
    assert decide(paired.Difference(interval[0], interval[1], interval[2], 0.95), 100, 0.01).verdict == verdict


def test_as_many_rows_more_as_it_says_do_tell() -> None:
    won, lost, rows, margin = 12, 10, 300, 0.01
    first = paired.tango(np.array(won), np.array(lost), rows)
    decision = decide(paired.Difference((won - lost) / rows, float(first[0]), float(first[1]), 0.95), rows, margin)
    assert decision.verdict == "cannot tell"
    assert decision.more_rows is not None
    times = 1 + decision.more_rows / rows
    for factor, verdict in ((times * 1.1, "not worse"), (times * 0.7, "cannot tell")):
        a, b, n = (round(count * factor) for count in (won, lost, rows))
        low, high = paired.tango(np.array(a), np.array(b), n)
        assert decide(paired.Difference((a - b) / n, float(low), float(high), 0.95), n, margin).verdict == verdict


def test_a_difference_that_lies_on_the_margin_is_told_by_no_number_of_rows() -> None:
    decision = decide(paired.Difference(-0.01, -0.03, 0.01, 0.95), 100, 0.01)
    assert (decision.verdict, decision.more_rows) == ("cannot tell", None)
