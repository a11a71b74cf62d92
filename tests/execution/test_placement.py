"""How many replicas, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optinfer.config import PlacementConfig
from optinfer.errors import PlacementError
from optinfer.execution.placement import Needs, Node, place, place_pools
from optinfer.records.placement import Placement

nodes = st.lists(
    st.builds(
        Node,
        cpus=st.floats(0, 64),
        gpus=st.integers(0, 8).map(float),
        memory_mb=st.sampled_from([0.0, 4_000.0, 64_000.0]),
        accelerator=st.sampled_from(["", "H100"]),
        resources=st.sampled_from([{}, {"jetson": 1.0}, {"jetson": 4.0}]),
    ),
    max_size=6,
)
ranges = st.one_of(
    st.fixed_dictionaries({"replicas": st.integers(1, 64)}),
    st.fixed_dictionaries({}, optional={"min_replicas": st.integers(1, 8), "max_replicas": st.integers(8, 64)}),
)
wishes = st.builds(
    lambda counts, others: PlacementConfig(**counts, **others),
    ranges,
    st.fixed_dictionaries(
        {},
        optional={
            "threads_per_replica": st.integers(1, 64),
            "gpus_per_replica": st.sampled_from(["auto", 0.1, 0.25, 0.3, 0.5, 1.0, 2.0]),
            "accelerator_type": st.just("H100"),
            "resources": st.sampled_from([{}, {"jetson": 1.0}, {"jetson": 0.5}]),
        },
    ),
)
needs = st.builds(
    Needs,
    threads=st.integers(0, 8),
    memory_mb=st.sampled_from([0.0, 500.0, 5_000.0]),
    gpu_memory_mb=st.sampled_from([0.0, 3_000.0, 90_000.0]),
    gpu_total_mb=st.just(80_000.0),
)


def held(placement: Placement, node: Node, needs: Needs, memory_is_known: bool) -> int:
    """Return how many of the replicas a node holds, counted one by one as Ray would give them away."""
    if placement.accelerator_type not in (None, node.accelerator):
        return 0
    share = placement.gpus_per_replica
    gpus = [1.0] * int(node.gpus)
    free = {**node.resources, "CPU": node.cpus, "memory": node.memory_mb * 0.8}
    each = {**placement.resources, "CPU": placement.cpus_per_replica}
    if needs.memory_mb and memory_is_known:
        each["memory"] = needs.memory_mb
    for count in range(200):
        if any(free.get(name, 0.0) < amount for name, amount in each.items()):
            return count
        if share >= 1:
            if len(gpus) < share:
                return count
            gpus = gpus[int(share) :]
        elif share:
            gpu = next((i for i, left in enumerate(gpus) if left >= share - 1e-9), None)
            if gpu is None:
                return count
            gpus[gpu] -= share
        free.update({name: free[name] - amount for name, amount in each.items()})
    return 200


@given(wishes, nodes, st.integers(1, 1000), needs, st.sampled_from(["cpu", "cuda"]))
def test_a_placement_always_fits_the_nodes(
    wishes: PlacementConfig, nodes: list[Node], fragments: int, needs: Needs, device: str
) -> None:
    try:
        placement = place(wishes, device, nodes, fragments, needs)
    except PlacementError:
        return
    usable = [n for n in nodes if wishes.accelerator_type in (None, n.accelerator)]
    known = all(n.memory_mb for n in usable)
    assert 1 <= placement.replicas <= sum(held(placement, n, needs, known) for n in nodes), placement
    assert placement.max_replicas == placement.replicas


@given(wishes, nodes, st.integers(1, 1000), needs)
def test_a_growing_placement_stays_within_the_range_that_was_asked_for(
    wishes: PlacementConfig, nodes: list[Node], fragments: int, needs: Needs
) -> None:
    try:
        placement = place(wishes, "cpu", nodes, fragments, needs, growing=True)
    except PlacementError:
        return
    assert placement.replicas <= placement.max_replicas
    assert placement.max_replicas <= (wishes.max_replicas or 10**6)
    if wishes.replicas == "auto":
        assert placement.replicas >= (wishes.min_replicas or 1)
        assert placement.max_replicas <= max(fragments, placement.replicas)
    else:
        assert placement.replicas == placement.max_replicas == wishes.replicas


@given(wishes, nodes, st.integers(1, 1000), st.sampled_from(["cpu", "cuda"]))
def test_auto_never_starts_replicas_without_work(
    wishes: PlacementConfig, nodes: list[Node], fragments: int, device: str
) -> None:
    try:
        placement = place(wishes.model_copy(update={"replicas": "auto"}), device, nodes, fragments)
    except PlacementError:
        return
    assert placement.replicas <= max(fragments, wishes.min_replicas or 1)


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


def test_memory_holds_fewer_replicas_than_cpus_do() -> None:
    placement = place(PlacementConfig(), "cpu", [Node(8, memory_mb=10_000)], 100, Needs(memory_mb=3_000))
    assert placement.replicas == 2
    assert "2 fit on 10 GB of memory at 3.0 GB each" in placement.reasons[0]


def test_a_node_that_does_not_say_its_memory_limits_nothing_by_it() -> None:
    assert place(PlacementConfig(), "cpu", [Node(8)], 100, Needs(memory_mb=3_000)).replicas == 8


def test_tuned_threads_are_used_where_the_job_names_none() -> None:
    assert place(PlacementConfig(), "cpu", [Node(8)], 100, Needs(threads=4)).threads_per_replica == 4
    assert place(PlacementConfig(threads_per_replica=2), "cpu", [Node(8)], 100, Needs(threads=4)).replicas == 4


def test_cpus_that_were_faster_left_alone_are() -> None:
    half = Needs(threads=2, cpus=4)
    for growing in (False, True):  # what each takes bounds those that join, too
        placed = place(PlacementConfig(), "cpu", [Node(8), Node(4)], 100, half, growing)
        assert (placed.replicas, placed.threads_per_replica, placed.cpus_per_replica) == (3, 2, 4.0)
        assert any("4 CPUs a replica: it was faster that some idle" in reason for reason in placed.reasons)
    assert place(PlacementConfig(), "cpu", [Node(2), Node(3)], 100, half).replicas == 2
    for wishes in (PlacementConfig(threads_per_replica=2), PlacementConfig(min_replicas=4)):
        assert place(wishes, "cpu", [Node(8)], 100, half).replicas == 4


def test_custom_resources_limit_replicas_to_the_nodes_that_have_them() -> None:
    nodes = [Node(8), Node(8, resources={"jetson": 2.0})]
    placement = place(PlacementConfig(resources={"jetson": 1}), "cpu", nodes, 100)
    assert (placement.replicas, placement.resources) == (2, {"jetson": 1.0})
    assert "0+2 free jetson" in placement.reasons[0]


def test_an_accelerator_type_leaves_other_nodes_out() -> None:
    nodes = [Node(8, gpus=2, accelerator="T4"), Node(8, gpus=1, accelerator="H100")]
    placement = place(PlacementConfig(accelerator_type="H100"), "cuda", nodes, 100)
    assert (placement.replicas, placement.accelerator_type) == (1, "H100")


@pytest.mark.parametrize(("gpu_memory_mb", "replicas"), [(15_000, 4), (30_000, 2), (70_000, 1), (100, 16)])
def test_a_gpu_is_shared_by_as_many_as_its_memory_holds(gpu_memory_mb: float, replicas: int) -> None:
    measured = Needs(gpu_memory_mb=gpu_memory_mb, gpu_total_mb=80_000)
    placement = place(PlacementConfig(gpus_per_replica="auto"), "cuda", [Node(64, gpus=1)], 100, measured)
    assert placement.replicas == replicas
    assert placement.gpus_per_replica * replicas <= 1


def test_a_gpu_that_nobody_measured_is_not_shared() -> None:
    assert place(PlacementConfig(gpus_per_replica="auto"), "cuda", [Node(64, gpus=2)], 100).gpus_per_replica == 1.0


def test_replicas_may_become_as_many_as_fragments_where_nodes_may_join() -> None:
    placement = place(PlacementConfig(), "cpu", [Node(2)], fragments=10, growing=True)
    assert (placement.replicas, placement.max_replicas) == (2, 10)
    assert "up to 10 replicas as nodes join" in placement.reasons[-1]


def test_the_most_replicas_bound_both_the_start_and_the_growth() -> None:
    wishes = PlacementConfig(max_replicas=3)
    assert place(wishes, "cpu", [Node(8)], fragments=10).replicas == 3
    growing = place(wishes, "cpu", [Node(2)], fragments=10, growing=True)
    assert (growing.replicas, growing.max_replicas) == (2, 3)


def test_a_job_may_wait_for_its_first_node_where_nodes_join_and_it_says_how_many() -> None:
    placement = place(PlacementConfig(min_replicas=2, max_replicas=4), "cpu", [], fragments=10, growing=True)
    assert (placement.replicas, placement.max_replicas) == (2, 4)


@pytest.mark.parametrize(
    ("wishes", "device", "nodes", "message"),
    [
        ({"replicas": 5, "threads_per_replica": 1}, "cpu", [Node(4)], r"5 replicas of 1 threads do not fit: 4 free CPUs hold 4; set placement\.replicas to 4 or less, or auto"),
        ({"threads_per_replica": 8}, "cpu", [Node(4), Node(4)], r"8 threads fits on no node \(free CPUs: 4\+4\); lower placement\.threads_per_replica"),
        ({}, "cpu", [], r"free CPUs: 0"),
        ({}, "cuda", [Node(4)], r"a replica needs 1 GPU and the nodes have 0 free"),
        ({"threads_per_replica": 8}, "cuda", [Node(8, gpus=2)], r"8 CPU threads beside each GPU replica do not fit, 4 are free"),
        ({"min_replicas": 3}, "cpu", [Node(2)], r"3 replicas of 1 threads do not fit: 2 free CPUs hold 2; set placement\.min_replicas to 2 or less"),
        ({"accelerator_type": "H200"}, "cuda", [Node(4, gpus=1, accelerator="H100"), Node(4)], r"no node has the accelerator H200, they have H100, none;"),
        ({"resources": {"jetson": 1}}, "cpu", [Node(4)], r"1 threads and 1 jetson fits on no node: 0 free jetson; correct placement\.resources"),
        ({"device": "cuda"}, "cpu", [Node(4)], r"placement\.device is cuda but the variant runs on cpu; set placement\.device: auto"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_with_the_numbers(
    wishes: dict[str, object], device: str, nodes: list[Node], message: str
) -> None:
    with pytest.raises(PlacementError, match=message):
        place(PlacementConfig.model_validate(wishes), device, nodes, fragments=10)


def test_memory_that_holds_no_replica_is_named() -> None:
    with pytest.raises(
        PlacementError, match=r"1 threads fits on no node: 2 GB of memory at 3\.0 GB each; choose a smaller"
    ):
        place(PlacementConfig(), "cpu", [Node(8, memory_mb=2_000)], 100, Needs(memory_mb=3_000))


GPUS, CPUS, SMALL = Node(8, gpus=2, name="gpus"), Node(4, name="cpus"), Node(1, name="small")


def mixed(
    nodes: list[Node], fragments: int = 100, growing: bool = False, beside: Needs | None = None, **wishes: object
) -> tuple[Placement, Placement | None]:
    """Return the placement of a first pool on GPUs, and of a second one where it has a place."""
    config = PlacementConfig.model_validate({"cpu_variant": "auto", **wishes})
    first, *rest = place_pools(config, nodes, fragments, [Needs(), beside or Needs()], growing)
    return first, rest[0] if rest else None


def test_a_second_variant_takes_the_nodes_without_a_gpu_and_no_others() -> None:
    placement, second = mixed([GPUS, CPUS, SMALL])
    assert second is not None
    assert (placement.device, placement.replicas, placement.gpus_per_replica) == ("cuda", 2, 1.0)
    assert (second.device, second.replicas, second.gpus_per_replica) == ("cpu", 5, 0.0)
    assert second.pinned == {"cpus": 4, "small": 1}
    assert second.reasons[0] == "5 replicas: 5 fit on 4+1 free CPUs, 98 fragments to score"
    assert second.reasons[-1] == "2 of 2 nodes without a free GPU"


def test_few_replicas_of_a_second_variant_are_spread() -> None:
    _, second = mixed([GPUS, CPUS, SMALL], fragments=5)
    assert second is not None
    assert (second.replicas, second.pinned) == (3, {"cpus": 2, "small": 1})


def test_the_wishes_of_a_job_are_for_its_gpus_but_custom_resources_are_for_all() -> None:
    wishes = {"replicas": 1, "threads_per_replica": 4, "accelerator_type": "H100", "resources": {"rack": 1}}
    nodes = [
        Node(8, gpus=2, accelerator="H100", resources={"rack": 8.0}, name="gpus"),
        Node(8, resources={"rack": 3.0}, name="cpus"),
        Node(8, name="elsewhere"),
    ]
    placement, second = mixed(nodes, **wishes)
    assert second is not None
    assert (placement.replicas, placement.threads_per_replica) == (1, 4)
    assert (second.replicas, second.threads_per_replica, second.accelerator_type) == (3, 1, None)
    assert (second.resources, second.pinned) == ({"rack": 1.0}, {"cpus": 3})


def test_each_of_two_variants_is_placed_by_its_own_needs() -> None:
    _, second = mixed([GPUS, CPUS], beside=Needs(threads=2))
    assert second is not None
    assert (second.replicas, second.threads_per_replica) == (2, 2)


def test_a_pool_of_two_variants_keeps_its_size() -> None:
    placement, second = mixed([GPUS, CPUS], growing=True)
    assert second is not None
    assert (placement.replicas, placement.max_replicas) == (2, 2)
    assert second.max_replicas == second.replicas
    assert "a pool of two variants keeps its size: no replica joins as nodes do" in placement.reasons
    assert not any("as nodes join" in reason for reason in placement.reasons)


@pytest.mark.parametrize(
    ("nodes", "fragments", "reason"),
    [
        ([GPUS], 100, "no replicas beside them: every node has a free GPU"),
        ([GPUS, CPUS], 2, "no replicas beside them: there are no more fragments than replicas on GPUs"),
        ([GPUS, Node(0)], 100, "no replicas beside them: a replica of 1 threads fits on no node (free CPUs: 0); "),
    ],
    ids=["no node", "no fragments", "no room"],
)
def test_where_nothing_of_the_second_variant_fits_the_first_is_placed_alone_and_says_why(
    nodes: list[Node], fragments: int, reason: str
) -> None:
    placement, second = mixed(nodes, fragments, growing=True)
    assert second is None
    assert placement.reasons[-1].startswith(reason)
    assert placement.max_replicas == fragments, "it may grow as ever"


def test_a_second_variant_is_no_reason_to_go_without_the_first() -> None:
    with pytest.raises(PlacementError, match="a replica needs 1 GPU and the nodes have 0 free"):
        mixed([CPUS])


@given(wishes, nodes, st.integers(1, 1000), needs)
def test_a_second_variant_fits_the_nodes_that_it_is_kept_on(
    wishes: PlacementConfig, nodes: list[Node], fragments: int, needs: Needs
) -> None:
    named = [replace(node, name=f"n{i}") for i, node in enumerate(nodes)]
    try:
        placement, *further = place_pools(wishes, named, fragments, [needs, needs])
    except PlacementError:
        return
    if not further:
        return
    (second,) = further
    without = {node.name: node for node in named if not node.gpus}
    known = all(node.memory_mb for node in without.values())
    assert sum(second.pinned.values()) == second.replicas <= fragments - placement.replicas
    for name, count in second.pinned.items():
        assert count <= held(second, without[name], needs, known)
