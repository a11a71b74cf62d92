"""The pools of a job fitted onto nodes, with what their certificates and `tune` say that a replica needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optinfer.config import PlacementConfig
from optinfer.execution.placement import Needs, Node, place, place_pools
from optinfer.optimization.pools import Pools
from optinfer.optimization.selection import Prepared
from optinfer.records.placement import Placement
from optinfer.records.tuning import Tuned


def placed(
    wishes: PlacementConfig,
    pools: Pools | None,
    device: str,
    nodes: Sequence[Node],
    fragments: int,
    growing: bool = False,
) -> tuple[Placement, ...]:
    """Fit replicas of the job's pools onto nodes; the arguments are those of `place`.

    Args:
        pools: None where nothing was measured yet.

    Raises:
        PlacementError: the job's wishes do not fit.
    """
    left_out = tuple(node.name for node in nodes if node.unfit)
    if left_out:
        fit = [node for node in nodes if not node.unfit]
        return tuple(replace(one, left_out=left_out) for one in placed(wishes, pools, device, fit, fragments, growing))
    each = pools.each if pools else ()
    needs = needs_of(each[0] if each else None, wishes.max_replicas)
    for arm in pools.arms.values() if pools else ():  # in every replica, too
        needs = replace(
            needs,
            memory_mb=needs.memory_mb + arm.certificate.peak_rss_mb,
            gpu_memory_mb=needs.gpu_memory_mb + arm.certificate.gpu_memory_mb,
        )
    if wishes.cpu_variant and device == "cuda":
        further = [needs_of(one) for one in each[1:]] or [Needs()]
        return place_pools(wishes, nodes, fragments, [needs, *further], growing)
    return (place(wishes, device, nodes, fragments, needs, growing),)


def layout_of(wishes: PlacementConfig, device: str, cpus: int, gpus: int) -> tuple[int, int]:
    """Return the replicas and the threads of each that a job with nothing tuned would have on such a node alone."""
    # As many fragments as could keep the node busy: a larger table may come.
    placement = place(wishes, device, [Node(cpus, gpus)], cpus)
    return placement.replicas, placement.threads_per_replica


def needs_of(prepared: Prepared | None, most_replicas: int | None = None) -> Needs:
    """Return what a replica of this variant was measured to need, in a job that allows `most_replicas`."""
    if prepared is None:
        return Needs()
    tuned = prepared.tuned
    return Needs(
        threads=tuned.threads_per_replica if tuned else 0,
        cpus=cpus_when_tuned(tuned, prepared.cpus, most_replicas) if tuned else 0,
        memory_mb=prepared.certificate.peak_rss_mb,
        gpu_memory_mb=prepared.certificate.gpu_memory_mb,
        gpu_total_mb=prepared.certificate.gpu_total_mb,
    )


def cpus_when_tuned(tuned: Tuned, cpus: int, most_replicas: int | None) -> int:
    """Return the CPUs that each replica had: more than its threads where fewer replicas won than would have fit.

    Args:
        cpus: of the node it was tuned on.
    """
    fit = cpus // tuned.threads_per_replica
    return tuned.threads_per_replica * max(1, min(fit, most_replicas or fit) // tuned.replicas)
