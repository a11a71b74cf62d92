"""The verdict is about the lower bound of the mean, and says by how much a variant fails."""

from __future__ import annotations

import numpy as np
import pytest

from optinfer.config import GateConfig
from optinfer.errors import ConfigError
from optinfer.optimization.gate import cosine, judge, measure, metric_of

RNG = np.random.default_rng(7)
BASE = {"v": RNG.normal(size=(200, 16)).astype(np.float32)}


def test_equal_outputs_have_cosine_one_and_pass() -> None:
    fidelity = measure("cosine", BASE, BASE)
    assert fidelity.value == pytest.approx(1.0)
    assert judge(GateConfig(min=0.999), fidelity, True, False).passed


def test_cosine_of_zero_vectors_is_one_only_where_both_are_zero() -> None:
    zero, one = np.zeros((1, 4)), np.ones((1, 4))
    assert cosine({"v": zero}, {"v": zero}).tolist() == [1.0]
    assert cosine({"v": zero}, {"v": one}).tolist() == [0.0]


def test_a_row_without_an_answer_agrees_with_nothing() -> None:
    missing = {"v": BASE["v"].copy()}
    missing["v"][3] = np.nan
    assert measure("cosine", BASE, missing).worst == 0.0


def test_the_interval_holds_the_mean_and_widens_with_fewer_rows() -> None:
    noisy = {"v": BASE["v"] + RNG.normal(scale=0.3, size=BASE["v"].shape)}
    many = measure("cosine", BASE, noisy)
    few = measure("cosine", {"v": BASE["v"][:10]}, {"v": noisy["v"][:10]})
    assert many.ci_low < many.value < many.ci_high
    assert few.ci_high - few.ci_low > many.ci_high - many.ci_low


def test_the_gate_judges_the_lower_bound_and_says_by_how_much_it_is_missed() -> None:
    noisy = {"v": BASE["v"] + RNG.normal(scale=0.3, size=BASE["v"].shape)}
    fidelity = measure("cosine", BASE, noisy)
    verdict = judge(GateConfig(min=(fidelity.ci_low + fidelity.value) / 2), fidelity, True, False)
    assert not verdict.passed
    assert f"{verdict.threshold - fidelity.ci_low:.5f} below" in verdict.reason


def test_a_variant_that_depends_on_the_batch_is_refused_only_where_asked() -> None:
    fidelity = measure("cosine", BASE, BASE)
    assert judge(GateConfig(), fidelity, False, False).passed
    assert not judge(GateConfig(), fidelity, False, True).passed


def test_an_unknown_metric_names_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        metric_of(GateConfig(metric="cosin"), ("cosine",))
