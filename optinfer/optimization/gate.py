"""The quality a variant must keep: a metric of its answers, a bound on it, and the verdict. Pure.

Without labels the baseline's own answers are the truth; with a label column both are held against the labels. What is
judged is never the measured value but its lower 95% bound: a percentile bootstrap over rows (Efron and Tibshirani,
1993) with a fixed seed, paired, so that rows that are hard for both variants do not widen the bound of their ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.config import GateConfig
from optinfer.errors import ConfigError, GateError, suggest
from optinfer.families import SAME_ANSWERS, Arrays, LabelSet, as_answers
from optinfer.records.proof import Fidelity, GateResult

ACCURACY = "accuracy"
_RESAMPLES = 1000
# A metric of the whole sample is computed anew for each resample, which is slower than a mean of row values.
_RESAMPLES_OF_A_WHOLE = 200
_TAIL = 2.5
# Of a number, what arithmetic in another order may change.
_ROUNDING = 1e-5
# What fp32 leaves of sums over hundreds of trees or columns; one leaf for another is more.
_FP32_ROUNDING = 1e-4

Array = np.ndarray[Any, Any]
# From row indices to the metric of (candidate, baseline) on these rows.
Score = Callable[[Array], tuple[float, float]]


@dataclass(frozen=True)
class Truth:
    """What a label column says, and how outputs become answers of its kind."""

    labels: Array
    answers: Callable[[Arrays], Array]


def cosine(baseline: Arrays, candidate: Arrays) -> Array:
    """Return (rows,) cosine similarity of two vectors a row: 1 for one direction, 0 where an answer is NaN.

    The least of all outputs that are vectors; one of whole numbers or texts has to be the same, else the row has 0.
    """
    found = []
    for name, values in baseline.items():
        a, b = flat(values), flat(candidate[name])
        if not _is_float(values):
            found.append(_same(a, b))
        elif a.shape[1] > 1:
            found.append(_cosine(a.astype(np.float64), b.astype(np.float64)))
    if not any(_is_float(values) and flat(values).shape[1] > 1 for values in baseline.values()):
        raise ConfigError("gate.metric: cosine compares vectors, this model gives one number a row; use r2")
    return np.min(found, axis=0)


def top1_agreement(baseline: Arrays, candidate: Arrays) -> Array:
    """Return (rows,) 1 where both answers have the same largest component (or are the same value), else 0."""
    found = []
    for name, values in baseline.items():
        a, b = flat(values), flat(candidate[name])
        vector = _is_float(values) and a.shape[1] > 1
        found.append((a.argmax(axis=1) == b.argmax(axis=1)).astype(np.float64) if vector else _same(a, b))
    return np.min(found, axis=0)


def agreement(baseline: Arrays, candidate: Arrays) -> Array:
    """Return (rows,) 1 where an answer is the baseline's but for rounding, in all of its parts, else 0.

    For what computes the same in another way: a tree that a row leaves by another branch is another answer.
    """
    found = []
    for name, values in baseline.items():
        a, b = flat(values), flat(candidate[name])
        if not _is_float(values):
            found.append(_same(a, b))
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        scale = np.maximum(np.abs(a), np.sqrt(np.nanmean(a**2)) if a.size else 0.0)
        found.append((np.abs(a - b) <= _FP32_ROUNDING * scale).all(axis=1).astype(np.float64))
    return np.min(found, axis=0)


def r2(baseline: Arrays, candidate: Arrays, answered: Array, rows: Array) -> float:
    """Return the share of the baseline's variance over `rows` that the candidate explains; 1 is all of it.

    The least of all outputs of real numbers. Texts, and whole numbers beside real ones, count by the share that agrees.
    """
    floats = [name for name, values in baseline.items() if _is_float(values)]
    numbers = floats or [name for name, values in baseline.items() if values.dtype.kind in "iub"]
    found = []
    for name, values in baseline.items():
        a, b = flat(values)[rows], flat(candidate[name])[rows]
        if name in numbers:
            found.append(_explained(a.astype(np.float64), b.astype(np.float64), answered[rows]))
        else:
            found.append(float((_same(a, b) * answered[rows]).mean()))
    return min(found)


def _cosine(a: Array, b: Array) -> Array:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    similarity = np.where(norms == 0, (a == b).all(axis=1), (a * b).sum(axis=1) / np.maximum(norms, 1e-30))
    return np.nan_to_num(similarity, nan=0.0)


def _explained(a: Array, b: Array, answered: Array) -> float:
    mean = a.mean(axis=0)
    b = np.where(answered[:, None] & ~np.isnan(b), b, mean)  # a row without an answer explains nothing
    residual, total = ((a - b) ** 2).sum(), ((a - mean) ** 2).sum()
    rounding = _ROUNDING**2 * (a**2).sum()
    if total <= rounding:  # an output that does not vary explains nothing: it has to be the same
        return float(residual <= rounding and answered.all())
    return float(1 - residual / total)


def _same(a: Array, b: Array) -> Array:
    return (a == b).all(axis=1).astype(np.float64)


def _is_float(values: Array) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating))


def flat(values: Array) -> Array:
    """Return (rows, numbers a row)."""
    return values.reshape(len(values), -1)


BY_ROW: dict[str, Callable[[Arrays, Arrays], Array]] = {
    "cosine": cosine,
    "top1_agreement": top1_agreement,
    "agreement": agreement,
}
UNLABELLED = (*BY_ROW, "r2", SAME_ANSWERS)


def metric_of(gate: GateConfig, family_metrics: Sequence[str]) -> str:
    """Return the metric a job's gate uses.

    Raises:
        ConfigError: it does not exist, or does not suit the family, or needs a label column.
    """
    if gate.label is None:
        metric = family_metrics[0] if gate.metric == "auto" else gate.metric
        if metric not in family_metrics:
            labelled = " (or a metric against labels: name their column in gate.label)"
            raise ConfigError(f"gate.metric: no metric {metric!r} here" + suggest(metric, family_metrics) + labelled)
        return metric
    metric = ACCURACY if gate.metric == "auto" else gate.metric
    if metric in UNLABELLED:
        raise ConfigError(
            f"gate.metric: {metric} compares with the baseline, not with gate.label; remove one of the two"
        )
    if metric != ACCURACY:
        _scorer(metric)
    return metric


def measure(
    metric: str, baseline: Arrays, candidate: Arrays, truth: Truth | None = None, answered: Array | None = None
) -> Fidelity:
    """Measure a candidate's outputs and the baseline's, of the same rows.

    Args:
        answered: (rows,) whether the candidate has an answer; None where it has all. NaN is none either.

    Raises:
        ConfigError: the metric cannot be computed from these outputs.
    """
    rows = len(next(iter(baseline.values())))
    given = _answered(candidate, np.ones(rows, dtype=bool) if answered is None else answered)
    draws = np.random.default_rng(0).integers(rows, size=(_RESAMPLES, rows))
    worst = None
    if metric in BY_ROW or metric in (ACCURACY, SAME_ANSWERS):
        ours, theirs = _by_row(metric, baseline, candidate, given, truth)
        value, base, worst = float(ours.mean()), float(theirs.mean()), float(ours.min())
        values, bases = ours[draws].mean(axis=1), theirs[draws].mean(axis=1)
    else:
        score = _of_a_whole(metric, baseline, candidate, given, truth)
        value, base = score(np.arange(rows))
        values, bases = np.array([score(draw) for draw in draws[:_RESAMPLES_OF_A_WHOLE]]).T
    if metric == ACCURACY and base == 0:
        # Labels of another kind (numbers for names, say) agree with nothing: then every variant would keep all of it.
        raise ConfigError(
            f"gate.label: the baseline is right on none of {rows} rows, so nothing can be held against it; "
            f"{_examples(truth, baseline)}: name a column that holds the model's own classes"
        )
    low, high = np.percentile(values, [_TAIL, 100 - _TAIL])
    relative = float(_relative(np.array(value), np.array(base)))
    relative_low = float(np.percentile(_relative(values, bases), _TAIL))
    outputs = tuple(baseline)
    return Fidelity(metric, outputs, value, float(low), float(high), worst, base, relative, relative_low, rows)


def judge(
    gate: GateConfig, fidelity: Fidelity, batch_invariant: bool, require_invariance: bool, mismatch: str = ""
) -> GateResult:
    """Tell whether a variant may score rows: good enough, running what was asked for, and independent of the batch."""
    relative = gate.largest_drop is not None
    value, threshold = fidelity.relative_low if relative else fidelity.ci_low, gate.threshold
    reason = ""
    if mismatch:
        reason = f"it does not run as requested: {mismatch}"
    elif not value >= threshold:
        reason = _shortfall(gate, fidelity, value)
    elif require_invariance and not batch_invariant:
        reason = "its answers depend on a row's neighbours; gate.require_batch_invariance: false would allow it"
    return GateResult(fidelity.metric, value, threshold, relative, not reason, fidelity.rows, reason)


def _shortfall(gate: GateConfig, fidelity: Fidelity, value: float) -> str:
    if gate.largest_drop is None:
        return (
            f"{fidelity.metric} {fidelity.value:.5f} (95% bound {value:.5f}) is {gate.threshold - value:.5f} below "
            f"gate.min {gate.threshold:g}"
        )
    allowed = gate.preset or f"gate.max_drop {gate.largest_drop:g}"
    return (
        f"{fidelity.metric} {fidelity.value:.5f} is {fidelity.relative:.2%} of the baseline's {fidelity.baseline:.5f} "
        f"(95% bound {value:.2%}), {gate.threshold - value:.2%} below the {gate.threshold:.1%} that {allowed} asks for"
    )


def _by_row(
    metric: str, baseline: Arrays, candidate: Arrays, answered: Array, truth: Truth | None
) -> tuple[Array, Array]:
    if truth is None:
        return BY_ROW[metric](baseline, candidate) * answered, np.ones(len(answered))
    everything = np.ones(len(answered), dtype=bool)
    return _correct(truth, candidate, answered), _correct(truth, baseline, _answered(baseline, everything))


def _correct(truth: Truth, outputs: Arrays, answered: Array) -> Array:
    return np.asarray(same_answers(truth.answers(outputs), truth.labels) & answered, dtype=np.float64)


def truth_of(column: pa.ChunkedArray) -> Array:
    """Return (rows,) what a label column says: texts as objects, numbers as they are, a list as a set of labels."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return as_answers(column.to_pylist())
    return np.asarray(column.to_pandas() if pa.types.is_dictionary(column.type) else column.to_numpy())


def same_answers(some: Array, others: Array) -> Array:
    """Return (rows,) whether two columns of answers or labels agree; texts and numbers compare as texts."""
    if some.dtype == object or others.dtype == object:
        some, others = some.astype(str), others.astype(str)
    return np.asarray(some == others)


def _answered(outputs: Arrays, answered: Array) -> Array:
    """Return (rows,) whether there is an answer, and no part of it is NaN."""
    for values in outputs.values():
        if _is_float(values):
            answered = answered & ~np.isnan(flat(values)).any(axis=1)
    return answered


def _examples(truth: Truth | None, baseline: Arrays) -> str:
    if truth is None:
        return ""
    return f"its answers are like {truth.answers(baseline)[:3].tolist()}, the labels like {truth.labels[:3].tolist()}"


def _of_a_whole(metric: str, baseline: Arrays, candidate: Arrays, answered: Array, truth: Truth | None) -> Score:
    if truth is None:
        return lambda rows: (r2(baseline, candidate, answered, rows), 1.0)
    if missing := int((~answered).sum()):
        raise GateError(f"{missing} of {len(truth.labels)} sample rows have no answer, {metric} needs one for each")
    return against_labels(metric, truth.answers(candidate), truth.answers(baseline), truth.labels)


def against_labels(metric: str, candidate: Array, baseline: Array, labels: Array) -> Score:
    """Return what holds two models' answers against labels, by a scikit-learn scorer.

    Args:
        candidate, baseline, labels: (rows,) each.

    Raises:
        ConfigError: it is no scorer, or a row's answer is a set of labels.
    """
    if any(isinstance(value, LabelSet) for value in labels[:1]):
        raise ConfigError(
            f"gate.metric: {metric} takes one label a row, here are lists; use {ACCURACY}: the share of rows with "
            "all of the labels and no other"
        )
    scorer, ours, theirs = _scorer(metric), _given(candidate), _given(baseline)
    return lambda rows: (float(scorer(ours, rows, labels[rows])), float(scorer(theirs, rows, labels[rows])))


def _given(answers: Array) -> Any:
    """Return what a scikit-learn scorer asks for predictions: answers that are there already, by row."""
    from sklearn.base import BaseEstimator

    class Given(BaseEstimator):
        def fit(self) -> None:
            """Answers need no fitting; scorers look for the method."""

        def predict(self, rows: Array) -> Array:
            return np.asarray(answers[rows])

    return Given()


def _scorer(metric: str) -> Any:
    try:
        from sklearn.metrics import get_scorer, get_scorer_names
    except ImportError as error:
        raise ConfigError(f"gate.metric {metric} is scikit-learn's; fix: pip install scikit-learn") from error
    if metric not in get_scorer_names():
        raise ConfigError(f"gate.metric: no metric {metric!r}" + suggest(metric, [ACCURACY, *get_scorer_names()]))
    return get_scorer(metric)


def _relative(value: Array, baseline: Array) -> Array:
    """Return the share of the baseline's value that is kept; also right for scores where less is worse below zero."""
    return np.asarray(1 - (baseline - value) / np.maximum(np.abs(baseline), 1e-12))
