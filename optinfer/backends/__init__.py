"""What executes an artifact. One file a runtime; this is the contract between them and the rest.

A backend's module holds `backend = Backend(...)`, and is cheap to import: the runtime itself is loaded by `load`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from optinfer.models.artifact import Artifact
from optinfer.plugins import Kind
from optinfer.records.proof import Executed as Executed

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
    def executed(self) -> Executed:
        """Return what really runs, read back from the runtime after at least one call."""

    def stage(self, inputs: Arrays) -> Any:
        """Begin to bring the next micro-batch to the device while it works on this one; return what a call takes."""
        return inputs

    def free_memory(self) -> None:  # noqa: B027 most runtimes have nothing to give back
        """Give back what the runtime holds in reserve, after a call ran out of memory."""


class Load(Protocol):
    """Loads an artifact."""

    def __call__(self, artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
        """Return a session of an artifact of one of the backend's formats.

        Args:
            load_module: gives the family's torch module, for backends that run it.

        Raises:
            UnavailableError: this machine cannot run it after all.
        """


def _available(device: str) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A runtime.

    Attributes:
        formats: of artifacts that it loads.
        max_batch_tokens: device -> the best micro-batch as it was measured; these are the devices it runs on.
        load: makes a session.
        requires: modules that must be installed; `extra` of optinfer brings them.
        unavailable: (device) -> why this machine has none to run on, with the fix; None where it has. Cheap.
        prepares_each_shape: a new shape of inputs costs far more than a known one.
        compiles: the first call takes a compiler's time.
    """

    formats: tuple[str, ...]
    max_batch_tokens: Mapping[str, int]
    load: Load
    requires: tuple[str, ...] = ()
    extra: str | None = None
    unavailable: Callable[[str], str | None] = _available
    prepares_each_shape: bool = False
    compiles: bool = False

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(self.max_batch_tokens)


BACKENDS: Kind[Backend] = Kind("backend", "backends", __name__, Backend)
