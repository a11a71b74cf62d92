"""Where a job's replicas run: the contract between a run and what executes it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, Self

from optinfer.execution.placement import Node
from optinfer.execution.task import ScoringTask
from optinfer.execution.todo import Todo
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.proving import Prover, Proving
from optinfer.records.placement import Placement
from optinfer.records.receipt import Receipt
from optinfer.tuning.nodes import Measure
from optinfer.tuning.nodes import Node as TuningNode


class Executor(AbstractContextManager["Executor"], Protocol):
    """Runs the replicas of one job; what it started ends with its `with` block."""

    def __enter__(self) -> Self:
        """Refuse at once what could not start."""

    @property
    def where(self) -> str:
        """Say where replicas are, in a word of records/observation.py: what starting them takes depends on it."""

    @property
    def growing(self) -> bool:
        """Tell whether nodes may join while the job runs."""

    def machine(self) -> Node | None:
        """Return the one node that replicas will have, where that is known before anything starts; all of it."""

    def start(self) -> None:
        """Begin to start, and go on in the background."""

    def prover(self, job: Proving, say: Callable[[str], None]) -> Prover:
        """Return what proves the job's variants where replicas of theirs may be.

        Raises:
            OptinferError: it cannot start, or be reached.
        """

    def tuning_node(self, job: Proving, speed: Measure, say: Callable[[str], None]) -> TuningNode:
        """Return a node on which the job's settings are tried, of the kind that replicas will have; all of it.

        Args:
            speed: measures replicas of one node together.

        Raises:
            OptinferError: it cannot start, or be reached.
        """

    def nodes(self, pools: Sequence[ReplicaSettings] = ()) -> list[Node]:
        """Wait for the start, and return what was free on each node when first asked.

        Args:
            pools: the proved replica of each; a node that cannot answer as its pool was certified says so.

        Raises:
            OptinferError: it cannot start, or be reached.
        """

    def stream(self, task: ScoringTask, placements: Sequence[Placement], todo: Todo) -> Generator[Receipt, None, None]:
        """Score fragments and yield a receipt as each is committed.

        Raises:
            UnfitNodeError: a replica refused its node; another stream of what is left keeps away from it.
            OptinferError: the first error of any replica, of its own class.
        """

    def refusals(self) -> list[str]:
        """Say why replicas refused nodes that the others keep away from, each once."""

    def release(self) -> None:
        """Begin to end what was started: nothing needs it any more."""
