"""How many replicas, what each gets, and whether that can run at all. Pure: takes numbers, gives numbers with reasons.

Reading, tokenizing and committing ride inside the replicas (they overlap with the model on a second thread), so a
placement needs no CPU beside them, and replicas may use every CPU there is without starving the reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from optinfer.config import PlacementConfig
from optinfer.errors import PlacementError

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
    """

    cpus: float
    gpus: float = 0.0
    memory_mb: float = 0.0
    accelerator: str = ""
    resources: dict[str, float] = field(default_factory=dict)
    name: str = ""


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


@dataclass(frozen=True)
class Placement:
    """What Ray is asked for; `reasons` says where each number comes from.

    Attributes:
        replicas: those that start; up to `max_replicas` join them as nodes do.
        pinned: replicas by the node that they are to be on; empty where Ray may choose.
        beside: replicas of a second variant, on the nodes without a GPU.
    """

    device: str
    replicas: int
    max_replicas: int
    threads_per_replica: int
    cpus_per_replica: float
    gpus_per_replica: float
    reasons: tuple[str, ...]
    accelerator_type: str | None = None
    resources: dict[str, float] = field(default_factory=dict)
    pinned: dict[str, int] = field(default_factory=dict)
    beside: Placement | None = None

    @property
    def parts(self) -> tuple[Placement, ...]:
        """The placement of each variant: one, or two."""
        return (self, self.beside) if self.beside else (self,)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def params(self) -> dict[str, Any]:
        """Describe it for a tracker."""
        own = {name: value for name, value in self.as_dict().items() if name not in ("pinned", "beside")}
        second = {f"beside.{name}": value for name, value in self.beside.params.items()} if self.beside else {}
        return own | second


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


def place_mixed(
    config: PlacementConfig,
    nodes: Sequence[Node],
    fragments: int,
    needs: Needs,
    beside: Needs,
    growing: bool = False,
) -> Placement:
    """Fit replicas of a CUDA variant onto the GPUs, and of a second variant onto the nodes that have none free.

    The job's wishes are for the first; the second takes what those nodes hold. Where none of it fits, the first is
    placed alone, with the reason.

    Args:
        needs, beside: what a replica of the first and of the second was measured to need.

    Raises:
        PlacementError: the first does not fit; the message has the numbers.
    """
    alone = place(config, "cuda", nodes, fragments, needs, growing)
    try:
        second = _beside(config, nodes, fragments - alone.replicas, beside)
    except PlacementError as error:
        return replace(alone, reasons=(*alone.reasons, f"no replicas beside them: {error}"))
    fixed = config.model_copy(update={"max_replicas": alone.replicas})
    first = place(fixed, "cuda", nodes, fragments, needs, growing)
    stays = "a pool of two variants keeps its size: no replica joins as nodes do"
    return replace(first, reasons=(*first.reasons, stays), beside=second)


def _beside(config: PlacementConfig, nodes: Sequence[Node], fragments: int, needs: Needs) -> Placement:
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
        reason = f"{replicas} replicas: {holds} fit on {limit}, {fragments} fragments to score"
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


def _held(config: PlacementConfig, nodes: Sequence[Node], each: _Each, needs: Needs) -> tuple[list[int], str]:
    """Return how many replicas each node holds, and what limits them."""
    limits = {f"{_listed(nodes, 'cpus')} free CPUs": [int(n.cpus // each.cpus) for n in nodes]}
    if each.gpus:
        gpus = {f"{_listed(nodes, 'gpus')} free GPUs": [_gpu_slots(n.gpus, each.gpus) for n in nodes]}
        limits = gpus | limits
    for name, amount in config.resources.items():
        free = [n.resources.get(name, 0.0) for n in nodes]
        limits[f"{'+'.join(f'{f:g}' for f in free) or '0'} free {name}"] = [int(f // amount) for f in free]
    if needs.memory_mb and nodes and all(n.memory_mb for n in nodes):
        have = "+".join(f"{n.memory_mb / 1e3:.0f}" for n in nodes)
        holds = [int(n.memory_mb * _MEMORY_SHARE // needs.memory_mb) for n in nodes]
        limits[f"{have} GB of memory at {needs.memory_mb / 1e3:.1f} GB each"] = holds
    held = [min(of_node) for of_node in zip(*limits.values(), strict=True)]
    return held, min(limits, key=lambda name: sum(limits[name]))


def _does_not_fit(
    config: PlacementConfig, nodes: Sequence[Node], each: _Each, holds: int, limit: str, wished: int
) -> str:
    """Say which wish does not fit, with the numbers and what to change."""
    shape = f"{each.threads} threads" + (f" and {each.gpus:g} GPU" if each.gpus else "")
    shape += "".join(f" and {amount:g} {name}" for name, amount in config.resources.items())
    key = "replicas" if config.replicas != "auto" else "min_replicas"
    if holds:
        return (
            f"{wished} replicas of {shape} do not fit: {limit} hold {holds}; "
            f"set placement.{key} to {holds} or less, or auto"
        )
    if each.gpus and not any(_gpu_slots(n.gpus, each.gpus) for n in nodes):
        return (
            f"a replica needs {each.gpus:g} GPU and the nodes have {_listed(nodes, 'gpus')} free; "
            "lower placement.gpus_per_replica, or run where there are GPUs"
        )
    if "memory" in limit:
        return f"a replica of {shape} fits on no node: {limit}; choose a smaller variant or a larger node"
    if any(name in limit for name in config.resources):
        return f"a replica of {shape} fits on no node: {limit}; correct placement.resources or start such a node"
    return (
        f"a replica of {shape} fits on no node (free CPUs: {_listed(nodes, 'cpus')}); "
        "lower placement.threads_per_replica, or wait until the cluster is free"
    )


def _listed(nodes: Sequence[Node], what: str) -> str:
    return "+".join(f"{getattr(n, what):g}" for n in nodes) or "0"
