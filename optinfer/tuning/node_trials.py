"""What a point of `tune`'s search means for one job: replica settings, a space that fits the node, a measured trial.

The node is this one or another (tuning/nodes.py): it answers with plain values, and measures what it is asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from optinfer.backends import BACKENDS
from optinfer.config import AUTO, JobConfig
from optinfer.errors import ConfigError, OptinferError
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.selection import Prepared
from optinfer.records.tuning import NodeSpeed, Outcome, Point, Space
from optinfer.tuning.node_speed import measure_node
from optinfer.tuning.nodes import Facts, Measure, Node
from optinfer.tuning.search import budgets, layouts

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
    measure: Measure = measure_node


USUAL = Effort()


class NodeTrials:
    """The trials of one job on one node.

    Args:
        node: that measures.
        config: the job.
        default: replicas and threads that the job would use now.
        worth: from rows per second of the node to what is searched for.
        effort: how far the search goes.
    """

    def __init__(
        self,
        node: Node,
        config: JobConfig,
        default: tuple[int, int],
        worth: Callable[[float], float],
        effort: Effort = USUAL,
    ) -> None:
        self._node, self._config, self._default, self._worth = node, config, default, worth
        self.effort = effort
        self.facts: Facts = node.facts
        self.proved: dict[str, Prepared] = {one.variant.name: one for one in self.facts.plausible}
        self.device = self.facts.device
        self.memory_mb = config.tuning.max_memory_mb or self.facts.memory_mb

    @property
    def by_tokens(self) -> bool:
        """Whether micro-batches are cut by tokens; else by rows."""
        return self.facts.sample.lengths.mean > 0

    @cached_property
    def space(self) -> Space:
        """Every combination that this node could run, without what the user has fixed.

        Raises:
            ConfigError: no layout's replicas fit into the memory.
        """
        batching = self._config.batching
        given = batching.max_batch_tokens if self.by_tokens else batching.max_batch_size
        most = None if self.by_tokens else self.facts.most_rows
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
        expected = certificate.load_seconds + self.facts.sample.rows / certificate.rows_per_second
        return self._node.measure(self.settings(point), point.replicas, _START_SECONDS + _PATIENCE * expected)

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
        size = settings.max_batch_size or self.facts.max_batch_size
        return min(size, self.facts.most_rows or size)

    def _layouts(self) -> tuple[tuple[int, int], ...]:
        placement = self._config.placement
        if self.device == "cuda":
            share = placement.gpus_per_replica
            gpus = self.facts.kind.gpus
            counts = {gpus * each for each in _REPLICAS_A_GPU} if share == AUTO else {self._default[0]}
            found = tuple(sorted((count, max(1, self.facts.kind.cpus // count)) for count in counts))
        else:
            given = [None if v == AUTO else v for v in (placement.replicas, placement.threads_per_replica)]
            found = layouts(self.facts.kind.cpus, given[0], placement.max_replicas, given[1])
        least = min(p.certificate.peak_rss_mb for p in self.proved.values())
        fit = {layout for layout in (*found, self._default) if layout[0] * least <= self.memory_mb}
        if not fit:
            raise ConfigError(
                f"tuning.max_memory_mb: a replica takes {least:.0f} MB, {self.memory_mb:.0f} MB are allowed for all; "
                "raise it"
            )
        return tuple(sorted(fit | {self._default}, reverse=True))
