"""How many replicas, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.config import PlacementConfig
from optinfer.errors import PlacementError
from optinfer.execution.placement import Node, Placement, place

nodes = st.lists(st.builds(Node, cpus=st.floats(0, 64), gpus=st.integers(0, 8).map(float)), max_size=6)
wishes = st.builds(
    PlacementConfig,
    replicas=st.one_of(st.just("auto"), st.integers(1, 64)),
    threads_per_replica=st.one_of(st.just("auto"), st.integers(1, 64)),
    gpus_per_replica=st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0, 2.0]),
)


def fits(placement: Placement, nodes: list[Node]) -> bool:
    """Tell whether the replicas can be laid onto the nodes; all are equal, so first fit is exact."""
    left = placement.replicas
    for node in nodes:
        on_cpus = int((node.cpus + 1e-9) // placement.cpus_per_replica)
        share = placement.gpus_per_replica
        on_gpus = (
            on_cpus if not share else int(node.gpus // share) if share >= 1 else int(node.gpus) * int(1 / share + 1e-9)
        )
        left -= min(on_cpus, on_gpus)
    return left <= 0


@given(wishes, nodes, st.integers(1, 1000), st.sampled_from(["cpu", "cuda"]))
def test_a_placement_always_fits_the_nodes(
    wishes: PlacementConfig, nodes: list[Node], fragments: int, device: str
) -> None:
    try:
        placement = place(wishes, device, nodes, fragments)
    except PlacementError:
        return
    assert placement.replicas >= 1
    assert fits(placement, nodes), placement


@given(wishes, nodes, st.integers(1, 1000), st.sampled_from(["cpu", "cuda"]))
def test_auto_never_starts_replicas_without_work(
    wishes: PlacementConfig, nodes: list[Node], fragments: int, device: str
) -> None:
    try:
        placement = place(wishes.model_copy(update={"replicas": "auto"}), device, nodes, fragments)
    except PlacementError:
        return
    assert placement.replicas <= fragments


def test_auto_gives_every_cpu_a_replica_of_one_thread() -> None:
    placement = place(PlacementConfig(), "cpu", [Node(4), Node(2.5)], fragments=100)
    assert (placement.replicas, placement.threads_per_replica, placement.cpus_per_replica) == (6, 1, 1.0)


def test_named_replicas_share_the_cpus() -> None:
    assert place(PlacementConfig(replicas=2), "cpu", [Node(8)], fragments=100).threads_per_replica == 4


def test_named_replicas_get_no_more_threads_than_fit_on_single_nodes() -> None:
    assert (
        place(PlacementConfig(replicas=2), "cpu", [Node(4), Node(1), Node(1)], fragments=100).threads_per_replica == 2
    )


def test_named_threads_decide_how_many_replicas_fit() -> None:
    assert place(PlacementConfig(threads_per_replica=3), "cpu", [Node(8), Node(4)], fragments=100).replicas == 3


def test_each_whole_gpu_gets_a_replica_with_its_share_of_cpus() -> None:
    placement = place(PlacementConfig(), "cuda", [Node(16, gpus=4)], fragments=100)
    assert (placement.replicas, placement.gpus_per_replica, placement.threads_per_replica) == (4, 1.0, 4)


def test_a_shared_gpu_holds_several_replicas() -> None:
    placement = place(PlacementConfig(gpus_per_replica=0.5), "cuda", [Node(8, gpus=2)], fragments=100)
    assert (placement.replicas, placement.threads_per_replica) == (4, 2)


@pytest.mark.parametrize(
    ("wishes", "device", "nodes", "message"),
    [
        ({"replicas": 5, "threads_per_replica": 1}, "cpu", [Node(4)], r"5 replicas of 1 threads do not fit: 4 free CPUs hold 4; set placement\.replicas to 4 or less, or auto"),
        ({"threads_per_replica": 8}, "cpu", [Node(4), Node(4)], r"8 threads fits on no node \(free CPUs: 4\+4\); lower placement\.threads_per_replica"),
        ({}, "cpu", [], r"free CPUs: 0"),
        ({}, "cuda", [Node(4)], r"a replica needs 1 GPU and the nodes have 0 free"),
        ({"threads_per_replica": 8}, "cuda", [Node(8, gpus=2)], r"8 CPU threads beside each GPU replica do not fit, 4 are free"),
        ({"device": "cuda"}, "cpu", [Node(4)], r"placement\.device is cuda but the variant runs on cpu; set placement\.device: auto"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_with_the_numbers(
    wishes: dict[str, object], device: str, nodes: list[Node], message: str
) -> None:
    with pytest.raises(PlacementError, match=message):
        place(PlacementConfig.model_validate(wishes), device, nodes, fragments=10)
