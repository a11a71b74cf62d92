"""Plan: list the source, read every footer, cut the table into fragments. Pure apart from reading footers.

A fragment is a contiguous row range of one file. Row groups are joined up to the wanted size and split where one alone
is larger, so the unit of work does not depend on how somebody happened to write the table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

# A small table still gets this many fragments, so that replicas finish together; below the floor a fragment is too
# short for length-sorted micro-batches to be full.
_MIN_FRAGMENTS = 64
_FLOOR_ROWS = 256


@dataclass(frozen=True)
class SourceFile:
    """One input file as it was when planned; `version` is an etag or modification time."""

    path: str
    size: int
    version: str
    rows: int


@dataclass(frozen=True)
class Fragment:
    """Rows [start, stop) of one file; `partition` holds its hive partition values as (column, value, Arrow type)."""

    index: int
    path: str
    start: int
    stop: int
    partition: tuple[tuple[str, Any, str], ...] = ()

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """The table, cut. `bad_files` holds (path, reason) of files left out because the job says so."""

    files: tuple[SourceFile, ...]
    fragments: tuple[Fragment, ...]
    schema: pa.Schema
    bad_files: tuple[tuple[str, str], ...] = ()

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.fragments)

    def part_name(self, index: int) -> str:
        """Return the deterministic name of a fragment's output file."""
        width = max(6, len(str(max(len(self.fragments) - 1, 0))))
        return f"part-{index:0{width}d}.parquet"


def rows_per_fragment(total_rows: int, family_rows: int) -> int:
    """Return the automatic fragment size: the family's, less for a small table."""
    return max(min(_FLOOR_ROWS, family_rows), min(family_rows, math.ceil(total_rows / _MIN_FRAGMENTS)))


def cut(groups: Iterable[tuple[int, int]], max_rows: int, max_bytes: float) -> Iterator[tuple[int, int]]:
    """Cut one file's row groups, given as (rows, bytes), into contiguous [start, stop) ranges.

    Whole groups are joined while both limits hold; a group above a limit is split into equal pieces.
    """
    start = end = 0
    held = 0.0
    for rows, size in groups:
        if rows == 0:
            continue
        if end > start and (end - start + rows > max_rows or held + size > max_bytes):
            yield start, end
            start, held = end, 0.0
        pieces = min(rows, max(math.ceil(rows / max_rows), math.ceil(size / max_bytes)))
        if pieces > 1:
            edges = [end + rows * i // pieces for i in range(pieces + 1)]
            yield from itertools.pairwise(edges)
            start = end = edges[-1]
            held = 0.0
        else:
            end, held = end + rows, held + size
    if end > start:
        yield start, end
