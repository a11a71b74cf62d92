"""The jobs of a cluster, as `submission` sees them: the contract that jobs_api fulfils, and what its answers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from optinfer.errors import OptinferError

SUCCEEDED, STOPPED, FAILED = "SUCCEEDED", "STOPPED", "FAILED"
LOST = "LOST"
_ENDED = (SUCCEEDED, STOPPED, FAILED, LOST)


class UnreachableError(OptinferError):
    """Nobody answered, or somebody in between did: it may be asked again."""


class UnknownJobError(OptinferError):
    """The cluster answers, and knows no such job."""


class UnreadableLogError(OptinferError):
    """The cluster answers, and cannot give this job's log."""


@dataclass(frozen=True)
class JobState:
    """What a cluster says of a job; `exit_code` is the driver's own, None where it gave none."""

    id: str
    status: str
    exit_code: int | None = None
    message: str = ""

    @property
    def ended(self) -> bool:
        return self.status in _ENDED


@dataclass(frozen=True)
class Entry:
    """What a submitted job runs: a command in a folder that is sent along, with variables."""

    command: str
    folder: Path
    env: Mapping[str, str]
    metadata: Mapping[str, str]


class Jobs(Protocol):
    """A cluster that jobs are submitted to. Each call may raise UnreachableError."""

    @property
    def address(self) -> str:
        """Where it is, fit to be shown."""
        ...

    def starting_with(self, prefix: str) -> list[JobState]:
        """Return every job, ended ones too, whose id begins with `prefix`."""
        ...

    def state(self, id: str) -> JobState:
        """Return a job's state; raises UnknownJobError."""
        ...

    def send(self, id: str, entry: Entry) -> bool:
        """Submit a job; return False where there is one of this id already."""
        ...

    def log(self, id: str) -> str:
        """Return all that a job wrote so far; raises UnreadableLogError."""
        ...

    def stop(self, id: str) -> None:
        """Ask a job to end."""
        ...
