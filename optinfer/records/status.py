"""How far an output is."""

from __future__ import annotations

from dataclasses import dataclass

from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Status(Record):
    """What lies in an output folder.

    Attributes:
        state: `running`, `done`, `interrupted` or `damaged`.
        fragments, rows: as planned; None where the plan is lost.
        run_id: of the run that finished it.
        holder: the process that writes there now.
        home: where this machine keeps what it makes.
        damage: how it is not what was committed.
    """

    output: str
    state: str
    fingerprint: str
    fragments: int | None
    fragments_committed: int
    rows: int | None
    quarantine_files: int
    run_id: str | None
    holder: str | None
    home: str
    damage: tuple[str, ...]
