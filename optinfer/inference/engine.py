"""What scores a job's rows, as those see it who hand rows to it: the actor, the trials, the tuner.

Our own is the `Replica`, which cuts micro-batches for a backend's session. An engine that makes batches by itself (a
server of generated text, say) is one, too: nobody outside asks how rows become batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import pyarrow as pa

from optinfer.backends import Executed
from optinfer.families import Family
from optinfer.inference.answers import Scored
from optinfer.inference.feed import Limits


class Scores(Protocol):
    """Answers the rows of a table."""

    def score(self, table: pa.Table) -> Scored:
        """Answer or reject every row of a table with one column per role; several threads may call it at a time.

        Raises:
            LoadError: it can answer no row at all, which is no row's fault.
        """


class Engine(Scores, Protocol):
    """A loaded model that scores rows, and tells what can be certified of it."""

    @property
    def family(self) -> Family:
        """What rows and answers mean; its `schema` is the columns that a row gains."""

    @property
    def limits(self) -> Limits:
        """The padded tokens and the rows of a micro-batch at most, as they are in force; receipts name them."""

    @property
    def load_seconds(self) -> float:
        """How long it took to load."""

    def executed(self) -> Executed:
        """Return what really ran, after at least one call."""

    def invariance(self, sample: pa.Table, scored: Scored) -> Mapping[str, float]:
        """Return how far a row's answer moves with its company: case -> largest difference of any number.

        Args:
            sample: a table with one column per role.
            scored: what `score` gave for it.
        """
