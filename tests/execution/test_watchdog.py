"""A job in which nothing can move ends with the reason; one that waits for nodes, or takes its time, does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from optinfer.errors import OptinferError
from optinfer.execution.watchdog import Standing, Watchdog, described
from optinfer.records.placement import Placement

PLACEMENT = Placement("cuda", 2, 2, 1, 1.0, 0.5, ())
STUCK = Standing(replicas=0, nodes=frozenset({"head"}), coming=0, free_cpus=3.0, free_gpus=0.0)


def looks(*standings: Standing, every: float = 60.0) -> Iterator[None]:
    """Yield after each look of a watchdog that meets these one after another, so many seconds apart."""
    now, left = [0.0], list(standings)
    watchdog = Watchdog(described([PLACEMENT]), lambda: left.pop(0), patience=300.0, clock=lambda: now[0])
    for _ in standings:
        now[0] += every
        watchdog()
        yield


def test_nothing_that_can_move_ends_the_job_with_what_it_needs_and_what_there_is() -> None:
    with pytest.raises(OptinferError, match="for 300 s no replica lived, and no node was on its way") as stuck:
        list(looks(*[STUCK] * 10))
    assert "2 replicas of 1 CPUs and 0.5 GPUs; 1 nodes have 3 CPUs and 0 GPUs free" in str(stuck.value)


def with_(**changes: object) -> Standing:
    return Standing(**{**STUCK.__dict__, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "moves",
    [
        pytest.param([with_(replicas=1)] * 30, id="a replica lives, however long its fragment takes"),
        pytest.param([with_(coming=1)] * 30, id="an autoscaler has asked for nodes"),
        pytest.param([with_(nodes=frozenset({f"node-{i // 3}"})) for i in range(30)], id="nodes join"),
        pytest.param([STUCK] * 3 + [with_(replicas=1)] + [STUCK] * 4, id="it moved in between"),
    ],
)
def test_what_may_still_move_is_waited_for(moves: list[Standing]) -> None:
    assert len(list(looks(*moves))) == len(moves)


def test_the_cluster_is_not_asked_at_every_step() -> None:
    asked = list(looks(*[STUCK] * 100, every=0.01))
    assert len(asked) == 100
