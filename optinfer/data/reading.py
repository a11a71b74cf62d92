"""Read one fragment: only the needed columns, from any number of row groups, of the version that was planned.

The last decoded row group is kept, because fragments cut from one large group are read one after the other by the
same replica; without it a table written as a single row group would be decoded once per fragment. So is the last
footer: that of a file with thousands of row groups is larger than a fragment. Both are known by the file's version.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.footer import int96_columns, leaves_of, open_parquet
from optinfer.data.fragments import Fragment
from optinfer.data.partitions import constant
from optinfer.data.patience import PATIENT, Patience
from optinfer.data.pinned import PinnedFile
from optinfer.data.schema import conform
from optinfer.errors import CorruptFileError, SourceError, redact

_Version = tuple[str, int, str]


@dataclass(frozen=True, eq=False)
class _Footer:
    """The footer of one version of a file; `edges` are the (row groups + 1,) rows between its groups."""

    of: _Version
    metadata: pq.FileMetaData
    edges: np.ndarray[Any, Any]


class FragmentReader:
    """Reads fragments of one plan; safe to call from several threads."""

    def __init__(self, columns: Sequence[str], patience: Patience = PATIENT) -> None:
        self._columns, self._patience = tuple(columns), patience
        self._kept: tuple[_Version, int, pa.Table] | None = None
        self._footer: _Footer | None = None
        self._lock = threading.Lock()

    def read(self, fragment: Fragment) -> pa.Table:
        """Return the fragment's rows, in the file's order and the plan's types, hive partition columns as constants.

        Raises:
            CorruptFileError: the file is the planned one and cannot be decoded.
            SourceError: the file is not the planned one, or out of reach for minutes.
        """
        try:
            with self._lock:
                table = self._patience.read(
                    fragment.path, lambda file: self._rows(file, fragment), fragment.size, fragment.version
                )
        except CorruptFileError as error:
            raise CorruptFileError(
                f"cannot read rows {fragment.start}-{fragment.stop}: {error}; "
                "repair the file, or set source.on_bad_file: quarantine to leave these rows out"
            ) from error
        if table.num_rows != fragment.rows:  # of a file without a planned version
            raise SourceError(
                f"{redact(fragment.path)} changed since it was planned ({table.num_rows} of {fragment.rows} rows in "
                f"{fragment.start}-{fragment.stop}); choose a new sink.path to score the new table"
            )
        partition = {name: constant(value, kind) for name, value, kind in fragment.partition}
        for name in self._columns:
            if name not in table.column_names:
                table = table.append_column(name, pa.repeat(partition[name], fragment.rows))
        return conform(table.select(list(self._columns)), fragment.cast)

    def _rows(self, file: PinnedFile, fragment: Fragment) -> pa.Table:
        version = (fragment.path, file.size, file.version)
        parquet, edges = self._open(file, version)
        physical = [c for c in self._columns if c in parquet.schema_arrow.names]
        if not physical:  # partitions are all that is read; a table without columns would have no rows either
            return pa.table({"": pa.repeat(True, min(fragment.stop, int(edges[-1])) - fragment.start)})
        pieces = []
        for group in np.flatnonzero((edges[:-1] < fragment.stop) & (edges[1:] > fragment.start)).tolist():
            first, last = max(fragment.start, edges[group]), min(fragment.stop, edges[group + 1])
            rows = self._group(file, parquet, version, group, physical)
            if rows.num_rows != edges[group + 1] - edges[group]:
                raise pa.ArrowInvalid(f"row group {group} holds {rows.num_rows} rows, its footer says otherwise")
            pieces.append(rows.slice(first - edges[group], last - first))
        if not pieces:
            return parquet.schema_arrow.empty_table().select(physical)
        return pa.concat_tables(pieces).replace_schema_metadata(None)

    def _open(self, file: PinnedFile, version: _Version) -> tuple[pq.ParquetFile, np.ndarray[Any, Any]]:
        """Open a file, without reading its footer where it is known, and return the rows between its groups."""
        known = self._footer
        if known is not None and known.of == version:
            return open_parquet(file, known.metadata), known.edges
        parquet = open_parquet(file)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        self._footer = _Footer(version, parquet.metadata, np.cumsum([0, *sizes]))
        return parquet, self._footer.edges

    def _group(
        self, file: PinnedFile, parquet: pq.ParquetFile, version: _Version, group: int, columns: list[str]
    ) -> pa.Table:
        if self._kept is None or self._kept[:2] != (version, group):
            rows = parquet.read_row_group(group, columns=columns)
            _require_microseconds(file, parquet, group, rows)
            file.hold()  # what is kept must be of one version, too
            self._kept = (version, group, rows)
        return self._kept[2]


def _require_microseconds(file: PinnedFile, parquet: pq.ParquetFile, group: int, rows: pa.Table) -> None:
    """Refuse timestamps of 96 bits that are finer than the microseconds they are read as.

    The count of nanoseconds may not fit into 64 bits; what both counts differ by is right nevertheless.
    """
    if not (old := int96_columns(parquet.metadata, leaves_of(parquet.metadata, rows.column_names))):
        return
    finer = open_parquet(file, parquet.metadata, unit="ns").read_row_group(group, columns=old)
    for name in old:
        exact, read = (_counts(table.column(name)) for table in (finer, rows))
        if np.any(exact - read * np.int64(1000)):
            raise SourceError(
                f"column {name!r} holds timestamps finer than a microsecond in Parquet's old 96 bits; "
                "write it with timestamps in nanoseconds"
            )


def _counts(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = column.cast(pa.int64()).fill_null(0).to_numpy()
    return found
