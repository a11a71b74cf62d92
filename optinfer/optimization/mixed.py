"""A second variant beside a CUDA one, for the nodes without a GPU: `placement.cpu_variant`.

It is proved like the first, on the same sample and under the same gate: as the variant of the same job on CPUs.
"""

from __future__ import annotations

from typing import Any

from optinfer.config import AUTO, JobConfig, PlacementConfig
from optinfer.errors import ConfigError, GateError
from optinfer.optimization.selection import Prepared, candidates, known, recipes
from optinfer.optimization.variants import catalog, get
from optinfer.optimization.workbench import Workbench


def cpu_recipes(config: JobConfig, model_format: str | None = None) -> dict[str, Any]:
    """Return what the job says of its second variant, for its fingerprint; nothing where it has none.

    Raises:
        ConfigError: it has no use beside the job's variant, or is none for CPUs.
        UnavailableError: it cannot run here, or cannot start from a model of this format.
    """
    name = config.placement.cpu_variant
    if name is None:
        return {}
    variants = catalog(config)
    if config.variant != AUTO and get(config.variant, variants).device != "cuda":
        raise ConfigError(
            f"placement.cpu_variant scores beside a variant on GPUs, and {config.variant} runs on the CPUs of all "
            "nodes; remove placement.cpu_variant, or choose a variant for cuda"
        )
    if name != AUTO and get(name, variants).device != "cpu":
        raise ConfigError(f"placement.cpu_variant {name} does not run on CPUs; name a variant that does, or auto")
    return recipes(_on_cpus(config, name), model_format)


def beside(bench: Workbench, main: Prepared, only: str | None = None) -> Prepared | None:
    """Return the proved second variant, None where the job has none or `main` does not run on GPUs.

    Args:
        only: the second variant that an output is bound to by earlier attempts.

    Raises:
        UnavailableError: a named one cannot run on this machine.
        GateError: none passes.
    """
    name = bench.config.placement.cpu_variant
    if name is None or main.variant.device != "cuda":
        return None
    try:
        return next(candidates(bench.for_job(_on_cpus(bench.config, name)), only))
    except GateError as error:
        reasons = str(error).rpartition("\n")[0]
        raise GateError(
            f"placement.cpu_variant: {reasons}\nname another one there, or auto; lower what the gate asks for; or "
            "remove placement.cpu_variant to score on GPUs alone"
        ) from error


def known_beside(bench: Workbench, main: Prepared) -> Prepared | None:
    """Return what `beside` would as far as the cache tells; build and measure nothing."""
    name = bench.config.placement.cpu_variant
    if name is None or main.variant.device != "cuda":
        return None
    return known(bench.for_job(_on_cpus(bench.config, name)))


def _on_cpus(config: JobConfig, variant: str) -> JobConfig:
    """Return the job as it would be with this variant on CPUs alone."""
    wishes = config.placement  # all others are for the GPUs
    placement = PlacementConfig(device="cpu", resources=wishes.resources, cost_per_hour=wishes.cost_per_hour)
    gate = config.gate.model_copy(update={"fallback": None})
    return config.model_copy(update={"variant": variant, "placement": placement, "gate": gate})
