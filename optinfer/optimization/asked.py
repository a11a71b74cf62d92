"""What a job asks for, told from the job alone: its variant and fallback, and those of each further pool."""

from __future__ import annotations

from typing import Any

from optinfer.backends import BACKENDS
from optinfer.config import AUTO, JobConfig, PlacementConfig
from optinfer.errors import ConfigError, suggest
from optinfer.optimization.variants import Catalog, Variant, get, require


def wanted(config: JobConfig, known: Catalog, runs_here: bool = True) -> list[Variant]:
    """Return the variants that the job names, for all of its pools.

    Args:
        runs_here: each has to run on this machine.

    Raises:
        ConfigError: the job's device is none, or a further pool has no use beside the first, or none for its devices.
        UnavailableError: a variant cannot run here.
    """
    _require_device(config.placement.device)
    jobs = (config, *jobs_of_further_pools(config, known))
    names = [name for job in jobs for name in (job.variant, job.gate.fallback) if name and name != AUTO]
    return [require(name, known) if runs_here else get(name, known) for name in names]


def recipes(config: JobConfig, known: Catalog) -> dict[str, Any]:
    """Return what the job says of the variants of its first pool, for its fingerprint."""
    own = {name: known[name].recipe for name in config.variants} if config.variant == AUTO else {}
    named = [name for name in (config.variant, config.gate.fallback) if name]
    return own | {name: AUTO if name == AUTO else known[name].recipe for name in named}


def recipes_of_further_pools(config: JobConfig, known: Catalog) -> dict[str, Any]:
    """Return what the job says of the variants of its other pools, for its fingerprint; nothing where it has none."""
    jobs = jobs_of_further_pools(config, known)
    return {name: recipe for job in jobs for name, recipe in recipes(job, known).items()}


def jobs_of_further_pools(config: JobConfig, known: Catalog) -> list[JobConfig]:
    """Return the job of each further pool, as it would be with that pool's variant on its devices alone.

    Raises:
        ConfigError: a pool has no use beside the job's variant, or its variant is none for its devices.
    """
    name = config.placement.cpu_variant
    if name is None:
        return []
    if config.variant != AUTO and get(config.variant, known).device != "cuda":
        raise ConfigError(
            f"placement.cpu_variant scores beside a variant on GPUs, and {config.variant} runs on the CPUs of all "
            "nodes; remove placement.cpu_variant, or choose a variant for cuda"
        )
    if name != AUTO and get(name, known).device != "cpu":
        raise ConfigError(f"placement.cpu_variant {name} does not run on CPUs; name a variant that does, or auto")
    wishes = config.placement  # all others are for the GPUs
    placement = PlacementConfig(device="cpu", resources=wishes.resources, cost_per_hour=wishes.cost_per_hour)
    gate = config.gate.model_copy(update={"fallback": None})
    return [config.model_copy(update={"variant": name, "placement": placement, "gate": gate})]


def _require_device(wished: str) -> None:
    known = {AUTO, *(device for name in BACKENDS.names() for device in BACKENDS.get(name).devices)}
    if wished not in known:
        raise ConfigError(f"placement.device {wished!r} is no device of any backend" + suggest(wished, known))
