"""Plan: list the source, read every footer, cut the table into fragments. Pure apart from reading footers.

A fragment is a contiguous row range of one file. Row groups are joined up to the wanted size and split where one alone
is larger, so the unit of work does not depend on how somebody happened to write the table.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa

# A small table still gets this many fragments, so that replicas finish together; below the floor a fragment is too
# short for length-sorted micro-batches to be full: of 512 texts 4% of what the model sees is padding, of 1024 3%.
_MIN_FRAGMENTS = 16
_FLOOR_ROWS = 512
# A large table gets no more than this: each costs a few milliseconds of the driver and a listed name on resume.
_MOST_FRAGMENTS = 100_000
# The first rows are cut finer, so that the first commits come soon, and the last ones, so that no replica has a whole
# fragment left when the others have nothing.
_ENDS = 1 / 16
_PIECES = 4
# A sample is drawn from so many places of a table, of so many rows at most.
_PLACES = 16
_PLACE_ROWS = 1024
# A fragment takes seconds with a model of up to this size; a larger one gets fewer rows, in proportion.
_LIGHT_MODEL_BYTES = 256e6
_FEWEST_ROWS = 64


@dataclass(frozen=True)
class SourceFile:
    """One input file as it was when planned; `version` is an etag, locally the modification time in nanoseconds."""

    path: str
    size: int
    version: str
    rows: int


@dataclass(frozen=True)
class Fragment:
    """Rows [start, stop) of one file at one version: plain values, it travels as JSON.

    Attributes:
        partition: the file's hive partition values as (column, value, Arrow type).
        size, version: the file as it was planned; read at whatever version it has where there is none.
        cast: columns that this file holds in another type than the plan, as schema.py writes them.
    """

    index: int
    path: str
    start: int
    stop: int
    partition: tuple[tuple[str, Any, str], ...] = ()
    size: int = 0
    version: str = ""
    cast: str = ""

    @property
    def rows(self) -> int:
        return self.stop - self.start


Partition = tuple[tuple[str, Any, str], ...]


@dataclass(frozen=True, eq=False)
class Fragments(Sequence[Fragment]):
    """All fragments of a plan as columns: a million take 20 MB, as objects they would take a gigabyte.

    Attributes:
        paths: (files,) paths and `partitions` their hive partition values.
        file: (n,) index into these; `start` and `stop`: (n,) rows.
        files: (files,) as they were planned, and `casts` what must be cast; none of either where nobody planned.
    """

    paths: tuple[str, ...]
    partitions: tuple[Partition, ...]
    file: np.ndarray[Any, Any]
    start: np.ndarray[Any, Any]
    stop: np.ndarray[Any, Any]
    files: tuple[SourceFile, ...] = ()
    casts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.file)

    @overload
    def __getitem__(self, index: int) -> Fragment: ...
    @overload
    def __getitem__(self, index: slice) -> list[Fragment]: ...
    def __getitem__(self, index: int | slice) -> Fragment | list[Fragment]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        file = int(self.file[at])
        start, stop, partition = int(self.start[at]), int(self.stop[at]), self.partitions[file]
        if not self.files:
            return Fragment(at, self.paths[file], start, stop, partition)
        planned, cast = self.files[file], self.casts[file]
        return Fragment(at, planned.path, start, stop, partition, planned.size, planned.version, cast)

    @property
    def rows(self) -> int:
        return int((self.stop - self.start).sum())

    def digest(self) -> str:
        """Identify the cuts and what they are cut from."""
        found = hashlib.sha256(repr((self.paths, self.partitions, self.casts)).encode())
        for column in (self.file, self.start, self.stop):
            found.update(np.ascontiguousarray(column, dtype="<i8").tobytes())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """The table, cut.

    Attributes:
        bad_files: (path, reason) of files left out because the job says so.
        warnings: what a person should know of the table, those files included.
        version: of a table that keeps several.
        sampled: rows from all over the table, whatever the job's limit, columns and fragments: the same table and model
            have the same sample. None where the source does not say: then `fragments` are sampled.
    """

    files: tuple[SourceFile, ...]
    fragments: Fragments
    schema: pa.Schema
    bad_files: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    version: int | None = None
    sampled: Fragments | None = None

    @property
    def rows(self) -> int:
        return self.fragments.rows

    @property
    def sample_from(self) -> Fragments:
        """What a sample of the table is drawn from."""
        return self.fragments if self.sampled is None else self.sampled

    def part_name(self, index: int) -> str:
        """Return the deterministic name of a fragment's output file."""
        return part_name(index, len(self.fragments))


def part_name(index: int, total: int) -> str:
    """Return the name of a fragment's output file in an output of `total` fragments."""
    return f"part-{index:0{part_digits(total)}d}.parquet"


def part_digits(total: int) -> int:
    return max(6, len(str(max(total - 1, 0))))


def rows_for_model(family_rows: int, model_bytes: int) -> int:
    """Return how many rows a fragment should have with a model of this size, so that it takes seconds and not hours."""
    share = min(1.0, _LIGHT_MODEL_BYTES / max(model_bytes, 1))
    return max(min(_FEWEST_ROWS, family_rows), int(family_rows * share))


def rows_per_fragment(total_rows: int, wanted_rows: int) -> int:
    """Return the automatic fragment size: what is wanted; less for a small table, more for one of very many rows."""
    rows = max(min(_FLOOR_ROWS, wanted_rows), min(wanted_rows, math.ceil(total_rows / _MIN_FRAGMENTS)))
    return max(rows, math.ceil(total_rows / _MOST_FRAGMENTS))


def places(rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (file, start, stop) of rows from all over a table whose files have so many; each within one file."""
    ends = np.cumsum(rows, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    for place in range(_PLACES):
        first, last = total * place // _PLACES, total * (place + 1) // _PLACES
        last = min(last, first + _PLACE_ROWS)
        for file in range(int(np.searchsorted(ends, first, "right")), len(ends)):
            before = int(ends[file]) - rows[file]
            if before >= last:
                break
            if (start := max(first - before, 0)) < (stop := min(last - before, rows[file])):
                yield file, start, stop


def tapered(start: int, stop: int, before: int, total: int) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) whole, or in pieces where it lies at either end of a table of `total` rows.

    Args:
        before: rows of the table that come before this range.
    """
    at_an_end = before < total * _ENDS or before + stop - start > total * (1 - _ENDS)
    pieces = _PIECES if at_an_end else 1
    edges = [start + (stop - start) * i // pieces for i in range(pieces + 1)]
    yield from ((a, b) for a, b in itertools.pairwise(edges) if b > a)


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
