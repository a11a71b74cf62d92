"""What `promote` answers: whether a rule holds of a comparison, and which version an alias is at now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optinfer.records.record import Record

Status = Literal["promoted", "would promote", "refused", "nothing to do", "rolled back", "would roll back"]


@dataclass(frozen=True, kw_only=True)
class Clause(Record):
    """One condition of a rule, held against a comparison.

    Attributes:
        rule: its key below `promote.when`, with its value.
        found: what the comparison has of it.
    """

    rule: str
    found: str
    holds: bool


@dataclass(frozen=True, kw_only=True)
class PromoteRecord(Record):
    """A decision about an alias of a registered model.

    Attributes:
        status: what was done, or would be without `--dry-run`; `refused`: the rule does not hold, nothing was moved.
        before, after: versions; the alias was at the one and is at the other now, or would be.
        previous: alias that is left at `before`; after a rollback it is gone.
        clauses: the rule, condition by condition; none of a rollback.
        compared: id of the comparison's run.
        reason: in a line, as the model version's tags and description have it.
        registry: without credentials.
    """

    status: Status
    model: str
    alias: str
    before: str
    after: str
    previous: str
    clauses: tuple[Clause, ...] = ()
    compared: str = ""
    reason: str
    registry: str
