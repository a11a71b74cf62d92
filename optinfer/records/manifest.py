"""The manifest of a finished output: the run that finished it, the job it was of, and what lies there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optinfer.records.record import Record, decoded_leniently
from optinfer.records.run import RunRecord


@dataclass(frozen=True, kw_only=True)
class BadFile(Record):
    """An input file that cannot be read, and why; no row of it was planned."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Inventory(Record):
    """The file that lists every part with its size and digest: its own digest, and what its columns add up to."""

    file: str
    sha256: str
    count: int
    bytes: int
    quarantine_files: int
    quarantine_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """The whole account of a finished job.

    Attributes:
        job: the job as it was run, without credentials.
        identity: what its fingerprint is made of.
        parts: None in outputs of before there was an inventory.
    """

    run: RunRecord
    job: Mapping[str, object] = field(default_factory=dict)
    identity: Mapping[str, object] = field(default_factory=dict)
    quarantine_reasons: Mapping[str, int] = field(default_factory=dict)
    bad_files: tuple[BadFile, ...] = ()
    variants_not_chosen: Mapping[str, str] = field(default_factory=dict)
    variants_not_chosen_why: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    journal: str = ""
    parts: Inventory | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().as_dict().items() if name != "parts" or value is not None}

    @classmethod
    def of(cls, raw: object) -> Manifest:
        """Return the manifest that a file holds, of an earlier version, too.

        Raises:
            ValueError: it is none.
        """
        if not isinstance(raw, Mapping) or not isinstance(raw.get("run"), Mapping):
            raise ValueError("a manifest has the record of a run")
        return decoded_leniently(cls, {**raw, "run": RunRecord.of(raw["run"])})
