"""What `outcomes` answers: the arms of an experiment, and what happened to their keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optinfer.records.decision import Interval
from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Against(Record):
    """One arm against the control.

    Attributes:
        difference: of the means, arm minus control, with the interval that holds at every look; None while an arm has
            too few keys.
        at_one_look: the same with an interval for a single look, and its p-value.
    """

    verdict: str
    reason: str
    difference: Interval | None
    at_one_look: Interval | None
    p_value: float | None


@dataclass(frozen=True, kw_only=True)
class OutcomesRecord(Record):
    """An experiment's outcomes so far.

    Attributes:
        keys: with an outcome, by arm; `means`: of their outcomes.
        without_outcome: keys that were scored and have none yet.
        unknown: keys with an outcome that were not scored here.
        planned: keys at which the intervals are narrowest.
        misdealt: p-value of arms that are not of the sizes that their shares give; None where they may be.
    """

    outcome: str
    column: str
    control: str
    keys: Mapping[str, int]
    means: Mapping[str, float]
    without_outcome: int
    unknown: int
    planned: int
    misdealt: float | None
    arms: Mapping[str, Against]


def outcomes_text(record: OutcomesRecord) -> str:
    """Say what each arm's keys came to, and what that allows to say."""
    known = sum(record.keys.values())
    lines = [
        f"{record.outcome} of {known:,} keys, {record.without_outcome:,} without one yet"
        + (f"; {record.unknown:,} keys of the table were not scored here" if record.unknown else "")
    ]
    lines += [f"  {name:<12} {record.means[name]:.5g} on {count:,} keys" for name, count in record.keys.items()]
    lines += [
        f"{name} against {record.control}: {one.verdict.upper()}\n  {one.reason}" for name, one in record.arms.items()
    ]
    if record.misdealt is not None:
        lines.append(
            f"warning: the arms are not of the sizes that they were dealt in (p = {record.misdealt:.2g}): outcomes are "
            "missing for one more than for another, and nothing here can be believed until that is understood"
        )
    return "\n".join(lines)
