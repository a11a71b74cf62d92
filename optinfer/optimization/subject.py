"""What a job's variants are made from and judged by: its model, read as its family, and the recipes it may use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from optinfer import plugins
from optinfer.config import JobConfig
from optinfer.errors import ConfigError
from optinfer.families import Family
from optinfer.models.artifact import Artifact
from optinfer.optimization.gate import metric_of
from optinfer.optimization.variants import Catalog


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One job's model, worked out once.

    Attributes:
        source: kind of table that its rows come from.
        model: on this machine.
        family: made for this model; `family_settings` are the job's.
        catalog: variants that the job may use, by name.
    """

    config: JobConfig
    source: str
    model: Artifact
    family: Family
    family_settings: dict[str, Any]
    catalog: Catalog

    @property
    def metric(self) -> str:
        """How outputs are compared with the baseline's.

        Raises:
            ConfigError: the job names one that the family has not.
        """
        return metric_of(self.config.gate, self.family.metrics)

    def for_job(self, config: JobConfig) -> Subject:
        """Return it for a job that differs only in which variants it allows."""
        return replace(self, config=config)


def load_family(config: JobConfig, model: Artifact, settings: dict[str, Any]) -> Family:
    """Load the job's family for its model.

    Raises:
        ConfigError: the model is not one of this family.
    """
    family: Family = plugins.load("families", config.model.family).load(model, settings)
    return family


def family_settings(config: JobConfig) -> dict[str, Any]:
    """Return the model settings that the family takes.

    Raises:
        ConfigError: one is set that this family has no use for.
    """
    taken = plugins.load("families", config.model.family).SETTINGS
    given = config.model.model_dump(by_alias=True, exclude={"path", "family", "allow_pickle"})
    if idle := [name for name, value in given.items() if value and name not in taken]:
        raise ConfigError(
            f"model.{idle[0]} has no use with family {config.model.family}, which takes {', '.join(taken)}; remove it"
        )
    return {name: given[name] for name in taken}
