"""Which nodes of a cluster are of the kind that will score a job, and what work takes of one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optinfer.config import AUTO, JobConfig, PlacementConfig
from optinfer.execution.grounds import Grounds
from optinfer.execution.placement import Node
from optinfer.execution.speaking import Listener, Say
from optinfer.optimization.proving import Proving
from optinfer.optimization.subject import Subject
from optinfer.tuning import kept


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster as they stand, and what this command knows of them.

    Attributes:
        nodes: with what is free.
        listener: hears what they say.
    """

    nodes: Sequence[Node]
    grounds: Grounds
    listener: Listener

    @property
    def say(self) -> Say:
        return self.listener.say

    @staticmethod
    def sent(job: Proving) -> Proving:
        """Return a job as it travels to a node: with what was tuned for such ones, which lies in this home."""
        records = kept.carried()
        return job.with_records(records.lookup, any_tuned=bool(records.records))

    def device(self, subject: Subject) -> str:
        return device_of(subject, self.nodes)

    def alike(self, subject: Subject) -> list[Node]:
        """Return the nodes of the kind that would score the job, the freest first."""
        return alike(self.nodes, subject.config, self.device(subject), self.grounds)


def device_of(subject: Subject, nodes: Sequence[Node]) -> str:
    """Return the device of the nodes on which the job's variants are proved: where any may win, one with a GPU."""
    config = subject.config
    wished = config.placement.device
    if config.variant != AUTO:
        return subject.catalog[config.variant].device
    return wished if wished != AUTO else "cuda" if any(node.gpus for node in nodes) else "cpu"


def alike(nodes: Sequence[Node], config: JobConfig, device: str, grounds: Grounds) -> list[Node]:
    """Return the nodes that may score on a device and are alike, the freest first: the kind with most to give."""
    fit = [node for node in nodes if _may_score(node, config.placement, device)]
    fit.sort(key=lambda node: (-node.cpus, node.name))
    if len(fit) < 2:
        return fit
    known = grounds.asked(fit)
    kinds = defaultdict(list)
    for node in fit:
        if node.name in known:
            ground = known[node.name][1]
            kinds[ground.cpu_features, ground.gpu].append(node)
    worth = (lambda node: node.gpus) if device == "cuda" else (lambda node: node.cpus)
    return max(kinds.values(), key=lambda alike: sum(map(worth, alike)), default=[])


def _may_score(node: Node, wishes: PlacementConfig, device: str) -> bool:
    has = all(node.resources.get(name, 0) >= amount for name, amount in wishes.resources.items())
    has_device = node.gpus > 0 if device == "cuda" else node.cpus >= 1
    return has and has_device and wishes.accelerator_type in (None, node.accelerator)


def share(config: JobConfig, device: str, node: Node | None) -> dict[str, Any]:
    """Return what a proof takes of a node: a replica's CPU or GPU, so that nobody else's disturbs what is measured.

    Args:
        node: None takes the first that has it free.
    """
    wishes = config.placement
    gpus = 1 if device == "cuda" else 0
    taken: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "resources": dict(wishes.resources)}
    if node is not None:
        return {**taken, **on(node.name)}
    return {**taken, "accelerator_type": wishes.accelerator_type} if wishes.accelerator_type else taken


def on(node: str) -> dict[str, Any]:
    """Return what keeps work on the node of this id."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def described(config: JobConfig, device: str) -> str:
    """Say what a proof takes of a node."""
    wishes = config.placement
    extra = [f"{amount:g} {name}" for name, amount in wishes.resources.items()]
    extra += [f"accelerator {wishes.accelerator_type}"] if wishes.accelerator_type else []
    return " and ".join(["1 CPU", *(["1 GPU"] if device == "cuda" else []), *extra])
