"""A job whose variants are to be proved, as values: whichever node will score proves them, here or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from optinfer.config import JobConfig
from optinfer.data.fragments import Fragments
from optinfer.models.artifact import Artifact
from optinfer.optimization.job_sample import JobSample
from optinfer.optimization.selection import Prepared, Skipped, candidates, prove_all
from optinfer.optimization.subject import Subject
from optinfer.optimization.trial import Trials
from optinfer.optimization.workbench import LookUp, Workbench

Say = Callable[[str], None]


@dataclass(frozen=True)
class Proving:
    """What a bench is made of, on the node that proves; it travels.

    Attributes:
        fragments: of the job's table, from which its sample is drawn; no matter which of its rows the job scores.
        look_up: finds what was tuned for such a job; `trials`: where candidates are tried.
        again: what was measured before counts for nothing.
    """

    subject: Subject
    fragments: Fragments
    look_up: LookUp
    trials: Trials
    again: bool = False

    def bench(self, say: Say = lambda line: None) -> Workbench:
        """Return the bench on which the job's variants are built and proved; it draws the sample."""
        sample = JobSample(self.subject, self.fragments)
        return Workbench(self.subject, sample, say, self.look_up, self.trials, self.again)

    def for_job(self, config: JobConfig) -> Proving:
        """Return it for a job that differs only in which variants it allows."""
        return replace(self, subject=self.subject.for_job(config))

    def on(self, model: Artifact) -> Proving:
        """Return it where it came to, with the model as it lies there."""
        return replace(self, subject=self.subject.on(model))


class Prover(Protocol):
    """Proves variants on a node of the kind that will score with them."""

    @property
    def subject(self) -> Subject:
        """The job that it proves variants of."""

    def candidates(self, config: JobConfig, only: str | None = None) -> Iterator[Prepared]:
        """Yield what `selection.candidates` does, for the job or for one that differs in which variants it allows."""

    def everything(self, names: Sequence[str] | None = None) -> Iterator[Prepared | Skipped]:
        """Yield what `selection.prove_all` does of these variants, as each is measured."""


class Here:
    """Proves on this node."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    @property
    def subject(self) -> Subject:
        return self._bench.subject

    def candidates(self, config: JobConfig, only: str | None = None) -> Iterator[Prepared]:
        return candidates(self._bench if config is self._bench.config else self._bench.for_job(config), only)

    def everything(self, names: Sequence[str] | None = None) -> Iterator[Prepared | Skipped]:
        return prove_all(self._bench, names)
