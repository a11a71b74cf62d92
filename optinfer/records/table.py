"""What `optinfer table` made of files."""

from __future__ import annotations

from dataclasses import dataclass

from optinfer.records.record import Record


@dataclass(frozen=True, kw_only=True)
class LeftOut(Record):
    """A file that gave no row, and why."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TableRecord(Record):
    """A table that was written.

    Attributes:
        kind: of the files: `images`, `texts`, `csv` or `jsonl`.
        files: that rows were made of.
        columns: name -> Arrow type.
        labels: label -> rows that have it; empty where no column has labels.
        bad_files: that could not be read, and were left out as was asked.
        left_out: of other kinds, and hidden ones.
        said: what was found out of what nobody said.
    """

    table: str
    kind: str
    rows: int
    files: int
    row_groups: int
    bytes: int
    columns: dict[str, str]
    labels: dict[str, int]
    bad_files: tuple[LeftOut, ...]
    left_out: tuple[LeftOut, ...]
    said: tuple[str, ...]
    seconds: float
