"""Two replicas score the same rows in turns; what is left of it is a few numbers a row, however large the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.commands.rivals import Rival
from optinfer.errors import ConfigError
from optinfer.families import Arrays, as_roles
from optinfer.inference.answers import Scored
from optinfer.inference.isolation import IsolatedReplica
from optinfer.optimization.gate import cosine, flat
from optinfer.records.stats import Stats

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Answered:
    """What one of the two answered.

    Attributes:
        answers: (rows,) as a label column would hold them; None where the family gives no single answer.
        known: (rows,) whether there is an answer.
        stats: of all turns.
    """

    answers: Array | None
    known: Array
    stats: Stats


@dataclass(frozen=True, eq=False)
class Both:
    """Two models' answers to the same rows.

    Attributes:
        rows: the source columns that were not read for the model alone.
        closeness: (rows,) of the outputs: cosine of vectors, else minus the distance of numbers, 0 and 1 for texts;
            NaN where one has no answer.
    """

    rows: pa.Table
    champion: Answered
    challenger: Answered
    closeness: Array


@dataclass
class _Kept:
    answers: list[Array] = field(default_factory=list)
    known: list[Array] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)

    def add(self, scored: Scored, answers: Array | None, rows: int) -> None:
        known = np.zeros(rows, dtype=bool)
        known[scored.kept] = True
        self.known.append(known)
        self.stats = self.stats + scored.stats
        if answers is not None:
            whole = np.zeros(rows, dtype=answers.dtype)
            whole[scored.kept] = answers
            self.answers.append(whole)

    def answered(self) -> Answered:
        answers = np.concatenate(self.answers) if self.answers else None
        return Answered(answers, np.concatenate(self.known), self.stats)


def take_turns(
    champion: Rival, challenger: Rival, tables: Iterator[pa.Table], kept: list[str], say: Callable[[str], None]
) -> Both:
    """Score tables with both, one replica each on one thread, in a process of its own.

    Args:
        kept: source columns to keep.

    Raises:
        ConfigError: there is no row.
    """
    sides = (champion, challenger)
    found, rows, close, scored_rows = (_Kept(), _Kept()), [], [], 0
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(IsolatedReplica(replace(side.prepared.settings, dedupe=False))) for side in sides
        ]
        for turn, table in enumerate(tables):
            answers: dict[int, Scored] = {}
            for at in (0, 1) if turn % 2 == 0 else (1, 0):  # whoever comes second meets a warmer machine
                answers[at] = replicas[at].score(as_roles(table, sides[at].job.config.source.columns))
            for at in (0, 1):
                found[at].add(answers[at], _single(sides[at], answers[at].outputs), table.num_rows)
            close.append(_closeness(answers[0], answers[1], table.num_rows))
            rows.append(table.select(kept))
            scored_rows += table.num_rows
            if turn % 8 == 7:
                say(f"{scored_rows:,} rows scored by both")
    if not scored_rows:
        raise ConfigError("there is no row to compare on: none has a value in the label and all of the model's columns")
    return Both(
        pa.concat_tables(rows).combine_chunks(), found[0].answered(), found[1].answered(), np.concatenate(close)
    )


def _single(side: Rival, outputs: Arrays) -> Array | None:
    try:
        return side.job.subject.family.answers(outputs) if outputs else None
    except ConfigError:  # a vector is no answer that a label could hold
        return None


def _closeness(champion: Scored, challenger: Scored, rows: int) -> Array:
    """Return (rows,) how close the first outputs of both are."""
    close = np.full(rows, np.nan)
    both, ours, theirs = np.intersect1d(champion.kept, challenger.kept, return_indices=True)
    if len(both):
        a, b = (flat(next(iter(s.outputs.values())))[at] for s, at in ((champion, ours), (challenger, theirs)))
        close[both] = _close(a, b)
    return close


def _close(a: Array, b: Array) -> Array:
    if a.shape != b.shape or not np.issubdtype(a.dtype, np.floating):
        return np.zeros(len(a)) if a.shape != b.shape else (a == b).all(axis=1).astype(float)
    if a.shape[1] > 1:
        return cosine({"": a}, {"": b})
    return -np.abs(a[:, 0].astype(np.float64) - b[:, 0].astype(np.float64))
