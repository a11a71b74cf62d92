"""What one job knows of its cluster's nodes, and has done on them: which are alike, which may score, which refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from optinfer.execution.grounds import Grounds
from optinfer.execution.kinds import Cluster
from optinfer.execution.placement import Node
from optinfer.execution.ray_cluster import KeptAway
from optinfer.execution.speaking import Listener
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.proving import Prover, Proving
from optinfer.tuning.nodes import Measure
from optinfer.tuning.nodes import Node as TuningNode

Say = Callable[[str], None]


class JobNodes:
    """The nodes of the cluster that this process is connected to.

    Args:
        patience: seconds for which a node is waited for while none is on its way.

    Attributes:
        kept_away: knows those on which a replica refused to score.
    """

    def __init__(self, patience: float) -> None:
        self._patience, self._grounds = patience, Grounds()
        self._artifacts, self.kept_away = list[str](), KeptAway()

    def prover(self, job: Proving, free: Sequence[Node], say: Say) -> Prover:
        """Return what proves the job's variants.

        Args:
            free: what is free on each node.
        """
        from optinfer.execution.prover import prover

        return prover(job, self._cluster(free, say))

    def tuning_node(self, job: Proving, speed: Measure, free: Sequence[Node], say: Say) -> TuningNode:
        """Return the node on which the job's settings are tried."""
        from optinfer.execution.tuning_node import tuning_node

        return tuning_node(job, self._cluster(free, say), speed)

    def judged(self, free: Sequence[Node], pools: Sequence[ReplicaSettings]) -> list[Node]:
        """Return the nodes, those on which the pool that they would get cannot answer as certified with the reason."""
        artifacts = [one.artifact.key for one in pools]
        if artifacts != self._artifacts:  # nodes may be fit for these
            self._artifacts, self.kept_away = artifacts, KeptAway()
        refused = self.kept_away.look()
        there = [replace(one, unfit=refused.get(one.name, "")) for one in free]
        return there if len(there) < 2 else self._grounds.judged(there, pools)

    def _cluster(self, free: Sequence[Node], say: Say) -> Cluster:
        return Cluster(free, self._grounds, Listener(say, self._patience))
