"""Stored answers held against those of now, for rows of one part: what verify counts and explain shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from optinfer.commands.again import PartScorer
from optinfer.commands.finished import Finished
from optinfer.data.fragments import Fragment
from optinfer.data.in_place import REASON
from optinfer.data.sources import SOURCES
from optinfer.data.stored import Rows, StoredPart
from optinfer.inference.answers import Scored
from optinfer.monitoring.moved import Moved, moved


@dataclass(frozen=True, eq=False)
class Held:
    """Rows of a part, scored again.

    Attributes:
        scored: the answers of now.
        both: (both,) rows of the fragment that have an answer now and then; `moved` says how far these are apart.
        gone: row of the fragment -> why it has no answer any more; `came`: those that had none.
    """

    scored: Scored
    both: Rows
    moved: Moved
    gone: dict[int, str]
    came: Rows


def score_again(done: Finished, fragment: Fragment, rows: Rows | None, scorer: PartScorer) -> Scored:
    """Return the answers of now to rows of a fragment, all where none are named; `kept` are rows of the fragment.

    Raises:
        SourceError: the file is not what it was a moment ago.
    """
    key = done.config.experiment.key
    read = dict.fromkeys([*([key] if key else []), *done.config.source.columns_read])
    table = SOURCES.get(done.subject.source).reader(list(read)).read(fragment)
    scored = scorer.score(table if rows is None else table.take(pa.array(rows)))
    if rows is None:
        return scored
    rejected = {int(rows[at]): why for at, why in scored.rejected.items()}
    return Scored(scored.outputs, scored.added, rows[scored.kept], rejected, scored.stats)


def held(done: Finished, part: StoredPart, scored: Scored) -> Held:
    """Hold what is stored of a part against answers of now to some of its rows."""
    said = (REASON, arm_column(done))
    answers = [name for name in part.rows.column_names[len(done.config.sink.columns) :] if name not in said]
    then = part.places[part.answered]
    both, at_then, at_now = np.intersect1d(then, scored.kept, return_indices=True)
    stored = part.rows.filter(pa.array(part.answered)).select(answers).take(pa.array(at_then))
    now = scored.added.take(pa.array(at_now)) if len(scored.kept) else stored.slice(0, 0)
    gone = {row: why for row, why in scored.rejected.items() if row not in part.no_answer}
    return Held(scored, both, moved(stored, now), gone, np.setdiff1d(scored.kept, then))


def arm_column(done: Finished) -> str | None:
    """Return the column that says whose a row is; None where the job is no experiment."""
    experiment = done.config.experiment
    return None if experiment.key is None else experiment.column
