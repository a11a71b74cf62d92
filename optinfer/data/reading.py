"""Read one fragment: only the needed columns, from any number of row groups.

The last decoded row group is kept, because fragments cut from one large group are read one after the other by the
same replica; without it a table written as a single row group would be decoded once per fragment. So is the last
footer: that of a file with thousands of row groups is larger than a fragment.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.fragments import Fragment
from optinfer.data.storage import file_system, version_of
from optinfer.errors import SourceError, redact


@dataclass(frozen=True, eq=False)
class _Footer:
    """The footer of one version of a file; `edges` are the (row groups + 1,) rows between its groups."""

    path: str
    version: str
    metadata: pq.FileMetaData
    edges: np.ndarray[Any, Any]


class FragmentReader:
    """Reads fragments of one plan; safe to call from several threads."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self._kept: tuple[str, int, pa.Table] | None = None
        self._footer: _Footer | None = None
        self._lock = threading.Lock()

    def read(self, fragment: Fragment) -> pa.Table:
        """Return the fragment's rows, in the file's order, with hive partition columns as constants.

        Raises:
            SourceError: the file is gone, cannot be decoded, or has other rows than when it was planned.
        """
        try:
            with self._lock:
                table = self._rows(fragment)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                f"cannot read rows {fragment.start}-{fragment.stop} of {redact(fragment.path)}: "
                f"{' '.join(str(error).split())}; "
                "repair the file, or set source.on_bad_file: quarantine to leave these rows out"
            ) from error
        if table.num_rows != fragment.rows:
            raise SourceError(
                f"{redact(fragment.path)} changed since it was planned ({table.num_rows} of {fragment.rows} rows in "
                f"{fragment.start}-{fragment.stop}); choose a new sink.path to score the new table"
            )
        partition = {name: pa.scalar(value, pa.type_for_alias(kind)) for name, value, kind in fragment.partition}
        for name in self._columns:
            if name not in table.column_names:
                table = table.append_column(name, pa.repeat(partition[name], table.num_rows))
        return table.select(list(self._columns))

    def _rows(self, fragment: Fragment) -> pa.Table:
        fs, path = file_system(fragment.path)
        pieces = []
        # fsspec would read 50 MB ahead at every range, on S3 for nothing: Arrow joins the ranges that it needs.
        with fs.open(path, "rb", cache_type="none") as file:
            version = version_of(getattr(file, "details", None) or fs.info(path))
            parquet, edges = self._open(file, fragment.path, version)
            physical = [c for c in self._columns if c in parquet.schema_arrow.names]
            for group in np.flatnonzero((edges[:-1] < fragment.stop) & (edges[1:] > fragment.start)).tolist():
                first, last = max(fragment.start, edges[group]), min(fragment.stop, edges[group + 1])
                rows = self._group(parquet, fragment.path, group, physical)
                pieces.append(rows.slice(first - edges[group], last - first))
        if not pieces:
            return parquet.schema_arrow.empty_table().select(physical)
        return pa.concat_tables(pieces).replace_schema_metadata(None)

    def _open(self, file: Any, path: str, version: str) -> tuple[pq.ParquetFile, np.ndarray[Any, Any]]:
        """Open a file, without reading its footer where it is known, and return the rows between its groups."""
        known = self._footer
        if known is not None and (known.path, known.version) == (path, version):
            return pq.ParquetFile(file, pre_buffer=True, metadata=known.metadata), known.edges
        parquet = pq.ParquetFile(file, pre_buffer=True)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        self._footer = _Footer(path, version, parquet.metadata, np.cumsum([0, *sizes]))
        return parquet, self._footer.edges

    def _group(self, parquet: pq.ParquetFile, path: str, group: int, columns: list[str]) -> pa.Table:
        if self._kept is None or self._kept[:2] != (path, group):
            self._kept = (path, group, parquet.read_row_group(group, columns=columns))
        return self._kept[2]
