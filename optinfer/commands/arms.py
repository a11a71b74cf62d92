"""The arms of an experiment: the job once more, with another variant or another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pyarrow as pa
from pydantic import ValidationError

from optinfer.config import ArmConfig, ExperimentConfig, JobConfig
from optinfer.errors import ConfigError, GateError, redact
from optinfer.execution.executor import Executor
from optinfer.optimization.pools import Pools
from optinfer.optimization.prepared import Prepared
from optinfer.optimization.proving import Proving
from optinfer.optimization.subject import Subject


def jobs_of_arms(config: JobConfig) -> dict[str, JobConfig]:
    """Return the job of each arm beside the control, as it would be without the others, by name ascending.

    Raises:
        ConfigError: its model is none.
    """
    return {name: _job_of(config, name, arm) for name, arm in sorted(config.experiment.arms.items())}


def _job_of(config: JobConfig, name: str, arm: ArmConfig) -> JobConfig:
    try:
        model = config.model.at(arm.model) if arm.model else config.model
    except ValidationError as error:
        raise ConfigError(f"experiment.arms.{name}.model: {error.errors()[0]['msg']}") from error
    update = {"experiment": ExperimentConfig(), "model": model, "variant": arm.variant or config.variant}
    return config.model_copy(update=update)


def require_alike(name: str, arm: Subject, job: Subject, source: pa.Schema) -> None:
    """Refuse an arm whose answers do not fit into the job's columns.

    Raises:
        ConfigError: they do not, or its model cannot take the table.
    """
    arm.family.check(source, arm.config.source.columns)
    if arm.family.schema != job.family.schema:
        theirs, ours = ("; ".join(f"{f.name} {f.type}" for f in one.family.schema) for one in (arm, job))
        raise ConfigError(
            f"experiment.arms.{name}: {redact(arm.config.model.path)} gives {theirs}, the job's model {ours}; one "
            "table holds the answers of all arms: name a model that gives the same columns, or compare the two with "
            "`optinfer compare`"
        )


def with_arms(
    found: Pools,
    jobs: dict[str, Proving],
    executor: Executor,
    say: Callable[[str], None],
    bound: tuple[str, ...] = (),
) -> Pools:
    """Return the pools with what scores for each further arm, proved like the first under its own gate.

    Args:
        bound: the variants that an output is bound to by earlier attempts, arm by arm.

    Raises:
        GateError: an arm has none that passes.
        ConfigError: it runs on another device than the job.
    """
    arms: dict[str, Prepared] = {}
    for (name, job), only in zip(jobs.items(), _padded(bound), strict=False):
        try:
            arms[name] = next(executor.prover(job, say).candidates(job.subject.config, only))
        except GateError as error:
            raise GateError(f"experiment.arms.{name}: {error}") from error
        if arms[name].variant.device != found.first.variant.device:
            raise ConfigError(
                f"experiment.arms.{name}: {arms[name].variant.name} runs on {arms[name].variant.device}, the job's "
                f"{found.first.variant.name} on {found.first.variant.device}; each replica holds all arms: name "
                "variants for one device"
            )
    return replace(found, arms=arms)


def _padded(bound: tuple[str, ...]) -> Iterator[str | None]:
    yield from bound
    while True:
        yield None
