"""A job that `optinfer init` wrote."""

from __future__ import annotations

from dataclasses import dataclass

from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Finding(Record):
    """One key of the job: what was found out, and from what."""

    key: str
    value: object
    why: str


@dataclass(frozen=True, kw_only=True)
class Draft(Record):
    """A job file; `findings` are in it as comments."""

    job: str
    rows: int
    findings: tuple[Finding, ...]
