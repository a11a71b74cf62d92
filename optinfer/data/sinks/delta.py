"""Delta: the parts of an output as ONE version of a table, committed when all of them are there.

Until then the folder is like any other output, and holds no table. The commit carries a transaction whose application
is the output: whoever ends a job again, because the last one died before it had an answer, finds it in the log.
`_optinfer`, `_quarantine` and the manifest are in no log, and begin with `_`, which VACUUM leaves alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from optinfer.data.sinks import SinkKind
from optinfer.data.sinks.parquet import ParquetSink
from optinfer.data.storage import STATE, Folder
from optinfer.data.store_options import storage_options
from optinfer.errors import ConfigError, OutputConflictError, redact
from optinfer.records.part import Part

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, CommitProperties

_LOG = "_delta_log"
# In a table without column mapping: what no name may hold.
_NOT_IN_NAMES = frozenset(" ,;{}()\n\t=")
_LARGEST_DECIMAL = 38
# Arrow's types that a table has as another one, whose values are the same.
_SAME_VALUES = {
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.date64(): pa.date32(),
    pa.timestamp("s"): pa.timestamp("us"),
    pa.timestamp("ms"): pa.timestamp("us"),
}
_AS_THEY_ARE = {
    *(pa.string(), pa.binary(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()),
    *(pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC")),
}


class DeltaSink(ParquetSink):
    """A folder of parts, and at the end a table of them; older versions of it keep naming these."""

    replaces = False

    def put(
        self, name: str, part: Part, scored: pa.Table, quarantined: pa.Table | None, allowed: Collection[str] = ()
    ) -> Part:
        # Some readers take a part's own types for the table's.
        return super().put(name, part, scored.cast(_table_schema(scored.schema)), quarantined, allowed)

    def finish(self, fingerprint: str, parts: pa.Table) -> None:
        """Commit the parts as one version, unless the log has them.

        Raises:
            OutputConflictError: others have changed the table since, or made it.
        """
        self._commit_what_is_missing(fingerprint, parts)
        log = [f"{_LOG}/{name}" for name in self.folder.names(under=_LOG)]
        self.folder.keep(_LOG, *log)

    def _commit_what_is_missing(self, fingerprint: str, parts: pa.Table) -> None:
        from deltalake import CommitProperties, Transaction

        application, wanted = f"optinfer-{fingerprint}", _sizes(parts)
        table = _table_at(self.folder.url)
        there = None if table is None else table.transaction_version(application)
        held = {} if table is None else _held(table)
        if table is not None and (there is None or not held.keys() <= wanted.keys()):
            raise OutputConflictError(
                f"{self.shown} is a Delta table with rows that are not of this job (version {table.version()}): "
                "somebody has written or optimized it; all parts are there, but choose a new sink.path for a table"
            )
        missing = [name for name in wanted if held.get(name) != wanted[name]]
        if not missing and table is not None:
            return
        transaction = Transaction(application, (there or 0) + 1)
        self._commit(table, [_added(name, *wanted[name]) for name in missing], parts.column("part")[0].as_py(),
                     CommitProperties(app_transactions=[transaction]))  # fmt: skip

    def _commit(
        self, table: DeltaTable | None, added: Sequence[AddAction], example: str, properties: CommitProperties
    ) -> None:
        from deltalake import Schema
        from deltalake.transaction import create_table_with_add_actions

        if table is not None:  # parts that were lost and made again: the newer entry of a file counts
            table.create_write_transaction([*added], "append", table.schema(), commit_properties=properties)
            return
        schema = Schema.from_arrow(_arrow_schema(self.folder, example))
        create_table_with_add_actions(
            self.folder.url,
            schema,
            [*added],
            mode="error",
            storage_options=storage_options(self.folder.url),
            commit_properties=properties,
        )


def check(url: str, schema: pa.Schema) -> None:
    """Refuse columns that a table cannot hold, and a place that is another's table.

    Raises:
        ConfigError: says which, and what to do.
    """
    _require_installed()
    for name in schema.names:
        if set(name) & _NOT_IN_NAMES:
            raise ConfigError(
                f"a Delta table has no column {name!r}: names hold no spaces and none of ,;{{}}()=; rename it"
            )
    folded = [name.casefold() for name in schema.names]
    if twice := sorted({name for name in schema.names if folded.count(name.casefold()) > 1}):
        raise ConfigError(f"a Delta table does not tell the columns {twice} apart by case; leave one out, or rename it")
    _table_schema(schema)
    folder = Folder(url)
    if folder.read(f"{STATE}/job.json") is None and _table_at(folder.url) is not None:
        raise ConfigError(f"sink.path {redact(url)} is somebody else's Delta table; choose a path with nothing there")


def _require_installed() -> None:
    try:
        import deltalake  # noqa: F401
    except ImportError as error:
        raise ConfigError("Delta tables need the package deltalake; fix: pip install 'optinfer[delta]'") from error


def _table_at(url: str) -> DeltaTable | None:
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        return DeltaTable(url, storage_options=storage_options(url))
    except TableNotFoundError:
        return None


def _sizes(parts: pa.Table) -> dict[str, tuple[int, int]]:
    """Return (bytes, rows) of each part by its name."""
    columns = (parts.column(name).to_pylist() for name in ("part", "bytes", "rows"))
    return {name: (size, rows) for name, size, rows in zip(*columns, strict=True)}


def _held(table: DeltaTable) -> dict[str, tuple[int, int]]:
    """Return (bytes, rows) of each file of a table's version."""
    actions: Any = pa.table(table.get_add_actions(flatten=True))
    columns = (actions.column(name).to_pylist() for name in ("path", "size_bytes", "num_records"))
    return {name: (size, rows) for name, size, rows in zip(*columns, strict=True)}


def _added(name: str, size: int, rows: int) -> AddAction:
    from deltalake.transaction import AddAction

    return AddAction(name, size, {}, time.time_ns() // 10**6, True, json.dumps({"numRecords": rows}))


def _arrow_schema(folder: Folder, part: str) -> pa.Schema:
    import pyarrow.parquet as pq

    return folder.look(part, pq.read_schema).remove_metadata()


def _table_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(_table_type(field.name, field.type)) for field in schema], schema.metadata)


def _table_type(name: str, kind: pa.DataType) -> pa.DataType:
    """Return the type that a table has for values of this one.

    Raises:
        ConfigError: it has none that holds them as they are.
    """
    if kind in _AS_THEY_ARE or (pa.types.is_decimal128(kind) and kind.precision <= _LARGEST_DECIMAL):
        return kind
    if kind in _SAME_VALUES:
        return _SAME_VALUES[kind]
    if pa.types.is_dictionary(kind):
        return _table_type(name, kind.value_type)
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_table_type(name, kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_table_type(f"{name}.{field.name}", field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_table_type(name, kind.key_type), _table_type(name, kind.item_type))
    raise ConfigError(
        f"a Delta table has no type for the column {name!r} of {kind} that keeps its values; leave it out of "
        "sink.columns, write it in the source as another type, or set sink.format: parquet"
    )


sink = SinkKind(about="a Delta table, of one version", open=DeltaSink, check=check)
