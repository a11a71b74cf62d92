"""How the rows of a part are answered, by what became of those who had begun with it: in place, or isolated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pyarrow as pa

from optinfer.data.state import Attempts
from optinfer.execution.loading import Loading
from optinfer.execution.task import Nodes, ScoringTask
from optinfer.inference.answers import Scored
from optinfer.inference.at_work import Unneeded
from optinfer.inference.engine import Engine
from optinfer.inference.isolation import IsolatedReplica
from optinfer.records.part import Part
from optinfer.records.receipt import TakenOver


class Attempt:
    """The attempts of one actor.

    Args:
        each: the model of each arm of an experiment, the job's own first, and alone where there is none.
        put: returns the part of this name that an attempt of this job had come to put.
    """

    def __init__(
        self, task: ScoringTask, nodes: Nodes, each: Sequence[Loading], put: Callable[[str], Part | None]
    ) -> None:
        self._task, self._nodes, self._each, self._put = task, nodes, each, put
        self._attempts = Attempts(task.output_url)

    def answers(self, part: str, table: pa.Table, again: bool) -> tuple[Scored | Part, TakenOver | None]:
        """Return the answers to rows, or the part that has them; and what became of who had begun with it.

        Args:
            again: it is there, and some of its rows are tried again.

        Raises:
            Unneeded: the node leaves, and they were given back.
        """
        engines = [loading.engine for loading in self._each]  # what cannot load has not begun the part
        here = self._nodes.here()
        begun_on = self._attempts.begin(part, here)
        if begun_on is None:
            return self._in_place(engines, part, table), None
        if not again and (done := self._put(part)):
            return done, None
        if given_back := self._attempts.take_over(part, here):
            waited = max(time.time() - given_back.time, 0.0)
            before = TakenOver(why="left", rows=given_back.rows, seconds=waited)
            return self._in_place(engines, part, table, given_back.rows), before
        lost = self._nodes.gone(begun_on)
        if lost and self._attempts.excuse(part):
            return self._in_place(engines, part, table), TakenOver(why="lost")
        return self._task.scored(table, self._isolated), TakenOver(why="lost" if lost else "died")

    def _in_place(self, engines: Sequence[Engine], part: str, table: pa.Table, given: int = 0) -> Scored:
        """Return the answers to rows; where the node leaves meanwhile, give them back.

        Args:
            given: rows of this part that models were given before.
        """

        def score(arm: int, roles: pa.Table) -> Scored:
            nonlocal given
            scored = engines[arm].score(roles)
            given += roles.num_rows
            return scored

        try:
            return self._task.scored(table, score)
        except Unneeded as unneeded:
            self._attempts.give_back(part, self._nodes.here(), given + unneeded.rows)
            raise

    def _isolated(self, arm: int, roles: pa.Table) -> Scored:
        settings = self._each[arm].settings
        with IsolatedReplica(settings, most_rejected=self._task.most_quarantined) as isolated:
            return isolated.score(roles)
