"""Delta: the files of one version of a table, read as Parquet with the values that its log has of their partitions.

The version is looked up once, when the job is planned, and is in its fingerprint: the table may move on meanwhile. What
the log says of a file that its bytes do not (deleted rows, renamed columns) is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from optinfer.config import SourceConfig
from optinfer.data.fragments import Partition, Plan
from optinfer.data.partitions import type_named
from optinfer.data.reading import FragmentReader
from optinfer.data.sources import Source
from optinfer.data.sources.parquet import plan_files
from optinfer.data.storage import absolute, file_system
from optinfer.data.store_options import storage_options
from optinfer.errors import ConfigError, SourceError, redact
from optinfer.system.outages import failures

if TYPE_CHECKING:
    from deltalake import DeltaTable

_LOG = "_delta_log"
# Features that change nothing of how the files of a version are read.
_READ_AS_ALWAYS = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "checkConstraints"})
_FIXES = {
    "deletionVectors": "purge them (Spark: `REORG TABLE ... APPLY (PURGE)`) and drop the feature",
    "columnMapping": "write its rows to a table without column mapping",
}


def claims(path: str) -> bool:
    """Tell whether a path is a table's folder."""
    fs, root = file_system(absolute(path))
    if any(c in root for c in "*?["):
        return False
    try:
        return bool(fs.exists(f"{root.rstrip('/')}/{_LOG}"))
    except failures():  # whoever reads it says what is wrong
        return False


def plan(source: SourceConfig, columns: Sequence[str], wanted_rows: int) -> Plan:
    """Cut one version of a table into fragments.

    Raises:
        ConfigError: there is no such table or version, or reading its files would not give its rows.
        SourceError: a file of the version is gone, or the store does not answer.
    """
    table, shown = _opened(source), redact(source.path)
    _require_plain(table, shown)
    by_path = dict(_files(table, absolute(source.path).rstrip("/")))
    if not by_path:
        raise ConfigError(f"{shown} has no rows in version {table.version()}; give a version with rows")
    try:
        cut = plan_files(source, columns, wanted_rows, by_path)
    except SourceError as error:
        fs, _ = file_system(absolute(source.path))
        if all(map(fs.exists, by_path)):
            raise
        raise SourceError(
            f"version {table.version()} of {shown} is not whole any more: files of it were vacuumed; give a later "
            "source.version"
        ) from error
    return replace(cut, version=table.version())


def _opened(source: SourceConfig) -> DeltaTable:
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError as error:
        raise ConfigError("Delta tables need the package deltalake; fix: pip install 'optinfer[delta]'") from error
    url = absolute(source.path)
    try:
        return DeltaTable(url, version=source.version, storage_options=storage_options(url))
    except DeltaError as error:
        asked = f" in version {source.version}" if source.version is not None else ""
        raise ConfigError(
            f"{redact(source.path)} cannot be read as a Delta table{asked}: {str(error).splitlines()[0]}; correct "
            "source.path or source.version"
        ) from error


def _require_plain(table: DeltaTable, shown: str) -> None:
    protocol = table.protocol()
    features = set(protocol.reader_features or ())
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    for feature in sorted(features - _READ_AS_ALWAYS):
        fix = _FIXES.get(feature, "write its rows to a table without it")
        raise ConfigError(f"{shown} uses Delta's {feature}, and reading its files would not give its rows; {fix}")


def _files(table: DeltaTable, root: str) -> Iterator[tuple[str, Partition]]:
    """Yield the files of the version with the partition values of each, in the order of their names."""
    names = table.metadata().partition_columns
    actions: Any = pa.table(table.get_add_actions(flatten=True))
    columns = {name: actions.column(f"partition.{name}") for name in names}
    for name, column in columns.items():
        _require_travels(name, column.type)
    # As texts: a fragment travels as JSON.
    values = {name: column.cast(pa.string()).to_pylist() for name, column in columns.items()}
    for at, path in sorted(enumerate(actions.column("path").to_pylist()), key=lambda found: found[1]):
        partition = tuple((name, values[name][at], str(columns[name].type)) for name in names)
        yield (path if "://" in path else f"{root}/{unquote(path)}"), partition


def _require_travels(name: str, kind: pa.DataType) -> None:
    try:
        pa.nulls(1, kind).cast(pa.string()).cast(type_named(str(kind)))
    except (pa.ArrowException, ValueError) as error:
        raise ConfigError(
            f"the partition column {name!r} is {kind}, which is not read; partition by another"
        ) from error


source = Source(about="a Delta table, at one version", claims=claims, plan=plan, reader=FragmentReader, versioned=True)
