"""Work dealt to several workers, one at a time to each; results come in the order of the work, not of its ends."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from optinfer.errors import OptinferError

Item = TypeVar("Item")
Worker = TypeVar("Worker")
Result = TypeVar("Result")

# So many workers may be lost with one item: it may be what they die of.
_ATTEMPTS = 3


class Lost(Exception):
    """A worker is gone, and has not done what it was given; says by what."""


class SideBySide(Generic[Item, Worker, Result]):
    """The dealing of one list of work.

    Args:
        work: (worker, item) -> what comes of it; a worker that raises `Lost` is given nothing more, and another one
            does that item.
    """

    def __init__(
        self, items: Sequence[Item], workers: Sequence[Worker], work: Callable[[Worker, Item], Result]
    ) -> None:
        self._items, self._workers, self._work = items, workers, work
        self._waiting = deque(range(len(items)))
        self._under_way = self._lost_workers = 0
        self._ends: dict[int, Result | Exception] = {}
        self._lost: Counter[int] = Counter()
        self._reason, self._stopped = "", False
        self._changed = threading.Condition()

    def results(self) -> Iterator[Result]:
        """Yield what came of each item, in their order.

        Raises:
            OptinferError: no worker is left for an item.
            Exception: what its work raised.
        """
        for worker in self._workers:
            threading.Thread(target=self._serve, args=(worker,), name="optinfer-deal", daemon=True).start()
        try:
            for item in range(len(self._items)):
                yield self._end_of(item)
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()

    def _end_of(self, item: int) -> Result:
        with self._changed:
            self._changed.wait_for(lambda: item in self._ends or self._lost_workers == len(self._workers))
            end = self._ends.get(item)
        if end is None:
            raise OptinferError(_no_worker(self._reason))
        if isinstance(end, Exception):
            raise end
        return end

    def _serve(self, worker: Worker) -> None:
        while (item := self._next()) is not None:
            end: Result | Exception
            try:
                end = self._work(worker, self._items[item])
            except Lost as lost:
                return self._give_back(item, str(lost))
            except Exception as error:
                end = error
            with self._changed:
                self._ends[item] = end
                self._under_way -= 1
                self._changed.notify_all()
        return None

    def _next(self) -> int | None:
        """Wait for an item; none where all are done: one that another worker has may come back."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._under_way or self._stopped)
            if self._stopped or not self._waiting:
                return None
            self._under_way += 1
            return self._waiting.popleft()

    def _give_back(self, item: int, reason: str) -> None:
        with self._changed:
            self._under_way -= 1
            self._lost_workers += 1
            self._lost[item] += 1
            self._reason = reason
            if self._lost[item] < _ATTEMPTS:
                self._waiting.appendleft(item)
            else:
                self._ends[item] = OptinferError(_no_worker(reason))
            self._changed.notify_all()


def _no_worker(reason: str) -> str:
    return (
        f"no node that could prove the job's variants lived long enough: {reason}; check their memory "
        "(`ray memory`, `ray list nodes`), then run the same command again"
    )
