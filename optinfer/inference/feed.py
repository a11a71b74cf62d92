"""The way into the model: rows still to be scored, cut into micro-batches and made ready one at a time.

On a CPU each is made when the model wants it: made ahead, it would take the core that the model runs on. For a device,
a helper thread makes the next one, and brings it there, while the device works on the current one. Never more than one:
what is staged takes the device's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import numpy as np

from optinfer.backends import Arrays, Session
from optinfer.families import Features
from optinfer.inference.batching import micro_batches, width

Rows = np.ndarray[Any, Any]
Limits = tuple[int, int]


class Feed:
    """Iterates over micro-batches, as rows; `inputs()` is what the model is given for the latest.

    Args:
        rows: (n,) indices of the rows to score.
        limits: padded tokens and rows a micro-batch may hold.
        few_shapes: the runtime prepares itself for each new shape.
        session: stages what it will be called with.
        helper: the thread that collates and stages one micro-batch ahead; None collates when asked and stages nothing.
    """

    def __init__(
        self,
        features: Features,
        rows: Rows,
        limits: Limits,
        few_shapes: bool,
        session: Session,
        helper: Executor | None,
    ) -> None:
        self._features = features
        self._few_shapes = few_shapes and not features.same_length
        self._session = session
        self._helper = helper
        self._batches = self._cut(rows, limits)
        self._ahead: tuple[Rows, Future[Any]] | None = None
        self._give: Callable[[], Any] | None = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop_ahead()

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Rows:
        if self._helper is None:
            batch = next(self._batches)
            self._give = partial(self.collate, batch)
            return batch
        current = self._ahead or self._begin()
        if current is None:
            raise StopIteration
        batch, future = current
        self._give = future.result
        self._ahead = self._begin()
        return batch

    def inputs(self) -> Any:
        """Return the latest micro-batch's inputs, once: nothing here keeps them; raises what making them raised."""
        give, self._give = self._give, None
        assert give is not None
        return give()

    def put_back(self, batch: Rows, limits: Limits) -> None:
        """Cut these rows, and all that are left, anew: the limits have changed."""
        left = [batch, *self._drop_ahead(), *self._batches]
        self._batches = self._cut(np.concatenate(left), limits)

    def width(self, batch: Rows) -> int:
        """Return the tokens that a micro-batch is padded to; 0 where rows have no lengths."""
        lengths = self._features.lengths
        if lengths is None:
            return 0
        return width(int(lengths[batch].max()), int(lengths.max()), self._few_shapes)

    def collate(self, batch: Rows) -> Arrays:
        return self._features.collate(batch, pad_to=self.width(batch))

    def _cut(self, rows: Rows, limits: Limits) -> Iterator[Rows]:
        return micro_batches(rows, self._features.lengths, *limits, self._features.same_length, self._few_shapes)

    def _begin(self) -> tuple[Rows, Future[Any]] | None:
        batch = next(self._batches, None)
        if batch is None or self._helper is None:
            return None
        return batch, self._helper.submit(self._make, batch)

    def _make(self, batch: Rows) -> Any:
        return self._session.stage(self.collate(batch))

    def _drop_ahead(self) -> list[Rows]:
        """Forget what was made ahead; return its rows."""
        if self._ahead is None:
            return []
        (batch, future), self._ahead = self._ahead, None
        if not future.cancel():
            future.exception()  # waits, so that the thread no longer uses the device
        return [batch]
