"""What a machine is fit for: the checks of `doctor`, and the variants that it can run."""

from __future__ import annotations

from dataclasses import dataclass

from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Check(Record):
    """One check; `detail` says what was found, or the fix."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Offer(Record):
    """A variant that ships; `reason` says why it is not available here, None where it is."""

    name: str
    available: bool
    reason: str | None
    techniques: str
    backend: str
    device: str
    about: str
