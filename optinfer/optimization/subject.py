"""What a job's variants are made from and judged by: its model, read as its family, and the recipes it may use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from optinfer.config import JobConfig
from optinfer.families import FAMILIES, Family
from optinfer.inference.settings import ReplicaSettings, TimeLimits
from optinfer.models.artifact import Artifact
from optinfer.optimization.gate import metric_of
from optinfer.optimization.variants import Catalog, Variant
from optinfer.records.model_version import ModelVersion
from optinfer.records.tuning import Tuned

# Raised when the same files of a model give other answers than before.
_ANSWERS = 3


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One job's model, worked out once.

    It travels without its family, which belongs to the model's files: `on` loads it where these are.

    Attributes:
        source: kind of table that its rows come from.
        model: on this machine.
        family: made for this model; `family_settings` are the job's.
        catalog: variants that the job may use, by name.
        version: of its model in a registry; None where it is in none.
    """

    config: JobConfig
    source: str
    model: Artifact
    family: Family
    family_settings: Mapping[str, object]
    catalog: Catalog
    version: ModelVersion | None = None

    @property
    def metric(self) -> str:
        """How outputs are compared with the baseline's.

        Raises:
            ConfigError: the job names one that the family has not.
        """
        return metric_of(self.config.gate, self.family.metrics)

    @property
    def keyed(self) -> Artifact:
        """The model under the key that artifacts are built from: what the family makes of the files is part of it."""
        told = self.config.model
        settings = json.dumps([_ANSWERS, told.family, told.identity], sort_keys=True)
        return replace(self.model, key=hashlib.sha256(f"{self.model.key} {settings}".encode()).hexdigest()[:16])

    def replica(
        self, variant: Variant, artifact: Artifact, threads: int = 1, tuned: Tuned | None = None
    ) -> ReplicaSettings:
        """Describe a replica of a variant; `tuned` sets what the job leaves to optinfer."""
        batching = self.config.batching
        tokens, size = (tuned.max_batch_tokens, tuned.max_batch_size) if tuned else (0, 0)
        return ReplicaSettings(
            family=self.config.model.family,
            family_settings=self.family_settings,
            model=self.keyed,
            backend=variant.backend,
            artifact=artifact,
            variant=variant.name,
            device=variant.device,
            threads=threads,
            max_batch_tokens=tokens if batching.max_batch_tokens == "auto" else batching.max_batch_tokens,
            max_batch_size=size if batching.max_batch_size == "auto" else batching.max_batch_size,
            dedupe=bool(batching.dedupe),
            limits=None if batching.timeout == "auto" else TimeLimits(micro_batch=batching.timeout),
        )

    def for_job(self, config: JobConfig) -> Subject:
        """Return it for a job that differs only in which variants it allows."""
        return replace(self, config=config)

    def on(self, model: Artifact) -> Subject:
        """Return it where it came to, with the same model as it lies there."""
        family = load_family(self.config, model, self.family_settings)
        return Subject(**{**vars(self), "model": model, "family": family})

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "family"}


def load_family(config: JobConfig, model: Artifact, settings: Mapping[str, object]) -> Family:
    """Load the job's family for its model.

    Raises:
        ConfigError: the model is not one of this family.
    """
    return FAMILIES.get(config.model.family).load(model, settings)
