"""The verdict is about the lower bound of a metric, and says by how much a variant fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score, r2_score

from optinfer.config import GateConfig
from optinfer.errors import ConfigError, GateError
from optinfer.families import as_answers
from optinfer.optimization.gate import (
    Truth,
    against_labels,
    cosine,
    judge,
    measure,
    metric_of,
    same_answers,
    top1_agreement,
    truth_of,
)

RNG = np.random.default_rng(7)
BASE = {"v": RNG.normal(size=(200, 16)).astype(np.float32)}
NOISY = {"v": (BASE["v"] + RNG.normal(scale=0.3, size=BASE["v"].shape)).astype(np.float32)}
CLASSES = np.array([f"class {i}" for i in range(16)], dtype=object)


def truth(labels: Any) -> Truth:
    return Truth(np.asarray(labels), lambda outputs: CLASSES[outputs["v"].argmax(axis=1)])


def test_equal_outputs_have_cosine_one_and_pass() -> None:
    fidelity = measure("cosine", BASE, BASE)
    assert fidelity.value == pytest.approx(1.0)
    assert judge(GateConfig(min=0.999), fidelity, True, False).passed


def test_cosine_of_zero_vectors_is_one_only_where_both_are_zero() -> None:
    zero, one = np.zeros((1, 4)), np.ones((1, 4))
    assert cosine({"v": zero}, {"v": zero}).tolist() == [1.0]
    assert cosine({"v": zero}, {"v": one}).tolist() == [0.0]


def test_cosine_refuses_one_number_a_row_which_has_no_direction() -> None:
    with pytest.raises(ConfigError, match="use r2"):
        cosine({"v": np.ones(3)}, {"v": np.ones(3)})


@pytest.mark.parametrize("metric", ["cosine", "top1_agreement"])
def test_a_row_without_an_answer_agrees_with_nothing(metric: str) -> None:
    missing = {"v": BASE["v"].copy()}
    missing["v"][3] = np.nan
    assert measure(metric, BASE, missing).worst == 0.0


def test_same_answers_is_the_share_of_rows_with_the_same_set_of_labels() -> None:
    """Whatever the metric of the best one says: a second label that is lost makes another answer."""

    def labels(outputs: Any) -> Any:
        return as_answers([CLASSES[row] for row in outputs["v"] > 0.5])

    other = {"v": BASE["v"].copy()}
    first = BASE["v"].argmax(axis=1)
    second = np.argsort(BASE["v"], axis=1)[:, -2]
    lost = np.flatnonzero(BASE["v"][np.arange(200), second] > 0.5)[:50]
    other["v"][lost, second[lost]] = -1
    assert measure("top1_agreement", BASE, other).value == 1.0
    assert (other["v"].argmax(axis=1) == first).all()
    fidelity = measure("same_answers", BASE, other, Truth(labels(BASE), labels))
    assert (fidelity.value, fidelity.baseline, fidelity.worst) == (0.75, 1.0, 0.0)


def test_a_list_column_is_a_set_of_labels_in_any_order() -> None:
    column = pa.chunked_array([pa.array([["b", "a"], [], ["a", "a"], ["c"]])])
    answers = as_answers([["a", "b"], [], ["a"], ["c", "d"]])
    assert same_answers(answers, truth_of(column)).tolist() == [True, True, True, False]
    with pytest.raises(ConfigError, match="f1_macro takes one label a row, here are lists; use accuracy"):
        against_labels("f1_macro", answers, answers, truth_of(column))


def test_a_row_without_an_answer_is_no_right_answer() -> None:
    missing = {"v": BASE["v"].copy()}
    missing["v"][:100] = np.nan
    labels = CLASSES[BASE["v"].argmax(axis=1)]
    assert measure("accuracy", BASE, missing, truth(labels)).value == 0.5


def test_top1_agreement_is_the_share_of_rows_with_the_same_best_class() -> None:
    other = {"v": BASE["v"].copy()}
    other["v"][:50] *= -1
    assert measure("top1_agreement", BASE, other).value == pytest.approx(0.75)
    assert top1_agreement({"v": np.array([1, 2, 3])}, {"v": np.array([1, 2, 4])}).tolist() == [1, 1, 0]


def test_r2_is_that_of_scikit_learn() -> None:
    expected = r2_score(BASE["v"][:, 0], NOISY["v"][:, 0])
    fidelity = measure("r2", {"v": BASE["v"][:, 0]}, {"v": NOISY["v"][:, 0]})
    assert fidelity.value == pytest.approx(expected, abs=1e-6)
    assert fidelity.ci_low < fidelity.value < fidelity.ci_high


def test_the_interval_holds_the_mean_and_widens_with_fewer_rows() -> None:
    many = measure("cosine", BASE, NOISY)
    few = measure("cosine", {"v": BASE["v"][:10]}, {"v": NOISY["v"][:10]})
    assert many.ci_low < many.value < many.ci_high
    assert few.ci_high - few.ci_low > many.ci_high - many.ci_low


def test_labels_judge_the_baseline_and_the_candidate_alike() -> None:
    labels = CLASSES[BASE["v"].argmax(axis=1)].copy()
    labels[:20] = "another class"
    fidelity = measure("accuracy", BASE, NOISY, truth(labels))
    assert fidelity.baseline == pytest.approx(0.9)
    assert fidelity.relative == pytest.approx(fidelity.value / 0.9)
    assert fidelity.relative_low < fidelity.relative


def test_any_metric_of_scikit_learn_can_judge() -> None:
    labels = CLASSES[BASE["v"].argmax(axis=1)]
    expected = f1_score(labels, CLASSES[NOISY["v"].argmax(axis=1)], average="macro")
    assert measure("f1_macro", BASE, NOISY, truth(labels)).value == pytest.approx(expected)


def test_a_score_below_zero_loses_when_it_falls() -> None:
    labels = BASE["v"][:, 0]
    given = Truth(labels, lambda outputs: outputs["v"][:, 0])
    worse = {"v": BASE["v"] + 2}
    base = {"v": BASE["v"] + 1}
    fidelity = measure("neg_mean_absolute_error", base, worse, given)
    assert (fidelity.baseline, fidelity.value) == (pytest.approx(-1, abs=1e-5), pytest.approx(-2, abs=1e-5))
    assert fidelity.relative == pytest.approx(0, abs=1e-4)


def test_the_gate_judges_the_lower_bound_and_says_by_how_much_it_is_missed() -> None:
    fidelity = measure("cosine", BASE, NOISY)
    verdict = judge(GateConfig(min=(fidelity.ci_low + fidelity.value) / 2), fidelity, True, False)
    assert not verdict.passed
    assert f"{verdict.threshold - fidelity.ci_low:.5f} below" in verdict.reason


@pytest.mark.parametrize(
    ("gate", "threshold"),
    [
        (GateConfig(max_drop=0.05), 0.95),
        (GateConfig(preset="mlperf-99"), 0.99),
        (GateConfig(preset="mlperf-99.9"), 0.999),
        (GateConfig(label="section"), 0.99),
    ],
)
def test_a_relative_gate_asks_for_a_share_of_the_baseline(gate: GateConfig, threshold: float) -> None:
    labels = CLASSES[BASE["v"].argmax(axis=1)].copy()
    labels[:100] = "another class"
    same = judge(gate, measure("accuracy", BASE, BASE, truth(labels)), True, False)
    assert (same.passed, same.threshold, same.relative) == (True, pytest.approx(threshold), True)
    worse = judge(gate, measure("accuracy", BASE, {"v": -BASE["v"]}, truth(labels)), True, False)
    assert "is 0.00% of the baseline's 0.50000" in worse.reason


def test_a_row_without_an_answer_is_never_a_class_for_scikit_learn() -> None:
    labels = CLASSES[BASE["v"].argmax(axis=1)]
    missing = {"v": np.where((labels == "class 0")[:, None], np.nan, BASE["v"])}
    with pytest.raises(GateError, match="sample rows have no answer, f1_macro needs one"):
        measure("f1_macro", BASE, missing, truth(labels))


def test_a_bound_that_is_no_number_passes_nothing() -> None:
    fidelity = replace(measure("cosine", BASE, BASE), ci_low=float("nan"))
    assert not judge(GateConfig(), fidelity, True, False).passed


def test_labels_of_another_kind_than_the_answers_are_refused() -> None:
    numbers = BASE["v"].argmax(axis=1)
    with pytest.raises(ConfigError, match=r"right on none of 200 rows.*are like \['class"):
        measure("accuracy", BASE, BASE, truth(numbers))


def test_an_absolute_gate_on_labels_is_the_users_own_number() -> None:
    labels = CLASSES[BASE["v"].argmax(axis=1)]
    verdict = judge(GateConfig(label="section", min=0.5), measure("accuracy", BASE, NOISY, truth(labels)), True, False)
    assert (verdict.threshold, verdict.relative) == (0.5, False)


def test_a_variant_that_depends_on_the_batch_is_refused_only_where_asked() -> None:
    fidelity = measure("cosine", BASE, BASE)
    assert judge(GateConfig(), fidelity, False, False).passed
    assert not judge(GateConfig(), fidelity, False, True).passed


def test_what_does_not_run_as_requested_is_refused_however_good_it_is() -> None:
    verdict = judge(GateConfig(), measure("cosine", BASE, BASE), True, False, "asked for int8, it ran fp32")
    assert verdict.reason == "it does not run as requested: asked for int8, it ran fp32"


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (GateConfig(metric="cosin"), "did you mean 'cosine'"),
        (GateConfig(metric="accuracy"), "gate.label"),
        (GateConfig(metric="cosine", label="section"), "not with gate.label"),
        (GateConfig(metric="f1_makro", label="section"), "did you mean 'f1_macro'"),
    ],
)
def test_a_metric_that_does_not_exist_or_fit_is_refused_with_the_fix(gate: GateConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        metric_of(gate, ("cosine", "top1_agreement"))


class TestSeveralOutputs:
    """Each output is compared in its own type, and none is left unlooked at."""

    MIXED: ClassVar[dict[str, Any]] = {
        "label": np.arange(200, dtype=np.int64) + 2**53,
        "name": np.array([f"class {i % 3}" for i in range(200)]),
        "v": BASE["v"],
    }

    @pytest.mark.parametrize("metric", ["cosine", "top1_agreement"])
    def test_a_model_agrees_with_itself(self, metric: str) -> None:
        fidelity = measure(metric, self.MIXED, self.MIXED)
        assert (fidelity.value, fidelity.worst) == (pytest.approx(1.0), pytest.approx(1.0))
        assert fidelity.outputs == ("label", "name", "v")

    @pytest.mark.parametrize("metric", ["cosine", "top1_agreement", "r2"])
    @pytest.mark.parametrize("wrong", [{"label": MIXED["label"] + 1}, {"name": np.array(["other"] * 200)}])
    def test_a_label_that_differs_is_no_agreement(self, metric: str, wrong: dict[str, Any]) -> None:
        assert measure(metric, self.MIXED, {**self.MIXED, **wrong}).value == 0.0

    def test_the_least_of_several_vectors_counts(self) -> None:
        two = {"v": BASE["v"], "w": BASE["v"]}
        assert measure("cosine", two, {"v": BASE["v"], "w": -BASE["v"]}).value == pytest.approx(-1.0)
        assert measure("r2", two, {"v": BASE["v"], "w": 0 * BASE["v"]}).value < 0.1

    @pytest.mark.parametrize("metric", ["cosine", "top1_agreement", "r2"])
    def test_rows_that_were_not_answered_agree_with_nothing(self, metric: str) -> None:
        answered = np.arange(200) >= 100
        assert measure(metric, self.MIXED, self.MIXED, answered=answered).value <= 0.6
        whole = {"label": self.MIXED["label"]}
        if metric != "cosine":
            assert measure(metric, whole, whole, answered=answered).value <= 0.6

    def test_an_output_that_does_not_vary_has_to_be_the_same(self) -> None:
        still = {"v": np.full((20, 2), 3.0, dtype=np.float32)}
        assert measure("r2", still, {"v": still["v"] + np.float32(1e-6)}).value == 1.0
        assert measure("r2", still, {"v": still["v"] + np.float32(1e-2)}).value == 0.0
