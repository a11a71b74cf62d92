"""The node on which `tune` measures: what a search has to know of it, and what it is asked to do.

The search itself (which points, in which order, remembered where) is whoever started it; this may be another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Protocol

import psutil
import pyarrow as pa

from optinfer.config import AUTO
from optinfer.data.fragments import Fragment
from optinfer.data.sampling import digest, draw
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.prepared import Prepared, prove
from optinfer.optimization.workbench import Workbench
from optinfer.records.tuning import Lengths, NodeKind, NodeSpeed, Tuned, TuningSample
from optinfer.tuning import kept
from optinfer.tuning.rivals import plausible_variants

# The sample is held against so many times its rows, drawn from other places of the table.
_CHECK_ROWS = 4
# Rows a part holds at least: shorter ones would leave large micro-batches unfilled.
_PART_ROWS = 256

# (settings of every replica, rows, replicas, rows of a part, seconds that it may take, GPUs) -> their speed together
Measure = Callable[[ReplicaSettings, pa.Table, int, int, float, int], NodeSpeed]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a search has to know of a node, and of the job's model and rows there.

    Attributes:
        memory_mb: of the node.
        model: digest of what is tried.
        plausible: variants that may win, fastest replica first; left_out: the others, and why.
        most_rows, max_batch_size: what the model's family says of micro-batches.
        versions: backend -> packages that its speed depends on.
    """

    kind: NodeKind
    memory_mb: float
    model: str
    plausible: tuple[Prepared, ...]
    left_out: Mapping[str, str]
    sample: TuningSample
    most_rows: int | None
    max_batch_size: int
    versions: Mapping[str, Mapping[str, str]]

    @property
    def device(self) -> str:
        return self.plausible[0].variant.device


class Node(Protocol):
    """A node on which settings are tried."""

    @property
    def kind(self) -> NodeKind:
        """What its speed depends on; known before anything is measured."""

    @property
    def facts(self) -> Facts:
        """Prove what the job allows, once, and return what a search has to know.

        Raises:
            GateError: no variant passes the gate.
        """

    def measure(self, settings: ReplicaSettings, replicas: int, time_limit: float) -> NodeSpeed:
        """Let so many replicas score the sample together.

        Raises:
            OptinferError: one died, raised, or all took more than so many seconds.
        """

    def prove(self, tuned: Tuned) -> Prepared:
        """Prove a variant with the micro-batches that were found; its proof stays in the node's home."""

    def close(self) -> None:
        """Give back what it holds of the node."""


class ThisNode:
    """This one.

    Args:
        bench: the job's model and rows.
        fragments: of its table.
        speed: measures replicas of one node together.
    """

    def __init__(self, bench: Workbench, fragments: Sequence[Fragment], speed: Measure) -> None:
        self._bench, self._fragments, self._speed = bench, fragments, speed
        self.kind = kept.machine(bench.cpus)

    @cached_property
    def facts(self) -> Facts:
        plausible, left_out = plausible_variants(self._bench)
        backends = {one.settings.backend for one in plausible}
        return Facts(
            kind=self.kind,
            memory_mb=psutil.virtual_memory().total / 1e6,
            model=self._bench.model.key,
            plausible=tuple(plausible),
            left_out=left_out,
            sample=self._told,
            most_rows=self._bench.family.most_rows,
            max_batch_size=self._bench.family.max_batch_size,
            versions={backend: kept.versions(backend) for backend in sorted(backends)},
        )

    def measure(self, settings: ReplicaSettings, replicas: int, time_limit: float) -> NodeSpeed:
        rows = self._bench.sample.roles(self._rows)
        part_rows = min(median(one.rows for one in self._fragments), max(_PART_ROWS, rows.num_rows // 4))
        return self._speed(settings, rows, replicas, int(part_rows), time_limit, self.kind.gpus)

    def prove(self, tuned: Tuned) -> Prepared:
        variant = self._bench.catalog[tuned.variant]
        return prove(self._bench, variant, chosen_by_us=self._bench.config.variant == AUTO, tuned=tuned)

    def close(self) -> None:
        """It holds nothing that this process does not."""

    @cached_property
    def _rows(self) -> pa.Table:
        """What every trial scores."""
        return self._drawn(self._fragments, 1)

    @property
    def _told(self) -> TuningSample:
        """Hold the sample against a larger draw from other fragments: half a stride further, where there are enough."""
        lengths = self._bench.sample.lengths_of(self._rows)
        others = self._drawn(self._fragments[len(self._fragments) // 32 :], _CHECK_ROWS)
        table = self._bench.sample.lengths_of(others) if lengths.mean else Lengths()
        return TuningSample(
            rows=self._rows.num_rows,
            digest=digest(self._rows),
            lengths=lengths,
            table_lengths=table,
            largest_deviation=_deviation(lengths, table),
        )

    def _drawn(self, fragments: Sequence[Fragment], times: int) -> pa.Table:
        config, sample = self._bench.config, self._bench.sample
        reader, wanted = sample.reader(config.source.columns_read), config.tuning.sample_rows * times
        return draw(fragments, reader, sample.never_null, wanted, 0, config.source.on_bad_file == "quarantine").gate


def _deviation(lengths: Lengths, table: Lengths) -> float:
    """Return the largest relative difference of any quantile, 0 where rows have no lengths."""
    pairs = [(getattr(lengths, name), getattr(table, name)) for name in ("mean", "p50", "p90", "p99")]
    return max((abs(a - b) / b for a, b in pairs if b), default=0.0)
