"""What executes an artifact. One file a runtime; this is the contract between them and the rest.

A backend module holds the constants `FORMATS` (artifact formats it loads), `REQUIRES` (modules that must be installed),
`DEVICES`, `MAX_BATCH_TOKENS` (measured best micro-batch by device), where it applies `PREPARES_EACH_SHAPE` (a new shape
of inputs costs far more than a known one), and two functions: `unavailable(device)`, cheap, and
`load(artifact, execution, load_module) -> Session`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Execution:
    """Where and with how many threads a session runs; `outputs` names what the model returns, in order."""

    device: str
    threads: int
    outputs: tuple[str, ...]


class Session(ABC):
    """A loaded artifact. Not thread-safe: one call at a time; another thread may `stage` meanwhile.

    A runtime must answer calls and say what it executed; `stage` and `free_memory` are for those that can do more.
    """

    @abstractmethod
    def __call__(self, inputs: Arrays) -> Arrays:
        """Run one micro-batch; arrays in and out have rows as first axis, halves come out as float32.

        `inputs` may also be what `stage` returned.
        """

    @abstractmethod
    def executed(self) -> dict[str, Any]:
        """Return what really runs, read back from the runtime after at least one call.

        Always: `backend`, `version`, `device`, and `precisions`, which counts what multiplies matrices (compute nodes,
        or parameters) by precision.
        """

    def stage(self, inputs: Arrays) -> Any:
        """Begin to bring the next micro-batch to the device while it works on this one; return what a call takes."""
        return inputs

    def free_memory(self) -> None:  # noqa: B027 most runtimes have nothing to give back
        """Give back what the runtime holds in reserve, after a call ran out of memory."""
