"""What a job says of being watched: `monitor: false`, or a section."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from optinfer.config.part import Part


class MonitorConfig(Part):
    """How rows and answers are held against those of earlier runs; no part of the fingerprint."""

    enabled: bool = Field(
        True,
        description="keep measurements of some rows and hold them against the reference, the job's first finished "
        "output ([decide.md](decide.md#watch)); `monitor: false` is short for `false` here",
    )
    rows: Annotated[int, Field(ge=256, le=65536)] = Field(
        2048,
        description="rows of the whole table, about, whose measurements are kept",
    )
    columns: tuple[str, ...] = Field(
        (),
        description="columns of `sink.columns` that are watched beside the model's inputs and answers",
    )


def _as_section(given: object) -> object:
    """Take a boolean for the section that says just that."""
    return {"enabled": given} if isinstance(given, bool) else given


MonitorSection = Annotated[MonitorConfig, BeforeValidator(_as_section, json_schema_input_type=bool | MonitorConfig)]
