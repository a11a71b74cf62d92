"""Two models' answers to the same rows, held against labels and each other: the record of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optinfer.commands.rivals import Rival
from optinfer.commands.turns import Answered, Both
from optinfer.errors import ConfigError
from optinfer.forecast.speed import per_million, price
from optinfer.monitoring import paired
from optinfer.monitoring.verdict import Decision, decide
from optinfer.optimization.gate import ACCURACY, against_labels, same_answers, truth_of
from optinfer.records.decision import Agreement, CompareRecord, Differing, Interval, Side, Slice
from optinfer.system.machine import gpu

Array = np.ndarray[Any, Any]

_SHOWN_ROWS = 20
_MOST_SLICES = 50
_NO_LABELS = (
    "without labels nobody knows which of two that differ is right: agreement is no quality; name a column with the "
    "true answers in gate.label"
)


@dataclass(frozen=True, eq=False)
class Question:
    """Two models, what they answered, and what is held against them."""

    champion: Rival
    challenger: Rival
    both: Both
    label: str | None
    margin: float

    @property
    def labels(self) -> Array | None:
        return None if self.label is None else truth_of(self.both.rows.column(self.label))

    @property
    def metric(self) -> str | None:
        return None if self.label is None else self.champion.job.subject.metric

    def on(self, rows: Array, level: float = paired.LEVEL) -> tuple[float, float, paired.Difference]:
        """Return both values and their difference over (rows,) row indices.

        Raises:
            ConfigError: the metric needs an answer for each row, and one is missing; or the family gives none.
        """
        labels, sides = self.labels, (self.both.champion, self.both.challenger)
        assert labels is not None
        answers = [_answers(side) for side in sides]
        if self.metric == ACCURACY:
            ours, theirs = (
                same_answers(given[rows], labels[rows]) & side.known[rows]
                for given, side in zip(answers, sides, strict=True)
            )
            return float(ours.mean()), float(theirs.mean()), paired.of_shares(ours, theirs, level)
        if missing := int((~(sides[0].known & sides[1].known)).sum()):
            raise ConfigError(f"{missing} rows have no answer, and {self.metric} needs one for each; use accuracy")
        score = against_labels(str(self.metric), answers[0], answers[1], labels)
        return *score(rows), paired.of_a_metric(lambda drawn: score(rows[drawn]), len(rows), level)


def decided(question: Question, run_id: str, by: Sequence[str]) -> CompareRecord:
    both, job = question.both, question.champion.job.config
    everything = np.arange(both.rows.num_rows)
    values: tuple[float | None, float | None] = (None, None)
    difference, decision = None, Decision("cannot tell", _NO_LABELS)
    slices: tuple[Slice, ...] = ()
    left_out = 0
    if question.label is not None:
        champion, challenger, difference = question.on(everything)
        values, decision = (champion, challenger), decide(difference, len(everything), question.margin)
        slices, left_out = _slices(question, by)
    sides = [
        _side(rival, answered, value)
        for rival, answered, value in zip(
            (question.champion, question.challenger), (both.champion, both.challenger), values, strict=True
        )
    ]
    return CompareRecord(
        run_id=run_id,
        job=job.name,
        rows=len(everything),
        label=question.label,
        metric=question.metric,
        champion=sides[0],
        challenger=sides[1],
        difference=_interval(difference) if difference else None,
        margin=question.margin,
        verdict=decision.verdict,
        reason=decision.reason,
        more_rows=decision.more_rows,
        p_value=difference.p_value if difference else None,
        agreement=_agreement(both),
        differing=_differing(question),
        slices=slices,
        slices_left_out=left_out,
    )


def _slices(question: Question, by: Sequence[str]) -> tuple[tuple[Slice, ...], int]:
    """Look at each value of the columns apart; together all intervals hold as often as one does alone."""
    found = [(column, value, rows) for column in by for value, rows in _values(question.both, column)]
    kept = sorted(found, key=lambda one: -len(one[2]))[:_MOST_SLICES]
    level = 1 - (1 - paired.LEVEL) / max(len(kept), 1)
    measured = [(*one, *question.on(one[2], level)) for one in kept]
    adjusted = paired.holm([difference.p_value or 0.0 for *_, difference in measured])
    slices = tuple(
        Slice(
            column=column,
            value=value,
            rows=len(rows),
            champion=champion,
            challenger=challenger,
            difference=_interval(difference),
            verdict=decide(difference, len(rows), question.margin).verdict,
            p_value=None if difference.p_value is None else p,
        )
        for (column, value, rows, champion, challenger, difference), p in zip(measured, adjusted, strict=True)
    )
    return slices, len(found) - len(kept)


def _values(both: Both, column: str) -> list[tuple[str, Array]]:
    values, places = np.unique(_column(both, column).astype(str), return_inverse=True)
    return [(str(value), np.flatnonzero(places == at)) for at, value in enumerate(values)]


def _side(rival: Rival, answered: Answered, value: float | None) -> Side:
    stats, certificate = answered.stats, rival.prepared.certificate
    busy = stats.preprocess_seconds + stats.infer_seconds + stats.postprocess_seconds
    rate = stats.rows_out / max(busy, 1e-9)
    hourly = price(rival.job.config.placement, gpu() if rival.prepared.variant.device == "cuda" else None)
    return Side(
        name=rival.name,
        model=rival.job.subject.model.key,
        variant=rival.prepared.variant.name,
        artifact=rival.prepared.artifact.key,
        value=value,
        unanswered=int((~answered.known).sum()),
        rows_per_second=rate,
        micro_batch_ms={f"p{q}": stats.latencies.percentile(q) * 1e3 for q in (50, 95, 99)},
        peak_rss_mb=certificate.peak_rss_mb,
        artifact_mb=certificate.artifact_mb,
        cost_per_million_rows=None if hourly is None or not rate else per_million(rate, hourly),
        version=rival.job.subject.version,
    )


def _agreement(both: Both) -> Agreement:
    known = both.champion.known & both.challenger.known
    ours, theirs = both.champion.answers, both.challenger.answers
    if ours is not None and theirs is not None and not _numbers(ours, theirs):
        same = same_answers(ours, theirs) & known
        found = paired.share(int(same.sum()), len(same))
        return Agreement(
            metric="same answer", value=found.value, low=found.low, high=found.high, differing=int((~same).sum())
        )
    if ours is not None and theirs is not None:
        value = float(np.corrcoef(ours[known], theirs[known])[0, 1] ** 2) if known.sum() > 1 else 0.0
        return Agreement(metric="r2", value=value, low=None, high=None, differing=None)
    found = paired.mean(np.nan_to_num(both.closeness, nan=0.0))
    return Agreement(metric="cosine", value=found.value, low=found.low, high=found.high, differing=None)


def _differing(question: Question) -> tuple[Differing, ...]:
    """Return the rows to look at: first those that only the champion has right, then those that are furthest apart."""
    both, labels = question.both, question.labels
    ours, theirs = both.champion.answers, both.challenger.answers
    differ, lost = np.ones(both.rows.num_rows, dtype=bool), np.zeros(both.rows.num_rows, dtype=bool)
    if ours is not None and theirs is not None:
        differ = ~same_answers(ours, theirs) | (both.champion.known != both.challenger.known)
        if labels is not None:
            lost = same_answers(ours, labels) & ~same_answers(theirs, labels)
    order = np.lexsort((np.nan_to_num(both.closeness, nan=-np.inf), ~lost))
    chosen = order[differ[order]][:_SHOWN_ROWS]
    return tuple(
        Differing(
            row={
                name: str(both.rows.column(name)[int(at)].as_py()) for name in question.champion.job.config.sink.columns
            },
            champion=_shown(both.champion, at),
            challenger=_shown(both.challenger, at),
            label=None if labels is None else str(labels[at]),
            closeness=float(np.nan_to_num(both.closeness[at], nan=0.0)),
        )
        for at in chosen
    )


def _shown(side: Answered, row: int) -> str:
    if not side.known[row]:
        return "no answer"
    return "" if side.answers is None else str(side.answers[row])


def _answers(side: Answered) -> Array:
    if side.answers is None:
        raise ConfigError("this family gives no single answer to hold against gate.label; leave it out")
    return side.answers


def _numbers(*columns: Array) -> bool:
    return all(np.issubdtype(column.dtype, np.floating) for column in columns)


def _column(both: Both, name: str) -> Array:
    column = both.rows.column(name).to_pandas()
    return np.asarray(column.astype(object).fillna("null") if column.dtype.name in ("object", "category") else column)


def _interval(difference: paired.Difference) -> Interval:
    return Interval(value=difference.value, low=difference.low, high=difference.high, level=difference.level)
