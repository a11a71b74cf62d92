"""Ends a job in which nothing can move: no replica lives, and no node is on its way that could start one.

A replica that lives may take its time, and watches its model itself (`inference/at_work.py`). A cluster that grows is
waited for, as long as nodes are announced or join.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from optinfer.errors import OptinferError
from optinfer.execution.stop import PATIENCE_SECONDS
from optinfer.records.placement import Placement

_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Standing:
    """What a cluster has for a job at a moment.

    Attributes:
        replicas: those of the job that live.
        nodes: names of those that live.
        coming: nodes that its autoscaler has asked for and that are not there yet.
        free_cpus, free_gpus: what nobody has taken.
    """

    replicas: int
    nodes: frozenset[str]
    coming: int
    free_cpus: float
    free_gpus: float


class Watchdog:
    """Called again and again while a job streams, or waits for a node; it looks every few seconds.

    Args:
        needs: what the job takes of nodes.
        look: says how things stand.
        patience: seconds in which nothing can move, after which a job ends.
        clock: gives seconds.
        still: says what does not move.
    """

    def __init__(
        self,
        needs: str,
        look: Callable[[], Standing],
        patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = monotonic,
        still: str = "no replica lived",
    ) -> None:
        self._needs, self._look, self._still = needs, look, still
        self._patience, self._clock = patience, clock
        self._looked = self._could_move = clock()
        self._nodes: frozenset[str] = frozenset()

    def __call__(self) -> None:
        """Look, where it is time to.

        Raises:
            OptinferError: nothing could move for too long; says what is missing.
        """
        now = self._clock()
        if now - self._looked < min(_LOOK_SECONDS, self._patience):
            return
        self._looked, found = now, self._look()
        if found.replicas or found.coming or found.nodes - self._nodes:
            self._could_move = now
        self._nodes = found.nodes
        if now - self._could_move >= self._patience:
            raise OptinferError(self._said(found))

    def _said(self, found: Standing) -> str:
        return (
            f"nothing can move: for {self._patience:g} s {self._still}, and no node was on its way. The job needs "
            f"{self._needs}; {len(found.nodes)} nodes have {found.free_cpus:g} CPUs and "
            f"{found.free_gpus:g} GPUs free. Free what others hold (`ray status`), start nodes, or ask for less under "
            "placement, then run the same command again: committed fragments are kept"
        )


def described(placements: Sequence[Placement]) -> str:
    """Say what a job's replicas take."""
    return " and ".join(
        f"{part.replicas} replicas of {part.cpus_per_replica:g} CPUs and {part.gpus_per_replica:g} GPUs"
        for part in placements
    )
