"""How many replicas, what each gets, and whether that can run at all. Pure: takes numbers, gives numbers with reasons.

Reading, tokenizing and committing ride inside the replicas (they overlap with the model on a second thread), so a
placement needs no CPU beside them, and replicas may use every CPU there is without starving the reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from optinfer.config import PlacementConfig
from optinfer.errors import PlacementError
from optinfer.records.placement import Placement

# Of a node's or GPU's memory, what replicas may fill: the rest is for Ray, the page cache and the runtime itself.
_MEMORY_SHARE = 0.8
# More replicas than this never gained on one GPU's queue; Ray counts shares in steps of 0.0001.
_MOST_ON_A_GPU = 16


@dataclass(frozen=True)
class Node:
    """What is free on one machine now.

    Attributes:
        memory_mb: 0 where nobody says.
        accelerator: Ray's name of its accelerator type, empty without one.
        resources: custom Ray resources.
        name: Ray's id of it.
        unfit: why it cannot answer as the job's variant was certified; empty where nothing speaks against it.
    """

    cpus: float
    gpus: float = 0.0
    memory_mb: float = 0.0
    accelerator: str = ""
    resources: dict[str, float] = field(default_factory=dict)
    name: str = ""
    unfit: str = ""


@dataclass(frozen=True)
class Needs:
    """What one replica was measured to need; 0 where nothing was measured.

    Attributes:
        threads: the fastest number, found by tuning.
        cpus: those it should have, found by tuning: more than `threads` where it was faster that some idle.
        gpu_memory_mb, gpu_total_mb: what it takes of the GPU it was measured on, and what that GPU has.
    """

    threads: int = 0
    cpus: int = 0
    memory_mb: float = 0.0
    gpu_memory_mb: float = 0.0
    gpu_total_mb: float = 0.0


def place(
    config: PlacementConfig,
    device: str,
    nodes: Sequence[Node],
    fragments: int,
    needs: Needs | None = None,
    growing: bool = False,
) -> Placement:
    """Fit replicas onto nodes.

    Args:
        config: the job's wishes; `auto` is filled in here.
        device: the variant's device, `cpu` or `cuda`.
        nodes: free resources by machine.
        fragments: fragments to score: more replicas than that would idle.
        needs: what a replica was measured to need.
        growing: nodes may join while the job runs.

    Raises:
        PlacementError: the wishes do not fit; the message has the numbers.
    """
    needs = needs or Needs()
    if config.device not in ("auto", device):
        raise PlacementError(
            f"placement.device is {config.device} but the variant runs on {device}; "
            f"set placement.device: auto or choose a variant for {config.device}"
        )
    usable = [n for n in nodes if config.accelerator_type in (None, n.accelerator)]
    if not usable and nodes and not growing:
        have = ", ".join(sorted({n.accelerator or "none" for n in nodes}))
        raise PlacementError(
            f"no node has the accelerator {config.accelerator_type}, they have {have}; "
            "correct or remove placement.accelerator_type"
        )
    shape = _on_gpus if device == "cuda" else _on_cpus
    return _counted(config, usable, fragments, shape(config, usable, needs), needs, growing)


def place_pools(
    config: PlacementConfig,
    nodes: Sequence[Node],
    fragments: int,
    needs: Sequence[Needs],
    growing: bool = False,
) -> tuple[Placement, ...]:
    """Fit replicas of a CUDA variant onto the GPUs, and of further variants onto the nodes that have none free.

    The job's wishes are for the first pool; the others take what those nodes hold. Where none of them fits, the first
    is placed alone, with the reason.

    Args:
        needs: what a replica of each pool was measured to need.

    Raises:
        PlacementError: the first does not fit; the message has the numbers.
    """
    alone = place(config, "cuda", nodes, fragments, needs[0], growing)
    try:
        further = tuple(_on_others(config, nodes, fragments - alone.replicas, each) for each in needs[1:])
    except PlacementError as error:
        return (replace(alone, reasons=(*alone.reasons, f"no replicas beside them: {error}")),)
    fixed = config.model_copy(update={"max_replicas": alone.replicas})
    first = place(fixed, "cuda", nodes, fragments, needs[0], growing)
    stays = "a pool of two variants keeps its size: no replica joins as nodes do"
    return (replace(first, reasons=(*first.reasons, stays)), *further)


def _on_others(config: PlacementConfig, nodes: Sequence[Node], fragments: int, needs: Needs) -> Placement:
    without = [node for node in nodes if not node.gpus]
    if not without:
        raise PlacementError("every node has a free GPU")
    if fragments < 1:
        raise PlacementError("there are no more fragments than replicas on GPUs")
    wishes = PlacementConfig(resources=config.resources)
    each = _on_cpus(wishes, without, needs)
    placement = _counted(wishes, without, fragments, each, needs, growing=False)
    held, _ = _held(wishes, without, each, needs)
    slots = [(turn, node.name) for node, count in zip(without, held, strict=True) for turn in range(count)]
    spread = sorted(slots, key=lambda slot: slot[0])[: placement.replicas]
    pinned = dict(Counter(name for _, name in spread))
    where = f"{len(pinned)} of {len(without)} nodes without a free GPU"
    return replace(placement, pinned=pinned, reasons=(*placement.reasons, where))


@dataclass(frozen=True)
class _Each:
    """What one replica gets."""

    device: str
    threads: int
    cpus: int
    gpus: float
    why: tuple[str, ...]


@dataclass(frozen=True)
class _Limit:
    """What bounds the replicas on nodes like these: how many each node holds of it, and how it is said."""

    of: Literal["cpus", "gpus", "memory", "resource"]
    said: str
    holds: list[int]


def _on_cpus(config: PlacementConfig, nodes: Sequence[Node], needs: Needs) -> _Each:
    if config.threads_per_replica != "auto":
        threads, why = config.threads_per_replica, "placement.threads_per_replica"
    elif config.replicas != "auto":
        threads = _most_threads(nodes, config.replicas)
        why = f"{_listed(nodes, 'cpus')} free CPUs shared by {config.replicas} replicas"
    elif needs.threads:
        threads, why = needs.threads, "fastest when this model was tuned on such a machine"
    else:
        # Several one-thread replicas beat one replica with as many threads: no thread waits for another's part.
        threads, why = 1, "one thread each: measured faster than fewer replicas with more threads"
    cpus, reasons = _cpus(config, nodes, threads, needs), [f"{threads} threads a replica: {why}"]
    if cpus > threads:
        reasons.append(f"{cpus} CPUs a replica: it was faster that some idle when this model was tuned")
    return _Each("cpu", threads, cpus, 0.0, tuple(reasons))


def _cpus(config: PlacementConfig, nodes: Sequence[Node], threads: int, needs: Needs) -> int:
    """Return the CPUs that a replica takes: its threads, or more where that is better, possible, and left to us."""
    left_to_us = config.replicas == config.threads_per_replica == "auto" and not config.min_replicas
    return max(needs.cpus, threads) if left_to_us and any(n.cpus >= needs.cpus for n in nodes) else threads


def _most_threads(nodes: Sequence[Node], replicas: int) -> int:
    """Return the most threads a replica can have so that all fit; 1 where they do not fit anyway."""
    most = int(sum(n.cpus for n in nodes) // replicas)
    return next((t for t in range(most, 1, -1) if sum(int(n.cpus // t) for n in nodes) >= replicas), 1)


def _on_gpus(config: PlacementConfig, nodes: Sequence[Node], needs: Needs) -> _Each:
    share, why = _gpu_share(config, needs)
    slots = [(node.cpus, _gpu_slots(node.gpus, share)) for node in nodes]
    spare = min((int(cpus // count) for cpus, count in slots if count), default=1)
    threads = max(1, spare) if config.threads_per_replica == "auto" else config.threads_per_replica
    if threads > spare:
        raise PlacementError(
            f"{threads} CPU threads beside each GPU replica do not fit, {spare} are free for each; "
            "lower placement.threads_per_replica or raise placement.gpus_per_replica"
        )
    return _Each(
        "cuda",
        threads,
        threads,
        share,
        (why, f"{threads} threads a replica: CPUs of the node shared by its GPU replicas"),
    )


def _gpu_share(config: PlacementConfig, needs: Needs) -> tuple[float, str]:
    if config.gpus_per_replica != "auto":
        return config.gpus_per_replica, f"{config.gpus_per_replica:g} GPU a replica: placement.gpus_per_replica"
    if not needs.gpu_memory_mb or not needs.gpu_total_mb:
        return 1.0, "1 GPU a replica: nobody measured what one takes of a GPU's memory"
    count = max(1, min(_MOST_ON_A_GPU, int(needs.gpu_total_mb * _MEMORY_SHARE // needs.gpu_memory_mb)))
    share = int(10_000 / count) / 10_000
    return share, f"{share:g} GPU a replica: {needs.gpu_memory_mb:,.0f} MB each of {needs.gpu_total_mb:,.0f} MB"


def _gpu_slots(gpus: float, share: float) -> int:
    """Return how many replicas fit on one node's GPUs; a share below 1 never spans two GPUs."""
    return int(gpus // share) if share >= 1 else int(gpus) * int(1 / share)


def _counted(
    config: PlacementConfig, nodes: Sequence[Node], fragments: int, each: _Each, needs: Needs, growing: bool
) -> Placement:
    held, limit = _held(config, nodes, each, needs)
    holds = sum(held)
    wished = config.replicas if config.replicas != "auto" else config.min_replicas or 1
    if holds < wished and not (growing and config.max_replicas):
        raise PlacementError(_does_not_fit(config, nodes, each, holds, limit, wished))
    if config.replicas != "auto":
        replicas, reason = config.replicas, "placement.replicas"
        most = replicas
    else:
        top = config.max_replicas or max(holds, fragments)
        replicas = max(wished, min(holds, fragments, top))
        most = max(replicas, min(top, fragments)) if growing else replicas
        reason = f"{replicas} replicas: {holds} fit on {limit.said}, {fragments} fragments to score"
    reasons = [reason, *each.why]
    if most > replicas:
        reasons.append(f"up to {most} replicas as nodes join: placement.max_replicas and fragments to score")
    return Placement(
        each.device,
        replicas,
        most,
        each.threads,
        float(each.cpus),
        each.gpus,
        tuple(reasons),
        config.accelerator_type,
        dict(config.resources),
    )


def _held(config: PlacementConfig, nodes: Sequence[Node], each: _Each, needs: Needs) -> tuple[list[int], _Limit]:
    """Return how many replicas each node holds, and what limits them."""
    limits = []
    if each.gpus:
        slots = [_gpu_slots(n.gpus, each.gpus) for n in nodes]
        limits.append(_Limit("gpus", f"{_listed(nodes, 'gpus')} free GPUs", slots))
    limits.append(_Limit("cpus", f"{_listed(nodes, 'cpus')} free CPUs", [int(n.cpus // each.cpus) for n in nodes]))
    for name, amount in config.resources.items():
        free = [n.resources.get(name, 0.0) for n in nodes]
        said = f"{'+'.join(f'{f:g}' for f in free) or '0'} free {name}"
        limits.append(_Limit("resource", said, [int(f // amount) for f in free]))
    if needs.memory_mb and nodes and all(n.memory_mb for n in nodes):
        have = "+".join(f"{n.memory_mb / 1e3:.0f}" for n in nodes)
        holds = [int(n.memory_mb * _MEMORY_SHARE // needs.memory_mb) for n in nodes]
        limits.append(_Limit("memory", f"{have} GB of memory at {needs.memory_mb / 1e3:.1f} GB each", holds))
    held = [min(of_node) for of_node in zip(*(limit.holds for limit in limits), strict=True)]
    return held, min(limits, key=lambda limit: sum(limit.holds))


def _does_not_fit(
    config: PlacementConfig, nodes: Sequence[Node], each: _Each, holds: int, limit: _Limit, wished: int
) -> str:
    """Say which wish does not fit, with the numbers and what to change."""
    shape = f"{each.threads} threads" + (f" and {each.gpus:g} GPU" if each.gpus else "")
    shape += "".join(f" and {amount:g} {name}" for name, amount in config.resources.items())
    key = "replicas" if config.replicas != "auto" else "min_replicas"
    if holds:
        return (
            f"{wished} replicas of {shape} do not fit: {limit.said} hold {holds}; "
            f"set placement.{key} to {holds} or less, or auto"
        )
    if each.gpus and not any(_gpu_slots(n.gpus, each.gpus) for n in nodes):
        return (
            f"a replica needs {each.gpus:g} GPU and the nodes have {_listed(nodes, 'gpus')} free; "
            "lower placement.gpus_per_replica, or run where there are GPUs"
        )
    if limit.of == "memory":
        return f"a replica of {shape} fits on no node: {limit.said}; choose a smaller variant or a larger node"
    if limit.of == "resource":
        return f"a replica of {shape} fits on no node: {limit.said}; correct placement.resources or start such a node"
    return (
        f"a replica of {shape} fits on no node (free CPUs: {_listed(nodes, 'cpus')}); "
        "lower placement.threads_per_replica, or wait until the cluster is free"
    )


def _listed(nodes: Sequence[Node], what: str) -> str:
    return "+".join(f"{getattr(n, what):g}" for n in nodes) or "0"
