"""How many replicas, what each gets, and whether that can run at all. Pure: takes numbers, gives numbers with reasons.

Reading, tokenizing and committing ride inside the replicas (they overlap with the model on a second thread), so a
placement needs no CPU beside them, and replicas may use every CPU there is without starving the reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optinfer.config import PlacementConfig
from optinfer.errors import PlacementError


@dataclass(frozen=True)
class Node:
    """CPUs and GPUs of one machine that are free now."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Placement:
    """What Ray is asked for; `reasons` says where each number comes from."""

    device: str
    replicas: int
    threads_per_replica: int
    cpus_per_replica: float
    gpus_per_replica: float
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def place(config: PlacementConfig, device: str, nodes: Sequence[Node], fragments: int) -> Placement:
    """Fit replicas onto nodes.

    Args:
        config: the job's wishes; `auto` is filled in here.
        device: the variant's device, `cpu` or `cuda`.
        nodes: free resources by machine.
        fragments: fragments to score: more replicas than that would idle.

    Raises:
        PlacementError: the wishes do not fit; the message has the numbers.
    """
    if config.device not in ("auto", device):
        raise PlacementError(
            f"placement.device is {config.device} but the variant runs on {device}; "
            f"set placement.device: auto or choose a variant for {config.device}"
        )
    return _on_gpus(config, nodes, fragments) if device == "cuda" else _on_cpus(config, nodes, fragments)


def _on_cpus(config: PlacementConfig, nodes: Sequence[Node], fragments: int) -> Placement:
    free = "+".join(f"{n.cpus:g}" for n in nodes) or "0"
    if config.threads_per_replica == "auto":
        # Several one-thread replicas beat one replica with as many threads: no thread waits for another's part.
        threads, why = 1, "one thread each: measured faster than fewer replicas with more threads"
        if config.replicas != "auto":
            threads = _most_threads(nodes, config.replicas)
            why = f"{free} free CPUs shared by {config.replicas} replicas"
    else:
        threads, why = config.threads_per_replica, "placement.threads_per_replica"
    fit = sum(int(n.cpus // threads) for n in nodes)
    if fit == 0:
        raise PlacementError(
            f"a replica of {threads} threads fits on no node (free CPUs: {free}); "
            "lower placement.threads_per_replica, or wait until the cluster is free"
        )
    return _bounded(config, fit, fragments, f"{free} free CPUs", ("cpu", threads, float(threads), 0.0), why)


def _most_threads(nodes: Sequence[Node], replicas: int) -> int:
    """Return the most threads a replica can have so that all fit; 1 where they do not fit anyway."""
    most = int(sum(n.cpus for n in nodes) // replicas)
    return next((t for t in range(most, 1, -1) if sum(int(n.cpus // t) for n in nodes) >= replicas), 1)


def _on_gpus(config: PlacementConfig, nodes: Sequence[Node], fragments: int) -> Placement:
    share = config.gpus_per_replica
    free = "+".join(f"{n.gpus:g}" for n in nodes) or "0"
    fit = sum(_gpu_slots(n.gpus, share) for n in nodes)
    if fit == 0:
        raise PlacementError(
            f"a replica needs {share:g} GPU and the nodes have {free} free; "
            "lower placement.gpus_per_replica, or run where there are GPUs"
        )
    spare = min(int(n.cpus // max(_gpu_slots(n.gpus, share), 1)) for n in nodes if _gpu_slots(n.gpus, share))
    threads = max(1, spare) if config.threads_per_replica == "auto" else config.threads_per_replica
    if threads > spare:
        raise PlacementError(
            f"{threads} CPU threads beside each GPU replica do not fit, {spare} are free for each; "
            "lower placement.threads_per_replica or raise placement.gpus_per_replica"
        )
    why = "CPUs of the node shared by its GPU replicas"
    return _bounded(config, fit, fragments, f"{free} free GPUs", ("cuda", threads, float(threads), share), why)


def _gpu_slots(gpus: float, share: float) -> int:
    """Return how many replicas fit on one node's GPUs; a share below 1 never spans two GPUs."""
    return int(gpus // share) if share >= 1 else int(gpus) * int(1 / share)


def _bounded(
    config: PlacementConfig, fit: int, fragments: int, have: str, each: tuple[str, int, float, float], why: str
) -> Placement:
    device, threads, cpus, gpus = each
    if config.replicas == "auto":
        replicas = max(1, min(fit, fragments))
        reason = f"{replicas} replicas: {fit} fit on {have}, {fragments} fragments to score"
    elif config.replicas > fit:
        raise PlacementError(
            f"{config.replicas} replicas of {threads} threads"
            + (f" and {gpus:g} GPU" if gpus else "")
            + f" do not fit: {have} hold {fit}; set placement.replicas to {fit} or less, or auto"
        )
    else:
        replicas, reason = config.replicas, "placement.replicas"
    return Placement(device, replicas, threads, cpus, gpus, (reason, f"{threads} threads a replica: {why}"))
