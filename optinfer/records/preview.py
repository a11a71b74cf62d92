"""What `run` would do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optinfer.records.forecast import Forecast
from optinfer.records.placement import Placement, told
from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Preview(Record):
    """A job as it would run on this machine; `cpu_variant` is None where the job asks for none."""

    job: str
    rows: int
    files: int
    fragments: int
    to_score: int
    model: str
    variant: str
    cpu_variant: str | None
    output: str
    fingerprint: str
    placement: tuple[Placement, ...]
    forecast: Forecast
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        told_of = {**super().as_dict(), "placement": told(self.placement)}
        return {name: value for name, value in told_of.items() if name != "cpu_variant" or value is not None}
