"""The pools that score a job: one variant, or a second one for the nodes without a GPU (`placement.cpu_variant`).

Where the job is an experiment, each replica holds the variants of all its arms.

Each pool is proved like the first, on the same sample and under the same gate: as the variant of the same job on the
devices that are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import reduce

from optinfer.config import JobConfig
from optinfer.errors import GateError
from optinfer.optimization.asked import jobs_of_further_pools
from optinfer.optimization.proving import Prover
from optinfer.optimization.selection import Prepared, known
from optinfer.optimization.subject import Subject
from optinfer.optimization.workbench import Workbench
from optinfer.records.binding import Bound


@dataclass(frozen=True)
class Pools:
    """The proved variants that score a job together, each on nodes of its own kind; the first is the job's.

    Attributes:
        arms: those of an experiment's further arms, by name, beside the first in every replica.
    """

    each: tuple[Prepared, ...]
    arms: Mapping[str, Prepared] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Prepared]:
        return iter(self.each)

    def __len__(self) -> int:
        return len(self.each)

    @property
    def first(self) -> Prepared:
        return self.each[0]

    @property
    def all(self) -> tuple[Prepared, ...]:
        """Those of all pools and all arms."""
        return (*self.each, *self.arms.values())

    def without(self, failed: Sequence[tuple[str, str]]) -> Pools:
        """Return them, the first with variants that could not be loaded among those not chosen."""
        first = replace(self.first, not_chosen=(*failed, *self.first.not_chosen))
        return replace(self, each=(first, *self.each[1:]))

    @property
    def identity(self) -> Bound:
        """Everything that must be the same when an output is resumed: each pool's, the next one inside the last."""
        first = reduce(lambda inner, one: replace(one, beside=inner), reversed([one.identity for one in self.each]))
        arm: Bound | None = None
        for one in reversed(self.all[len(self.each) :]):
            arm = replace(one.identity, arm=arm)
        return replace(first, arm=arm)

    def made_since(self, moment: float) -> bool:
        """Tell whether any was measured after a moment, in seconds since the epoch."""
        made = [one.certificate.measured_at for one in self.all]
        return any(datetime.fromisoformat(when).timestamp() > moment for when in made)

    @property
    def params(self) -> dict[str, object]:
        """Describe the variants for a tracker."""
        arms = {f"arm.{name}.{key}": value for name, one in self.arms.items() for key, value in one.params.items()}
        each = {name: value for at, one in enumerate(self.each) for name, value in prefixed(at, one.params).items()}
        return {**each, **arms}

    @property
    def warnings(self) -> list[str]:
        """Say what a person should know before using the output."""
        reference = self.first.certificate.reference
        unheard = reference.largest_difference is None and reference.note
        return [
            *([f"nobody outside compared the model's answers: {reference.note}"] if unheard else []),
            *(
                f"{one.variant.name} is not batch-invariant: the same row differs by up to "
                f"{one.certificate.largest_difference:.2g} with other neighbours"
                for one in self.all
                if not one.certificate.batch_invariant
            ),
        ]


def prefixed(pool: int, params: Mapping[str, object]) -> dict[str, object]:
    """Return what is said of the pool of this number as a tracker has it: `beside.` for every pool before it."""
    return {f"{'beside.' * pool}{name}": value for name, value in params.items()}


def pools(prover: Prover, only: Sequence[str] = ()) -> Iterator[Pools]:
    """Yield the pools that may score the job, best first; later ones are for when an earlier one cannot load.

    Args:
        only: the variants that an output is bound to by earlier attempts, pool by pool.

    Raises:
        UnavailableError: a named variant cannot run on this machine.
        GateError: none passes.
    """
    for first in prover.candidates(prover.subject.config, only[0] if only else None):
        yield Pools((first, *further(prover, first, only[1:])))


def further(prover: Prover, first: Prepared, only: Sequence[str] = ()) -> tuple[Prepared, ...]:
    """Return the proved variants of further pools; none where the first runs on the CPUs of all nodes itself.

    Raises:
        GateError: none passes.
    """
    jobs = _further_jobs(prover.subject, first)
    named = [*only, *([None] * len(jobs))]
    return tuple(_proved(prover, job, name) for job, name in zip(jobs, named, strict=False))


def known_pools(bench: Workbench) -> Pools | None:
    """Return what `pools` would yield first as far as the cache tells; build and measure nothing."""
    first = known(bench)
    if first is None:
        return None
    return Pools((first, *filter(None, map(known, map(bench.for_job, _further_jobs(bench.subject, first))))))


def _further_jobs(subject: Subject, first: Prepared) -> list[JobConfig]:
    """Return the jobs of further pools; none where the first runs on the CPUs of all nodes itself."""
    return jobs_of_further_pools(subject.config, subject.catalog) if first.variant.device == "cuda" else []


def _proved(prover: Prover, job: JobConfig, only: str | None) -> Prepared:
    try:
        return next(prover.candidates(job, only))
    except GateError as error:
        raise GateError(
            f"placement.cpu_variant: {error.problem}",
            "name another one there, or auto; lower what the gate asks for; or remove placement.cpu_variant to score "
            "on GPUs alone",
        ) from error
