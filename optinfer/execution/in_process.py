"""The executor in this process, without Ray: for a small table, a notebook, a debugger, and for tests.

It runs the very class that Ray runs as an actor, one for each replica placed, and deals them fragments in turns.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Sequence
from typing import Self

import psutil

from optinfer.execution.placement import Node
from optinfer.execution.scorer import FragmentScorer, receipts
from optinfer.execution.task import ScoringTask
from optinfer.execution.todo import Todo
from optinfer.inference.engine import Engine
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.optimization.proving import Here, Prover, Proving
from optinfer.records.observation import IN_PROCESS
from optinfer.records.placement import Placement
from optinfer.records.receipt import Receipt
from optinfer.system.machine import nvidia_gpus
from optinfer.tuning.nodes import Measure, ThisNode
from optinfer.tuning.nodes import Node as TuningNode


class InProcess:
    """Replicas in this process.

    Args:
        nodes: what replicas are placed on, as if it were a cluster; None takes this machine.
        load: makes the engine of a replica.
    """

    growing = False
    where = IN_PROCESS

    def __init__(
        self, nodes: Sequence[Node] | None = None, load: Callable[[ReplicaSettings], Engine] = Replica
    ) -> None:
        self._nodes, self._load = nodes, load

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def machine(self) -> Node | None:
        nodes = self.nodes()
        return nodes[0] if len(nodes) == 1 else None

    def start(self) -> None:
        pass

    def prover(self, job: Proving, say: Callable[[str], None]) -> Prover:
        return Here(job.bench(say))

    def tuning_node(self, job: Proving, speed: Measure, say: Callable[[str], None]) -> TuningNode:
        return ThisNode(job.bench(say), job.fragments, speed)

    def nodes(self, pools: Sequence[ReplicaSettings] = ()) -> list[Node]:
        if self._nodes is not None:
            return list(self._nodes)
        return [Node(os.cpu_count() or 1, nvidia_gpus(), memory_mb=psutil.virtual_memory().available / 1e6)]

    def stream(self, task: ScoringTask, placements: Sequence[Placement], todo: Todo) -> Generator[Receipt, None, None]:
        replicas = [task.settings(gpu=place.device == "cuda") for place in placements for _ in range(place.replicas)]
        scorers = itertools.cycle([FragmentScorer(task, settings, self._load) for settings in replicas[: len(todo)]])
        for run, scorer in zip(todo.runs(len(replicas)), scorers, strict=False):
            yield from receipts(scorer({"run": run}))

    def refusals(self) -> list[str]:
        return []

    def release(self) -> None:
        pass
