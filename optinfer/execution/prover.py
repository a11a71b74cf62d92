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
from functools import partial
from typing import Any

from optinfer.config import AUTO, JobConfig, PlacementConfig
from optinfer.errors import OptinferError
from optinfer.execution.grounds import asked
from optinfer.execution.parcels import Parcels, kept_for_others, parcels_of
from optinfer.execution.placement import Node
from optinfer.models.artifact import Artifact
from optinfer.optimization.proving import Here, Prover, Proving
from optinfer.optimization.selection import Prepared, Skipped, candidates, prove_all
from optinfer.optimization.subject import Subject
from optinfer.optimization.workbench import Workbench
from optinfer.system import last_resort

Say = Callable[[str], None]

# Nodes of one kind that are tried, one after another, while they end in mid-proof.
_ATTEMPTS = 3
# What a node does on its bench.
Work = Callable[[Workbench], Iterator[Prepared | Skipped]]


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
            found = list(self._done(job, partial(_candidate, only, earlier)))
            if not found:
                return
            yield from (one for one in found if isinstance(one, Prepared))

    def everything(self, names: Sequence[str] | None = None) -> Iterator[Prepared | Skipped]:
        """Yield what `selection.prove_all` does there; raises as `candidates` does."""
        return self._done(self._job, partial(_all, names))

    def _done(self, job: Proving, work: Work) -> Iterator[Prepared | Skipped]:
        """Yield what a node makes of the work; where it ends before it has found anything, the next one does it."""
        import ray

        config, lost = job.subject.config, ""
        device = _device(config, job.subject, self._nodes)
        files = parcels_of(job.subject.model)
        anywhere: list[Node | None] = [None] * _ATTEMPTS  # where there is none yet, the first that comes
        for node in _kind(self._nodes, config, device)[:_ATTEMPTS] or anywhere:
            self._say(f"proving on {f'node {node.name[:8]}' if node else 'the first node that is free for it'}")
            asking = ray.remote(_prove).options(num_returns="streaming", max_retries=0, **_share(config, device, node))
            begun = False
            try:
                for found in self._heard(asking.remote(job, files, work)):
                    begun = True
                    yield found
                return
            except ray.exceptions.RayError as error:
                lost = last_resort.named(error)
                if begun:
                    break
        raise OptinferError(
            f"no node that could prove the job's variants lived long enough: {lost}; check their memory "
            "(`ray memory`, `ray list nodes`), then run the same command again"
        )

    def _heard(self, answers: Any) -> Iterator[Prepared | Skipped]:
        """Yield what a node found, its files on this node, and say what it says meanwhile."""
        import ray

        for answer in answers:
            kind, value = ray.get(answer)
            if kind == "line":
                self._say(value)
            elif kind == "error":
                raise last_resort.again(value)
            elif isinstance(value, Proved):
                here = replace(value.parcels, at_hand={value.model.path: self.subject.model.path})
                yield replace(value.prepared, settings=here.placed(value.prepared.settings))
            elif kind == "found":
                yield value


def _prove(job: Proving, files: Parcels, work: Work) -> Iterator[tuple[str, object]]:
    """Do the work on this node; yield (`line`, what is going on) and (`found`, Proved or Skipped), then the end.

    That is (`end`, None) or (`error`, what `last_resort.told` makes of it).
    """
    words: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()

    def do() -> None:
        try:
            model = files.artifact(job.subject.model)
            bench = job.on(model).bench(lambda line: words.put(("line", line)))
            for one in work(bench):
                proof = Proved(one, model, kept_for_others(one.settings)) if isinstance(one, Prepared) else one
                words.put(("found", proof))
            words.put(("end", None))
        except Exception as error:
            words.put(("error", last_resort.told(error)))

    threading.Thread(target=do, name="optinfer-prove", daemon=True).start()
    kind = ""
    while kind not in ("end", "error"):
        kind, value = words.get()
        yield kind, value


def _candidate(only: str | None, earlier: int, bench: Workbench) -> Iterator[Prepared]:
    """Yield the candidate that comes after so many; nothing where there are no more."""
    return itertools.islice(candidates(bench, only), earlier, earlier + 1)


def _all(names: Sequence[str] | None, bench: Workbench) -> Iterator[Prepared | Skipped]:
    return prove_all(bench, names)


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
