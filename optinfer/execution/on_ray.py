"""The executor on Ray: a cluster, or Ray started on this machine for the job."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from typing import Self

import psutil

from optinfer.execution.cluster import Connection
from optinfer.execution.job_nodes import JobNodes
from optinfer.execution.placement import Node
from optinfer.execution.stop import PATIENCE_SECONDS, Stop
from optinfer.execution.task import ScoringTask
from optinfer.execution.todo import Todo
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.proving import Here, Prover, Proving
from optinfer.records.observation import ON_CLUSTER, ON_RAY
from optinfer.records.placement import Placement
from optinfer.records.receipt import Receipt
from optinfer.system.machine import nvidia_gpus
from optinfer.tuning.nodes import Measure, ThisNode
from optinfer.tuning.nodes import Node as TuningNode


class OnRay:
    """Ray for one job.

    Args:
        address: None uses `RAY_ADDRESS` or starts Ray here; `local` always starts it; else a cluster's address.
        patience: seconds in which nothing can move, after which the job ends.
    """

    def __init__(self, address: str | None = None, patience: float = PATIENCE_SECONDS) -> None:
        self._stop = Stop(patience)
        self._nodes = JobNodes(patience)
        self._connection = Connection(address, when_lost=self._stop)

    def __enter__(self) -> Self:
        self._connection.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.__exit__(*error)

    @property
    def where(self) -> str:
        return ON_CLUSTER if self.growing else ON_RAY

    @property
    def growing(self) -> bool:
        """Tell whether nodes may join: not where Ray was started here for this job alone."""
        return self._connection.growing

    def machine(self) -> Node | None:
        """Return this machine where Ray will be started on it; what Ray knows of a cluster, nobody else does."""
        if not self._connection.starts_here:
            return None
        return Node(os.cpu_count() or 1, nvidia_gpus(), memory_mb=psutil.virtual_memory().total / 1e6)

    def start(self) -> None:
        self._connection.open()
        # While Ray starts: importing what streams takes nearly as long.
        from optinfer.execution import pipeline  # noqa: F401

    def prover(self, job: Proving, say: Callable[[str], None]) -> Prover:
        if self._connection.starts_here:
            return Here(job.bench(say))  # Ray will be started on this node, and is not needed yet
        self.start()
        return self._nodes.prover(job, self.nodes(), say)

    def tuning_node(self, job: Proving, speed: Measure, say: Callable[[str], None]) -> TuningNode:
        if self._connection.starts_here:
            return ThisNode(job.bench(say), job.fragments, speed)
        self.start()
        return self._nodes.tuning_node(job, speed, self.nodes(), say)

    def nodes(self, pools: Sequence[ReplicaSettings] = ()) -> list[Node]:
        self._connection.ready()
        if pools and not any(node.cpus >= 1 for node in self._connection.free()):
            self._connection.free_again()  # the node that proved them came since
        free = self._connection.free()
        return self._nodes.judged(free, pools) if pools else free

    def stream(self, task: ScoringTask, placements: Sequence[Placement], todo: Todo) -> Generator[Receipt, None, None]:
        from optinfer.execution.pipeline import Streaming, stream

        how = Streaming(self._stop, self._nodes.kept_away, here_alone=not self.growing)
        yield from stream(task, placements, todo, how)

    def refusals(self) -> list[str]:
        return self._nodes.kept_away.told()

    def release(self) -> None:
        self._connection.release()
