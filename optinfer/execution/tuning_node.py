"""A node of a cluster on which `tune` tries settings: of the kind that will score, and all of it.

The bench stays there while the search, which is the driver's, asks for one setting after the other. What is proved
lies in that node's home; what won, and how far the search came, in the driver's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

from optinfer.errors import OptinferError
from optinfer.execution import kinds
from optinfer.execution.parcels import Parcels, parcels_of
from optinfer.execution.ray_cluster import cpus_of, own_cpus
from optinfer.execution.speaking import Say, Spoken, spoken
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.proving import Proving
from optinfer.optimization.selection import Prepared
from optinfer.records.tuning import NodeKind, NodeSpeed, Tuned
from optinfer.system import last_resort
from optinfer.tuning.nodes import Facts, Measure, ThisNode

# What is asked of a node.
Ask = Callable[[ThisNode], Any]


def tuning_node(job: Proving, cluster: kinds.Cluster, speed: Measure) -> OtherNode:
    """Return the freest node of the kind that would score; where there is none yet, the first that comes.

    Raises:
        OptinferError: none came, or none is all free, in the time that a job waits for one.
    """
    free = cluster.alike(job.subject)
    return OtherNode(job, cluster, speed, free[0].name if free else _first(job, cluster))


def _first(job: Proving, cluster: kinds.Cluster) -> str:
    """Wait for a node on which the job could be proved, and name it."""
    import ray

    config, device = job.subject.config, cluster.device(job.subject)
    cluster.say("tuning on the first node that is free for it")
    asking = ray.remote(_named).options(num_returns="streaming", **kinds.share(config, device, None))
    (name,) = cluster.listener.heard(asking.remote(), kinds.described(config, device))
    return str(name)


def _named() -> Iterator[Spoken]:
    import ray

    yield from spoken(lambda say: [ray.get_runtime_context().get_node_id()])


class OtherNode:
    """That node, through an actor that takes all of its CPUs, or GPUs: nobody else's work disturbs what is measured."""

    def __init__(self, job: Proving, cluster: kinds.Cluster, speed: Measure, node: str) -> None:
        import ray

        self._cluster, self._node, cpus = cluster, node, cpus_of(node)
        self._needs = f"all {cpus} CPUs of node {node[:8]}"
        cluster.say(f"tuning with {self._needs}")
        gpus = cpus_of(node, "GPU") if cluster.device(job.subject) == "cuda" else 0
        actor = ray.remote(_Bench).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, **kinds.on(node))
        self._actor = actor.remote(cluster.sent(job), parcels_of(job.subject.model), speed)

    @cached_property
    def kind(self) -> NodeKind:
        found: NodeKind = self._asked(_kind)
        return found

    @cached_property
    def facts(self) -> Facts:
        found: Facts = self._asked(_facts)
        return found

    def measure(self, settings: ReplicaSettings, replicas: int, time_limit: float) -> NodeSpeed:
        found: NodeSpeed = self._asked(partial(_measured, settings, replicas, time_limit))
        return found

    def prove(self, tuned: Tuned) -> Prepared:
        found: Prepared = self._asked(partial(_proved, tuned))
        return found

    def close(self) -> None:
        """End the actor, so that others may have its CPUs while this program goes on."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # the cluster went, and the actor with it
            ray.kill(self._actor)

    def _asked(self, ask: Ask) -> Any:
        """Return what the node answers, and say meanwhile what it says.

        Raises:
            OptinferError: of its own class, what was raised there; or the node is gone.
        """
        import ray

        asking = self._actor.do.options(num_returns="streaming")
        try:
            (found,) = self._cluster.listener.heard(asking.remote(ask), self._needs)
        except ray.exceptions.RayError as error:
            raise OptinferError(
                f"node {self._node[:8]}, on which settings were tried, was lost: {last_resort.named(error)}; run the "
                "same command again: the search goes on from the trials that ended"
            ) from error
        return found


class _Bench:
    """The actor there."""

    def __init__(self, job: Proving, files: Parcels, speed: Measure) -> None:
        self._job, self._files, self._speed = job, files, speed
        self._node: ThisNode | None = None
        self._say: Say = lambda line: None

    def do(self, ask: Ask) -> Iterator[Spoken]:
        yield from spoken(partial(self._answers, ask))

    def _answers(self, ask: Ask, say: Say) -> Iterator[object]:
        self._say = say
        yield ask(self._opened())

    def _opened(self) -> ThisNode:
        if self._node is None:
            job = self._job.on(self._files.artifact(self._job.subject.model)).counting(own_cpus())
            self._node = ThisNode(job.bench(lambda line: self._say(line)), job.fragments, self._speed)
        return self._node


def _kind(node: ThisNode) -> NodeKind:
    return node.kind


def _facts(node: ThisNode) -> Facts:
    return node.facts


def _measured(settings: ReplicaSettings, replicas: int, time_limit: float, node: ThisNode) -> NodeSpeed:
    return node.measure(settings, replicas, time_limit)


def _proved(tuned: Tuned, node: ThisNode) -> Prepared:
    return node.prove(tuned)
