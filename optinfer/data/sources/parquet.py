"""Parquet: a file, a folder or a glob. Footers are read in parallel, and what cannot work is refused from them alone.

Each footer is read from one version of its file (pinned.py), and that version is what the plan holds: it goes with
every fragment, and whoever reads a fragment reads that version or nothing.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.config import SourceConfig
from optinfer.data.footer import Footer, read_footer
from optinfer.data.fragments import Fragments, Partition, Plan, SourceFile, cut, places, rows_per_fragment, tapered
from optinfer.data.listing import SUFFIXES, list_source
from optinfer.data.partitions import partitions, with_partitions
from optinfer.data.patience import PATIENT, Patience
from optinfer.data.reading import FragmentReader
from optinfer.data.schema import cast_of, require_casts, table_schema
from optinfer.data.sources import Source
from optinfer.errors import CorruptFileError, SourceError, redact

_FOOTER_THREADS = 16


@dataclass(frozen=True, eq=False)
class _File:
    """One file; `groups` holds (row groups, 2) rows and bytes."""

    file: SourceFile
    groups: np.ndarray[Any, Any]
    schema: pa.Schema


def plan(source: SourceConfig, columns: Sequence[str], wanted_rows: int, patience: Patience = PATIENT) -> Plan:
    """Cut the source into fragments.

    Args:
        source: the job's source.
        columns: source columns the job reads (family inputs and `sink.columns`).
        wanted_rows: rows that a fragment should have in a large table.
        patience: how footers are read.

    Raises:
        ConfigError: nothing can be read as one table: no files, a table format's folder, encryption, columns that are
            missing or differ.
        SourceError: a file cannot be read and `on_bad_file` is `raise`, or the store does not answer.
    """
    listing = list_source(source.path)
    planned = plan_files(source, columns, wanted_rows, partitions(listing.root, listing.files), patience)
    left_out = listing.warning(redact(source.path))
    return planned if left_out is None else replace(planned, warnings=(*planned.warnings, left_out))


def plan_files(
    source: SourceConfig,
    columns: Sequence[str],
    wanted_rows: int,
    by_path: dict[str, Partition],
    patience: Patience = PATIENT,
) -> Plan:
    """Cut these files of a table, with the partition values of each, into fragments; in the order given."""
    files, bad = _read_footers(by_path, source, set(columns), patience)
    if not files:
        raise SourceError(f"none of the {len(bad)} files in {redact(source.path)} can be read; first: {bad[0][1]}")
    schemas = [(f.file.path, with_partitions(f.schema, by_path[f.file.path])) for f in files]
    schema = table_schema(schemas, columns)
    require_casts(schemas, schema, columns)
    total = min(sum(f.file.rows for f in files), source.limit or 2**62)
    ranges = _ranges([f.groups for f in files], source, total, wanted_rows)
    casts = [cast_of(found, schema, columns) for _, found in schemas]
    of_table = [f.file for f in files]
    return Plan(
        files=tuple(of_table),
        fragments=_columns(ranges, of_table, by_path, casts),
        sampled=_sampled(of_table, by_path, casts),
        schema=schema,
        bad_files=tuple(bad),
        warnings=tuple(f"{redact(path)} is left out: {why}" for path, why in bad),
    )


def _read_footers(
    by_path: dict[str, Partition], source: SourceConfig, columns: set[str], patience: Patience
) -> tuple[list[_File], list[tuple[str, str]]]:
    """Return the files, and (path, reason) of those that no decoder reads; what the store says ends it."""
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        results = list(pool.map(lambda path: _file(path, by_path[path], columns, patience), by_path))
    files = [r for r in results if isinstance(r, _File)]
    bad = [r for r in results if not isinstance(r, _File)]
    if bad and source.on_bad_file == "raise":
        raise SourceError(
            f"{bad[0][1]}; repair or remove the file, or set source.on_bad_file: quarantine to score the others"
            + (f" ({len(bad)} files are affected)" if len(bad) > 1 else "")
        )
    return files, bad


def _file(path: str, partition: Partition, columns: set[str], patience: Patience) -> _File | tuple[str, str]:
    try:
        footer: Footer = patience.read(path, lambda file: read_footer(file, path, partition, columns))
    except CorruptFileError as error:
        return path, str(error)
    return _File(SourceFile(path, footer.size, footer.version, footer.rows), footer.groups, footer.schema)


def _ranges(
    groups: Iterable[np.ndarray[Any, Any]], source: SourceConfig, total: int, wanted_rows: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (file, start, stop) of every fragment; `total` rows are cut of the files' row groups."""
    automatic = source.fragment_rows == "auto"
    max_rows = rows_per_fragment(total, wanted_rows) if source.fragment_rows == "auto" else source.fragment_rows
    before = 0
    for index, of_file in enumerate(groups):
        for start, stop in cut(of_file.tolist(), max_rows, source.fragment_mb * 1e6):
            stop = min(stop, start + total - before)
            pieces = tapered(start, stop, before, total) if automatic else [(start, stop)]
            yield from ((index, a, b) for a, b in pieces if b > a)
            before += stop - start


def _sampled(files: Sequence[SourceFile], by_path: dict[str, Partition], casts: Sequence[str]) -> Fragments:
    """Return what a sample is drawn from; of the files only those that it is in, as it travels."""
    chosen = list(places([file.rows for file in files]))
    used = sorted({file for file, _, _ in chosen})
    at = {file: place for place, file in enumerate(used)}
    ranges = [(at[file], start, stop) for file, start, stop in chosen]
    return _columns(ranges, [files[file] for file in used], by_path, [casts[file] for file in used])


def _columns(
    ranges: Iterable[tuple[int, int, int]],
    files: Sequence[SourceFile],
    by_path: dict[str, Partition],
    casts: Sequence[str],
) -> Fragments:
    numbers = np.fromiter(itertools.chain.from_iterable(ranges), dtype=np.int64).reshape(-1, 3)
    return Fragments(
        paths=tuple(file.path for file in files),
        partitions=tuple(by_path[file.path] for file in files),
        file=numbers[:, 0].copy(),
        start=numbers[:, 1].copy(),
        stop=numbers[:, 2].copy(),
        files=tuple(files),
        casts=tuple(map(sys.intern, casts)),  # one text for all files that differ alike
    )


source = Source(
    about="Parquet files: one, a folder (hive-partitioned or not) or a glob",
    claims=lambda path: path.lower().endswith(SUFFIXES),
    plan=plan,
    reader=FragmentReader,
)
