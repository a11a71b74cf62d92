"""The model's own library, called with a micro-batch: the baseline of tables' models, and what scores those that no
converter knows. What is called comes from the family, as a torch module does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from optinfer.backends import Arrays, Backend, Executed, Execution, Session
from optinfer.models.artifact import Artifact


class Callee(Protocol):
    """A loaded model: arrays by the names of its inputs to arrays by those of its outputs, rows first.

    Attributes:
        library: package -> version of what computes.
    """

    library: dict[str, str]

    def __call__(self, inputs: Arrays) -> Arrays: ...

    def use_threads(self, threads: int) -> None:
        """Compute with so many threads at most."""


class PyfuncExecuted(Executed):
    threads: int


class PyfuncSession(Session):
    def __init__(self, callee: Callee, threads: int) -> None:
        from threadpoolctl import threadpool_limits

        self._callee, self._threads = callee, threads
        # BLAS and OpenMP take every core unless they are told.
        self._limits = threadpool_limits(threads)
        callee.use_threads(threads)

    def __call__(self, inputs: Arrays) -> Arrays:
        return self._callee(inputs)

    def executed(self) -> PyfuncExecuted:
        return {
            "backend": "pyfunc",
            "version": ", ".join(f"{name} {version}" for name, version in self._callee.library.items()),
            "device": "cpu",
            "precisions": {"fp64": 1},
            "threads": self._threads,
        }


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return PyfuncSession(load_module(), execution.threads)


backend = Backend(
    formats=("pyfunc",),
    # Rows of a table have no lengths: batching.max_batch_size alone cuts them.
    max_batch_tokens={"cpu": 4096},
    requires=("pandas", "threadpoolctl"),
    extra="trees",
    load=load,
)
