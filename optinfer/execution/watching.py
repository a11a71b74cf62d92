"""What a replica keeps of a fragment to be held against other nights: a sketch of some of its rows and answers.

It rides in the footer of the part, so it is there exactly where the rows are: after a kill, a resume, on many nodes.
"""

from __future__ import annotations

import logging
from time import perf_counter

import numpy as np
import pyarrow as pa

from optinfer.data.fragments import Fragment
from optinfer.execution.task import ScoringTask
from optinfer.inference.answers import Rows, Scored
from optinfer.monitoring import sketch
from optinfer.system import last_resort

_log = logging.getLogger(__name__)
_SHARES = ("tokens.truncated", "repeated")


def watched(task: ScoringTask, fragment: Fragment, table: pa.Table, scored: Scored) -> str | None:
    """Return the sketch of a fragment, None where none of its rows is chosen; adds the time to the fragment's stats.

    Args:
        table: of the fragment, as it was read.
    """
    if task.watch is None:
        return None
    started = perf_counter()
    try:
        rows = sketch.chosen(fragment.path, fragment.start, table.num_rows, task.watch.share)
        return sketch.packed(rows, _columns(task, table, scored, rows)) if len(rows) else None
    except Exception as error:  # it is no fault of the rows, and nothing that they should wait for
        _log.warning("warning: what is watched of fragment %d is lost: %s", fragment.index, last_resort.named(error))
        return None
    finally:
        scored.stats.watch_seconds += perf_counter() - started


def _columns(task: ScoringTask, table: pa.Table, scored: Scored, rows: Rows) -> dict[str, pa.Array]:
    assert task.watch is not None
    some = table.take(pa.array(rows))
    given, texts = task.roles(some), "tokens" in scored.traits
    found: dict[str, pa.Array] = {}
    for role in given.column_names:
        name, column = f"{sketch.INPUT}.{role}", given.column(role)
        found |= {**sketch.measured(name, column, texts), **sketch.nulls(name, column)}
    for column in task.watch.columns:
        found |= sketch.measured(f"{sketch.COLUMN}.{column}", some.column(column))
    for name, values in scored.traits.items():
        found[name] = _trait(name, values[rows])
    return found | _answers(table.num_rows, scored, rows)


def _trait(name: str, values: Rows) -> pa.Array:
    """Return values with nulls where there are none."""
    missing = np.isnan(values)
    return pa.array(np.where(missing, 0, values) > 0 if name in _SHARES else values, mask=missing)


def _answers(total: int, scored: Scored, rows: Rows) -> dict[str, pa.Array]:
    """Return what is kept of the answers to some rows, with nulls for those that have none."""
    places = np.full(total, -1)
    places[scored.kept] = np.arange(len(scored.kept))
    there = places[rows]
    found: dict[str, pa.Array] = {"unanswered": pa.array(there < 0)}
    if len(scored.kept):
        answered = scored.added.take(pa.array(there, mask=there < 0))
        for name in answered.column_names:
            found |= sketch.measured(f"{sketch.ANSWER}.{name}", answered.column(name))
    return found
