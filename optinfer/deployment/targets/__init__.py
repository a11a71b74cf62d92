"""What a schedule is rendered for. One file a target; this is the contract between them and the rest.

A module here holds `target = Target(...)`. It returns text and writes nothing; whatever keeps the time is not ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from optinfer.config import JobConfig
from optinfer.deployment.cron import Cron
from optinfer.plugins import Kind

RETRIES = 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a caller may say beside job, time and target; None where nothing is said.

    Attributes:
        address: Ray cluster that the job is submitted to.
        retries: how often a failed night is tried again.
        image: container with optinfer, for pods.
        namespace: of Kubernetes.
        workers: most pods that score.
        secret: Kubernetes secret whose entries become environment variables of all pods.
    """

    address: str | None = None
    retries: int | None = None
    image: str | None = None
    namespace: str | None = None
    workers: int | None = None
    secret: str | None = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One schedule, checked: what a target renders.

    Attributes:
        name: of units, files and Kubernetes objects: a DNS-1035 label.
        job: its file, by its full path.
        folder: that the job starts in, and relative paths with it.
        config: the job as it is on the next night.
        night: the date of that night.
        overrides: `--set` of each night.
        out: folder that the files are rendered into.
    """

    name: str
    job: Path
    folder: Path
    config: JobConfig
    night: str
    overrides: tuple[str, ...]
    cron: Cron
    options: Options
    out: Path

    @property
    def retries(self) -> int:
        return RETRIES if self.options.retries is None else self.options.retries

    def arguments(self, job: str) -> list[str]:
        """Return the arguments of `optinfer` that run a night, but for its `--logical-date`."""
        sets = [word for override in self.overrides for word in ("--set", override)]
        if self.options.address is None:
            return ["run", job, *sets]
        return ["submit", job, *sets, "--address", self.options.address, "--retries", str(self.retries)]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A scheduler.

    Attributes:
        about: what it is, in a line.
        render: a schedule -> its files, by name.
        then: (schedule) -> what to do with them, a line each.
        takes: those of `Options` that mean something to it; others are refused.
        needs: those that it cannot do without.
        longest_name: characters that a schedule's name may have.
        in_pods: nothing of this machine's disk is there when the job runs.
        warnings: what a person should know of it in any case.
    """

    about: str
    render: Callable[[Schedule], Mapping[str, str]]
    then: Callable[[Schedule], tuple[str, ...]]
    takes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    longest_name: int = 63
    in_pods: bool = False
    warnings: tuple[str, ...] = ()


TARGETS: Kind[Target] = Kind("target", "targets", __name__, Target)
