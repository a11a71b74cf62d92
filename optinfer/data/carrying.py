"""Carried unchanged, or refused: what writing a column does to it is tried before anything is scored.

A list of types that survive would be out of date with the next pyarrow. So a column without rows and one of nulls go
the way that every part goes, and have to come back as they were.
"""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.state import parquet_bytes
from optinfer.errors import ConfigError

# Parquet's own types, and what most columns are: trying them would import pandas, which takes longer than a plan.
_PARQUETS = (pa.string(), pa.binary(), pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64())


def require_carried(columns: pa.Schema) -> None:
    """Refuse source columns that a part would not hold as they are.

    Raises:
        ConfigError: names the column, its type and what would become of it.
    """
    for field in columns:
        found = str(field.type) if field.type in _PARQUETS else _written(field)
        if found != str(field.type):
            raise ConfigError(
                f"sink.columns: {field.name!r} is {field.type}, and would not be carried unchanged ({found}); "
                "leave it out, or write it in the source as another type"
            )


def _written(field: pa.Field) -> str:
    """Return the type that a reader of the output finds, or why there is none."""
    try:
        tables = [pa.schema([field]).empty_table()]  # a list of UUIDs is one of the types that Arrow makes none of
        if _may_be_null(field.type):
            tables.append(pa.table([pa.nulls(2, field.type)], schema=pa.schema([field.with_nullable(True)])))
        for table in (rows.take(pa.array(range(rows.num_rows)[:1], pa.int64())) for rows in tables):
            found = pq.ParquetFile(io.BytesIO(parquet_bytes(table))).read()
            if found.schema.types != [field.type] or found.column(0).null_count != table.num_rows:
                return f"it would be read back as {found.schema.types[0]}"
    except (pa.ArrowException, ValueError) as error:
        return " ".join(str(error).split())
    return str(field.type)


def _may_be_null(kind: pa.DataType) -> bool:
    """Tell whether Arrow can make nulls of a type; pyarrow reads no fixed-size list that is null (see footer.py)."""
    if isinstance(kind, pa.BaseExtensionType):
        return _may_be_null(kind.storage_type)
    inner = [kind.field(i) for i in range(kind.num_fields)] if not pa.types.is_map(kind) else []
    return not pa.types.is_fixed_size_list(kind) and all(f.nullable and _may_be_null(f.type) for f in inner)
