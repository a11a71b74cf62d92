"""What every replica of a job is given: where its rows come from and go, and what scores them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from optinfer.data.sinks import SINKS, Sink
from optinfer.data.sources import SOURCES, Reader
from optinfer.families import Columns
from optinfer.inference.replica import ReplicaSettings


@dataclass(frozen=True, kw_only=True)
class ScoringTask:
    """What every replica of a job needs besides the model: where rows come from, and where they go.

    Attributes:
        pools: the replica of each pool's actors; without a GPU an actor is of the first pool that needs none.
        source, sink: kinds of tables.
        columns: family role -> source column or columns; `columns_read` names all of these.
        carried: schema of the source columns in the output.
    """

    pools: tuple[ReplicaSettings, ...]
    columns: Columns
    columns_read: list[str]
    carried: pa.Schema
    source: str
    sink: str
    output_url: str
    fingerprint: str
    on_error: str
    on_bad_file: str

    @property
    def artifacts(self) -> frozenset[str]:
        """Those whose answers may be in the output."""
        return frozenset(settings.artifact.key for settings in self.pools)

    def settings(self, gpu: bool) -> ReplicaSettings:
        """Return the replica of an actor that was given a GPU, or none."""
        fit = [one for one in self.pools if (one.device == "cuda") == gpu]
        return fit[0] if fit else self.pools[0]

    def reader(self) -> Reader:
        """Return what reads fragments: the columns that the model needs, and those that are carried."""
        return SOURCES.get(self.source).reader(list(dict.fromkeys([*self.columns_read, *self.carried.names])))

    def output(self) -> Sink:
        """Return what takes the parts."""
        return SINKS.get(self.sink).open(self.output_url)
