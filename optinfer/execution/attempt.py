"""How the rows of a part are answered, by what became of those who had begun with it: in place, or isolated."""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow as pa

from optinfer.data.state import Attempts
from optinfer.execution.loading import Loading
from optinfer.execution.task import Nodes, ScoringTask
from optinfer.inference.answers import Scored
from optinfer.inference.at_work import Unneeded
from optinfer.inference.isolation import IsolatedReplica
from optinfer.records.part import Part
from optinfer.records.receipt import TakenOver


class Attempt:
    """The attempts of one replica.

    Args:
        put: returns the part of this name that an attempt of this job had come to put.
    """

    def __init__(self, task: ScoringTask, nodes: Nodes, loading: Loading, put: Callable[[str], Part | None]) -> None:
        self._task, self._nodes, self._loading, self._put = task, nodes, loading, put
        self._attempts = Attempts(task.output_url)

    def answers(self, part: str, roles: pa.Table, again: bool) -> tuple[Scored | Part, TakenOver | None]:
        """Return the answers to rows, or the part that has them; and whose fragment this was.

        Args:
            again: it is there, and some of its rows are tried again.

        Raises:
            Unneeded: the node leaves, and they were given back.
        """
        engine = self._loading.engine  # what cannot load has not begun the part
        here = self._nodes.here()
        begun_on = self._attempts.begin(part, here)
        if begun_on is None:
            return self._in_place(engine.score, part, roles), None
        if not again and (done := self._put(part)):
            return done, None
        if given_back := self._attempts.take_over(part, here):
            waited = max(time.time() - given_back.time, 0.0)
            before = TakenOver(why="left", rows=given_back.rows, seconds=waited)
            return self._in_place(engine.score, part, roles, given_back.rows), before
        lost = self._nodes.gone(begun_on)
        if lost and self._attempts.excuse(part):
            return self._in_place(engine.score, part, roles), TakenOver(why="lost")
        with IsolatedReplica(self._loading.settings, most_rejected=self._task.most_quarantined) as isolated:
            return isolated.score(roles), TakenOver(why="lost" if lost else "died")

    def _in_place(self, score: Callable[[pa.Table], Scored], part: str, roles: pa.Table, earlier: int = 0) -> Scored:
        """Return the answers to rows; where the node leaves meanwhile, give them back.

        Args:
            earlier: rows of this part that other models were given.
        """
        try:
            return score(roles)
        except Unneeded as unneeded:
            self._attempts.give_back(part, self._nodes.here(), earlier + unneeded.rows)
            raise
