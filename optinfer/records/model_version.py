"""A version of a registered model, as MLflow's registry has it."""

from __future__ import annotations

from dataclasses import dataclass

from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class ModelVersion(Record):
    """One version.

    Attributes:
        created: when it was registered, in milliseconds since the epoch: a model that was deleted and registered anew
            counts from 1 again.
    """

    name: str
    version: str
    created: int

    @property
    def uri(self) -> str:
        """Its address, which means the same model for ever."""
        return f"models:/{self.name}/{self.version}"
