"""What a point of `tune`'s search means for one job: replica settings, a space that fits the node, a measured trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median

import psutil
import pyarrow as pa

from optinfer.backends import BACKENDS
from optinfer.config import AUTO
from optinfer.data.fragments import Fragment
from optinfer.data.sampling import digest, draw
from optinfer.errors import ConfigError, OptinferError
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.selection import Prepared
from optinfer.optimization.workbench import Workbench
from optinfer.records.tuning import Lengths, NodeSpeed, Outcome, Point, Space, TuningSample
from optinfer.system.machine import nvidia_gpus
from optinfer.tuning.node_speed import measure_node
from optinfer.tuning.search import budgets, layouts

# The sample is held against so many times its rows, drawn from other places of the table.
_CHECK_ROWS = 4
# Rows a part holds at least: shorter ones would leave large micro-batches unfilled.
_PART_ROWS = 256
# A trial that takes so many times what its certificate promises (and a start besides) hangs.
_PATIENCE, _START_SECONDS = 10.0, 60.0
_REPLICAS_A_GPU = (1, 2, 4)


@dataclass(frozen=True)
class Effort:
    """How far a search goes, and what it measures with.

    Attributes:
        below, above: micro-batches are tried from that part of the smallest default to so many times the largest.
        rivals: so many of the best meet the default again.
        rounds: so often, in turns, so that a machine that slows down slows all of them.
        measure: measures replicas of one node together; takes and gives what `measure_node` does.
    """

    below: int = 4
    above: int = 8
    rivals: int = 2
    rounds: int = 3
    measure: Callable[[ReplicaSettings, pa.Table, int, int, float, int], NodeSpeed] = measure_node


USUAL = Effort()


@dataclass(frozen=True)
class Sample:
    """Rows that every trial scores, and how their lengths compare with `table`'s: a larger, separate draw."""

    rows: pa.Table
    lengths: Lengths
    table: Lengths

    @property
    def deviation(self) -> float:
        """The largest relative difference of any quantile, 0 where rows have no lengths."""
        pairs = [(getattr(self.lengths, name), getattr(self.table, name)) for name in ("mean", "p50", "p90", "p99")]
        return max((abs(a - b) / b for a, b in pairs if b), default=0.0)

    @property
    def told(self) -> TuningSample:
        return TuningSample(
            rows=self.rows.num_rows,
            digest=digest(self.rows),
            lengths=self.lengths,
            table_lengths=self.table,
            largest_deviation=self.deviation,
        )


class NodeTrials:
    """The trials of one job on this node.

    Args:
        bench: the job's model and families.
        plausible: variants that may win, fastest replica first.
        fragments: the job's table.
        default: replicas and threads that the job would use now.
        cpus: of this node.
        worth: from rows per second of the node to what is searched for.
        effort: how far the search goes.
    """

    def __init__(
        self,
        bench: Workbench,
        plausible: list[Prepared],
        fragments: Sequence[Fragment],
        default: tuple[int, int],
        cpus: int,
        worth: Callable[[float], float],
        effort: Effort = USUAL,
    ) -> None:
        self._bench = bench
        self.effort = effort
        self.proved = {p.variant.name: p for p in plausible}
        self.device = plausible[0].variant.device
        self._default = default
        self._cpus = cpus
        self._worth = worth
        self.sample = _sample(bench, fragments)
        self._part_rows = int(min(median(f.rows for f in fragments), max(_PART_ROWS, self.sample.rows.num_rows // 4)))
        self.memory_mb = bench.config.tuning.max_memory_mb or psutil.virtual_memory().total / 1e6

    @property
    def model(self) -> str:
        """The digest of the model that is tried."""
        return self._bench.model.key

    @property
    def by_tokens(self) -> bool:
        """Whether micro-batches are cut by tokens; else by rows."""
        return self.sample.lengths.mean > 0

    @cached_property
    def space(self) -> Space:
        """Every combination that this node could run, without what the user has fixed.

        Raises:
            ConfigError: no layout's replicas fit into the memory.
        """
        batching = self._bench.config.batching
        given = batching.max_batch_tokens if self.by_tokens else batching.max_batch_size
        most = None if self.by_tokens else self._bench.family.most_rows
        defaults = [self._default_budget(name) for name in self.proved]
        sizes = (given,) if given != AUTO else budgets(defaults, self.effort.below, self.effort.above, most)
        return Space(tuple(self.proved), sizes, self._layouts())

    def default(self, variant: str) -> Point:
        """Return what the job would run with this variant now."""
        return Point(variant, self._default_budget(variant), *self._default)

    def limits(self, point: Point) -> tuple[int, int]:
        """Return (max_batch_tokens, max_batch_size) of a point; a default stays 0, so that it is no other setting."""
        budget = 0 if point.budget == self._default_budget(point.variant) else point.budget
        return (budget, 0) if self.by_tokens else (0, budget)

    def settings(self, point: Point) -> ReplicaSettings:
        found = self.proved[point.variant].settings
        tokens, size = self.limits(point)
        return replace(
            found,
            threads=point.threads,
            max_batch_tokens=found.max_batch_tokens or tokens,
            max_batch_size=found.max_batch_size or size,
        )

    def measure(self, point: Point) -> NodeSpeed:
        """Measure a point in processes of its own.

        Raises:
            OptinferError: a replica died, raised or took too long.
        """
        certificate = self.proved[point.variant].certificate
        expected = certificate.load_seconds + self.sample.rows.num_rows / certificate.rows_per_second
        return self.effort.measure(
            self.settings(point),
            self._bench.sample.roles(self.sample.rows),
            point.replicas,
            self._part_rows,
            _START_SECONDS + _PATIENCE * expected,
            nvidia_gpus(),
        )

    def run(self, point: Point) -> Outcome:
        """Measure a point; whatever goes wrong with it is its outcome, not the end of the search."""
        try:
            speed = self.measure(point)
        except OptinferError as error:
            return Outcome(point, reason=str(error))
        excess = speed.memory_mb - self.memory_mb
        reason = f"{speed.memory_mb:.0f} MB, {self.memory_mb:.0f} are allowed" if excess > 0 else ""
        return Outcome(point, self._worth(speed.rows_per_second), reason, excess, speed)

    def _default_budget(self, variant: str) -> int:
        settings = self.proved[variant].settings
        if self.by_tokens:
            backend = BACKENDS.get(settings.backend)
            return int(settings.max_batch_tokens or backend.max_batch_tokens[settings.device])
        size = settings.max_batch_size or self._bench.family.max_batch_size
        return min(size, self._bench.family.most_rows or size)

    def _layouts(self) -> tuple[tuple[int, int], ...]:
        placement = self._bench.config.placement
        if self.device == "cuda":
            share = placement.gpus_per_replica
            gpus = nvidia_gpus()
            counts = {gpus * each for each in _REPLICAS_A_GPU} if share == AUTO else {self._default[0]}
            found = tuple(sorted((count, max(1, self._cpus // count)) for count in counts))
        else:
            given = [None if v == AUTO else v for v in (placement.replicas, placement.threads_per_replica)]
            found = layouts(self._cpus, given[0], placement.max_replicas, given[1])
        least = min(p.certificate.peak_rss_mb for p in self.proved.values())
        fit = {layout for layout in (*found, self._default) if layout[0] * least <= self.memory_mb}
        if not fit:
            raise ConfigError(
                f"tuning.max_memory_mb: a replica takes {least:.0f} MB, {self.memory_mb:.0f} MB are allowed for all; "
                "raise it"
            )
        return tuple(sorted(fit | {self._default}, reverse=True))


def _sample(bench: Workbench, fragments: Sequence[Fragment]) -> Sample:
    source, wanted = bench.config.source, bench.config.tuning.sample_rows
    skip = source.on_bad_file == "quarantine"
    reader = bench.sample.reader(source.columns_read)
    rows = draw(fragments, reader, bench.sample.never_null, wanted, 0, skip).gate
    # Half a stride further: other fragments, where there are enough of them.
    others = fragments[len(fragments) // 32 :]
    check = draw(others, reader, bench.sample.never_null, wanted * _CHECK_ROWS, 0, skip).gate
    lengths = bench.sample.lengths_of(rows)
    return Sample(rows, lengths, bench.sample.lengths_of(check) if lengths.mean else Lengths())
