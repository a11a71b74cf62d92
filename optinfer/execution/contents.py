"""What the part of a fragment holds, and what is set aside: every row of the fragment, once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optinfer.data.fragments import Fragment
from optinfer.data.in_place import COLUMN, REASON, gained, placed
from optinfer.errors import AccountingError, redact
from optinfer.execution.task import ScoringTask
from optinfer.execution.watching import watched
from optinfer.inference.answers import Rows, Scored


@dataclass(frozen=True)
class Contents:
    """The rows of one fragment as they are committed.

    Attributes:
        rows: the part's.
        aside: those that could not be scored; None where there is none, or they are in `rows`.
        rejected: row of the fragment -> why it has no answer.
        in_place: how many of `rows` have none.
        sketch: what is watched of the rows.
    """

    rows: pa.Table
    aside: pa.Table | None
    rejected: dict[int, str]
    in_place: int = 0
    sketch: str | None = None


def contents(task: ScoringTask, answers: pa.Schema, fragment: Fragment, table: pa.Table, scored: Scored) -> Contents:
    """Return the carried columns beside the answers, and what becomes of the rows without one.

    Args:
        answers: the columns that a row gains.
        table: of the fragment, as it was read.

    Raises:
        AccountingError: not every row of the fragment is answered or rejected, once.
    """
    added = scored.added if len(scored.kept) else answers.empty_table()
    accounted = np.sort(np.concatenate([scored.kept, np.fromiter(scored.rejected, np.int64)]))
    if added.num_rows != len(scored.kept) or not np.array_equal(accounted, np.arange(table.num_rows)):
        raise AccountingError(
            f"of {table.num_rows} rows, {len(scored.kept)} are scored and {len(scored.rejected)} rejected, with "
            f"{added.num_rows} answers: they must agree; please report this as a bug"
        )
    sketch = watched(task, fragment, table, scored)
    if task.on_error == COLUMN:
        added = placed(added, scored.kept, scored.rejected, answers)
        return Contents(_beside(task, table, added), None, scored.rejected, len(scored.rejected), sketch)
    rows = _beside(task, table.take(pa.array(scored.kept)), added)
    aside = table.take(pa.array(sorted(scored.rejected))) if scored.rejected else None
    set_aside = _located(aside, fragment, scored.rejected) if aside else None
    return Contents(rows, set_aside, scored.rejected, sketch=sketch)


def unreadable(task: ScoringTask, answers: pa.Schema, fragment: Fragment, reason: str) -> Contents:
    """Set a whole fragment aside whose file cannot be decoded: its rows are known by number only."""
    empty = pa.schema([*task.carried, *gained(answers, task.on_error)]).empty_table()
    rejected = dict.fromkeys(range(fragment.rows), reason)
    nulls = pa.table({f.name: pa.nulls(fragment.rows, f.type) for f in task.carried})
    return Contents(empty, _located(nulls, fragment, rejected), rejected)


@dataclass(frozen=True)
class Earlier:
    """What was committed of a fragment before, for the rows of it that have no answer yet.

    Attributes:
        answers: columns that the others have gained.
        rows: those without an answer, ascending.
    """

    answers: pa.Table
    rows: Rows

    @classmethod
    def of(cls, task: ScoringTask, fragment: Fragment, part: pa.Table, aside: pa.Table | None) -> Earlier:
        rows = np.array([], dtype=np.int64)
        if aside is not None:
            numbers = aside.column(aside.schema.get_all_field_indices("_row")[-1])
            rows = np.asarray(numbers.to_numpy()) - fragment.start
        if task.on_error == COLUMN:
            failed = part.column(REASON).is_valid()
            rows = np.concatenate([rows, np.flatnonzero(failed.to_numpy())])
            part = part.filter(pc.invert(failed)).drop_columns([REASON])
        return cls(part.select(range(len(task.carried), part.num_columns)), np.sort(rows))

    def left(self, table: pa.Table) -> pa.Table:
        return table.take(pa.array(self.rows))

    def with_answers(self, again: Scored, answers: pa.Schema) -> Scored:
        """Return the answers of all rows of the fragment; `again` is what those without one gave."""
        now = self.rows[again.kept]
        before = np.setdiff1d(np.arange(self.answers.num_rows + len(self.rows)), self.rows)
        order = np.argsort(np.concatenate([before, now]))
        new = again.added if len(now) else answers.empty_table()
        added = pa.concat_tables([self.answers.cast(answers), new]).take(pa.array(order))
        rejected = {int(self.rows[row]): why for row, why in again.rejected.items()}
        return Scored({}, added, np.concatenate([before, now])[order], rejected, again.stats)


def _beside(task: ScoringTask, table: pa.Table, added: pa.Table) -> pa.Table:
    columns = [table.column(name) for name in task.carried.names]
    return pa.Table.from_arrays([*columns, *added.columns], schema=pa.schema([*task.carried, *added.schema]))


def _located(table: pa.Table, fragment: Fragment, rejected: dict[int, str]) -> pa.Table:
    rows = sorted(rejected)
    said = {
        "_file": pa.array([redact(fragment.path)] * len(rows), pa.string()),
        "_row": pa.array(np.array(rows, dtype=np.int64) + fragment.start),
        "_reason": pa.array([rejected[row] for row in rows], pa.string()),
    }
    # A source column may have one of these names, too: it stays, and comes first.
    return pa.Table.from_arrays([*table.columns, *said.values()], names=[*table.column_names, *said])
