"""The family of the real encoder, with a place to change what it makes ready and what it finishes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from optinfer.backends import Arrays
from optinfer.families import Features
from optinfer.families.text_embedding import Settings, TextEmbedding
from tests.conftest import located

Ready = Callable[[pa.Table], Features]
Finish = Callable[[Arrays], pa.Table]


class Hooked(TextEmbedding):
    """Asks `ready` and `finish` of a test, which get the row's table or outputs and the family's own answer to it."""

    def __init__(
        self,
        ready: Callable[[pa.Table, Ready], Features] = lambda table, own: own(table),
        finish: Callable[[Arrays, Finish], pa.Table] = lambda outputs, own: own(outputs),
    ) -> None:
        model = located()
        super().__init__(Path(model.path), model.key, Settings())
        self._ready, self._finish = ready, finish

    def preprocess(self, table: pa.Table) -> Features:
        return self._ready(table, super().preprocess)

    def postprocess(self, outputs: Arrays) -> pa.Table:
        return self._finish(outputs, super().postprocess)
