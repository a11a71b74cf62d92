"""Proves variants on a node of the kind that will score: building and measuring run there, and the driver needs none
of what the model needs.

What a node made comes to the driver's node, by content, and from there to the nodes that score (parcels.py): the node
that proved may be gone by then. One candidate is proved at a time, by a task that holds nothing once it has answered;
the next one finds what that left in the node's home.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optinfer.config import AUTO, JobConfig, PlacementConfig
from optinfer.errors import OptinferError
from optinfer.execution.grounds import asked
from optinfer.execution.parcels import Parcels, kept_for_others, parcels_of
from optinfer.execution.placement import Node
from optinfer.models.artifact import Artifact
from optinfer.optimization.proving import Here, Prover, Proving
from optinfer.optimization.selection import Prepared, candidates
from optinfer.optimization.subject import Subject
from optinfer.system import last_resort

Say = Callable[[str], None]

# Nodes of one kind that are tried, one after another, while they end in mid-proof.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Proved:
    """What a node answers: a proof, the model as it lies there, and how to fetch what was made."""

    prepared: Prepared
    model: Artifact
    parcels: Parcels


def prover(job: Proving, say: Say, nodes: Sequence[Node]) -> Prover:
    """Return what proves the job's variants: this node where replicas of theirs will be on its like, else one of those.

    Args:
        nodes: of the cluster, with what is free.
    """
    import ray

    own = ray.get_runtime_context().get_node_id()
    config = job.subject.config
    kind = _kind(nodes, config, _device(config, job.subject, nodes))
    return Here(job.bench(say)) if own in {node.name for node in kind} else OnItsNodes(job, say, nodes)


class OnItsNodes:
    """Proves each pool's variants on a node of its kind."""

    def __init__(self, job: Proving, say: Say, nodes: Sequence[Node]) -> None:
        self._job, self._say, self._nodes = job, say, nodes

    @property
    def subject(self) -> Subject:
        return self._job.subject

    def candidates(self, config: JobConfig, only: str | None = None) -> Iterator[Prepared]:
        """Yield what `selection.candidates` does there.

        Raises:
            OptinferError: what proving raised, of its own class; or no node lived long enough.
        """
        job = self._job.for_job(config)
        for earlier in itertools.count():
            proved = self._proved(job, only, earlier)
            if proved is None:
                return
            yield self._fetched(proved)

    def _proved(self, job: Proving, only: str | None, earlier: int) -> Proved | None:
        import ray

        config, lost = job.subject.config, ""
        device = _device(config, job.subject, self._nodes)
        kind = _kind(self._nodes, config, device)
        files = parcels_of(job.subject.model)
        # Where there is none yet, any that comes.
        anywhere: list[Node | None] = [None] * _ATTEMPTS
        for node in kind[:_ATTEMPTS] or anywhere:
            self._say(f"proving on {f'node {node.name[:8]}' if node else 'the first node that is free for it'}")
            asking = ray.remote(_prove).options(num_returns="streaming", max_retries=0, **_share(config, device, node))
            try:
                return self._heard(asking.remote(job, files, only, earlier))
            except ray.exceptions.RayError as error:
                lost = last_resort.named(error)
        raise OptinferError(
            f"no node that could prove the job's variants lived long enough: {lost}; check their memory "
            "(`ray memory`, `ray list nodes`), then run the same command again"
        )

    def _heard(self, answers: Any) -> Proved | None:
        """Return what a node found, and say what it says meanwhile."""
        import ray

        for answer in answers:
            kind, value = ray.get(answer)
            if kind == "line":
                self._say(value)
            elif kind == "error":
                raise last_resort.again(value)
            else:
                found: Proved | None = value
                return found
        raise AssertionError("a node's last word is what it found, or why not")

    def _fetched(self, proved: Proved) -> Prepared:
        """Return a proof with its files on this node."""
        here = replace(proved.parcels, at_hand={proved.model.path: self.subject.model.path})
        return replace(proved.prepared, settings=here.placed(proved.prepared.settings))


def _prove(job: Proving, files: Parcels, only: str | None, earlier: int) -> Iterator[tuple[str, object]]:
    """Prove the candidate that comes after so many; yield (`line`, what is going on), then the end.

    That is (`proved`, a Proved, or None where there are no more) or (`error`, what `last_resort.told` makes of it).
    """
    words: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()

    def work() -> None:
        try:
            words.put(("proved", _found(job, files, only, earlier, lambda line: words.put(("line", line)))))
        except Exception as error:
            words.put(("error", last_resort.told(error)))

    threading.Thread(target=work, name="optinfer-prove", daemon=True).start()
    kind = "line"
    while kind == "line":
        kind, value = words.get()
        yield kind, value


def _found(job: Proving, files: Parcels, only: str | None, earlier: int, say: Say) -> Proved | None:
    model = files.artifact(job.subject.model)
    bench = job.on(model).bench(say)
    prepared = next(itertools.islice(candidates(bench, only), earlier, None), None)
    if prepared is None:
        return None
    return Proved(prepared, model, kept_for_others(prepared.settings))


def _device(config: JobConfig, subject: Subject, nodes: Sequence[Node]) -> str:
    """Return the device of the nodes on which the job's variants are proved: where any may win, one with a GPU."""
    wished = config.placement.device
    if config.variant != AUTO:
        return subject.catalog[config.variant].device
    return wished if wished != AUTO else "cuda" if any(node.gpus for node in nodes) else "cpu"


def _kind(nodes: Sequence[Node], config: JobConfig, device: str) -> list[Node]:
    """Return the nodes that may score on a device and are alike, the freest first: the kind with most to give."""
    fit = [node for node in nodes if _may_score(node, config.placement, device)]
    fit.sort(key=lambda node: -node.cpus)
    if len(fit) < 2:
        return fit
    known = asked(fit)
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


def _share(config: JobConfig, device: str, node: Node | None) -> dict[str, Any]:
    """Return what a proof takes of a node: a replica's CPU or GPU, so that nobody else's disturbs what is measured."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    wishes = config.placement
    gpus = 1 if device == "cuda" else 0
    share: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "resources": dict(wishes.resources)}
    if node is not None:
        return {**share, "scheduling_strategy": NodeAffinitySchedulingStrategy(node.name, soft=False)}
    return {**share, "accelerator_type": wishes.accelerator_type} if wishes.accelerator_type else share
