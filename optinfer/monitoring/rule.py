"""A rule (`promote.when` of a job) held against a comparison, condition by condition. Pure.

What a comparison does not tell (no labels, no slices, no price) does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator

from optinfer.config import RuleConfig
from optinfer.records.decision import CompareRecord, Interval
from optinfer.records.promotion import Clause

_NO_LABELS = "the comparison has no labels, so no difference: name a column with the true answers in gate.label"


def clauses(rule: RuleConfig, compared: CompareRecord) -> tuple[Clause, ...]:
    """Return every condition that a rule names; none where it names none."""
    return tuple(_clauses(rule, compared))


def _clauses(rule: RuleConfig, compared: CompareRecord) -> Iterator[Clause]:
    if (loss := rule.difference.not_worse_by) is not None:
        yield _difference(f"difference.not_worse_by {loss:g}", compared, -loss)
    if (gain := rule.difference.better_by) is not None:
        yield _difference(f"difference.better_by {gain:g}", compared, gain)
    if (loss := rule.slices.not_worse_by) is not None:
        yield _slices(f"slices.not_worse_by {loss:g}", compared, -loss)
    if (most := rule.cost.at_most) is not None:
        yield _cost(f"cost.at_most {most:g}", compared, most)


def _difference(rule: str, compared: CompareRecord, limit: float) -> Clause:
    found = compared.difference
    if found is None:
        return Clause(rule=rule, found=_NO_LABELS, holds=False)
    return Clause(
        rule=rule, found=f"{compared.metric} {_said(found)} on {compared.rows:,} rows", holds=found.low > limit
    )


def _slices(rule: str, compared: CompareRecord, limit: float) -> Clause:
    if not compared.slices:
        return Clause(rule=rule, found="the comparison has no slices: compare with --by COLUMN", holds=False)
    worst = min(compared.slices, key=lambda one: one.difference.low)
    left_out = f", {compared.slices_left_out} rarer values not looked at" if compared.slices_left_out else ""
    found = f"{worst.column}={worst.value} is the lowest of {len(compared.slices)}: {_said(worst.difference)}{left_out}"
    return Clause(rule=rule, found=found, holds=worst.difference.low > limit)


def _cost(rule: str, compared: CompareRecord, most: float) -> Clause:
    ours, theirs = compared.champion.cost_per_million_rows, compared.challenger.cost_per_million_rows
    if not ours or theirs is None:
        return Clause(rule=rule, found="the comparison names no price: set placement.cost_per_hour", holds=False)
    found = f"{theirs:.4g} for a million rows, the champion {ours:.4g}: {theirs / ours:.3f} times"
    return Clause(rule=rule, found=found, holds=theirs / ours <= most)


def _said(found: Interval) -> str:
    return f"{found.value:+.4f}, {found.level:.4g} interval {found.low:+.4f} to {found.high:+.4f}"
