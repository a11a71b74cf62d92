"""What may score a job, best first, and what a person hears of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from optinfer.commands.arms import with_arms
from optinfer.commands.resolved import Resolved
from optinfer.config import AUTO, JobConfig
from optinfer.data.binding import Binding
from optinfer.execution.executor import Executor
from optinfer.optimization.pools import Pools, pools
from optinfer.tracking.recorder import Recorder

Say = Callable[[str], None]


def candidates(job: Resolved, executor: Executor, bound: Binding, say: Say) -> Iterator[Pools]:
    """Yield the proved variants that may score the job together; later ones are for when an earlier one cannot load.

    Args:
        bound: an output that holds rows already keeps the variants that it has.

    Raises:
        UnavailableError: a named variant cannot run where replicas are.
        GateError: none passes.
    """
    for found in pools(executor.prover(job.proving, say), bound.bound_variants()):
        yield with_arms(found, job.proving_of_arms, executor, say, bound.bound_arms())


def announce(proved: Pools, failed: Mapping[str, str], config: JobConfig, recorder: Recorder, say: Say) -> None:
    """Record what scores, and say why others do not.

    Args:
        failed: variants that passed and could not be loaded, with the reason.
    """
    first = proved.first
    for line in proved.warnings:
        recorder.warn(line)
    for name, reason in first.not_chosen:
        if config.variant == AUTO and name not in failed:
            say(f"not {name}: {reason}")
        else:
            recorder.warn(f"{name} does not score: {reason}")
    for name, reason in (entry for further in proved.each[1:] for entry in further.not_chosen):
        say(f"not {name} on CPUs: {reason}")
    for arm, further in proved.arms.items():
        for name, reason in further.not_chosen:
            say(f"not {name} for arm {arm}: {reason}")
    if config.placement.cpu_variant and len(proved) == 1:
        recorder.warn(f"placement.cpu_variant is left out: {first.variant.name} runs on the CPUs of all nodes itself")
    recorder.selected(first.variant.name, first.not_chosen, first.why_not)
