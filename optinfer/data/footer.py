"""A Parquet file's footer: its schema and row groups, and all that can be refused by looking at it alone.

pyarrow ends the process, not the call, where it is asked for a column's metadata that is encrypted or damaged. So
encrypted files are recognized before that, and the metadata of columns is first looked at on the way that reads take,
where such an error is one that can be caught.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.fragments import Partition
from optinfer.data.partitions import require_agreement
from optinfer.data.pinned import PinnedFile
from optinfer.errors import ConfigError, redact

# A footer in plain text whose columns are encrypted ends with a nonce and a tag of AES-GCM.
_SIGNATURE_BYTES = 12 + 16


@dataclass(frozen=True, eq=False)
class Footer:
    """What a plan needs of one file.

    Attributes:
        groups: (row groups, 2) rows and uncompressed bytes of the needed columns.
    """

    size: int
    version: str
    rows: int
    groups: np.ndarray[Any, Any]
    schema: pa.Schema


def open_parquet(file: PinnedFile, metadata: pq.FileMetaData | None = None, unit: str = "us") -> pq.ParquetFile:
    """Open a file to read.

    Args:
        metadata: its footer, where it is known.
        unit: of timestamps in Parquet's old 96 bits: of these, nanoseconds hold no year beyond 2262.
    """
    return pq.ParquetFile(
        file,
        pre_buffer=True,
        metadata=metadata,
        coerce_int96_timestamp_unit=unit,
        page_checksum_verification=True,
    )


def read_footer(file: PinnedFile, path: str, partition: Partition, columns: set[str]) -> Footer:
    """Read a file's footer.

    Raises:
        ConfigError: the file is encrypted, or cannot be carried or read as a part of this table.
    """
    tail = file.keep_tail()
    if tail[-4:] == b"PARE":
        raise ConfigError(_encrypted(path))
    parquet = open_parquet(file)
    meta = parquet.metadata
    (length,) = struct.unpack("<I", tail[-8:-4])
    if length - meta.serialized_size == _SIGNATURE_BYTES:
        raise ConfigError(_encrypted(path))
    schema, leaves = parquet.schema_arrow, leaves_of(meta, columns)  # each costs a millisecond where columns are many
    _require_sound(meta, [name for name in schema.names if name in columns])
    require_agreement(path, meta, partition, columns)
    _require_readable(path, meta, schema, leaves)
    groups = _groups(meta, leaves)
    if int(groups[:, 0].sum()) != meta.num_rows:
        raise pa.ArrowInvalid(f"its footer says {meta.num_rows} rows and {groups[:, 0].sum()} in its row groups")
    return Footer(file.size, file.version, meta.num_rows, groups, schema)


def _encrypted(path: str) -> str:
    return f"{redact(path)} is an encrypted Parquet file, and there are no keys here; write a decrypted copy to score"


class _NoBytes:
    """A file that gives no byte, and remembers that it was asked for one."""

    closed = False

    def __init__(self) -> None:
        self.asked = False

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset

    def tell(self) -> int:
        return 2**62  # its size, as Arrow finds it out

    def read(self, count: int) -> bytes:
        self.asked = True
        return b""

    def close(self) -> None:
        pass


def _require_sound(meta: pq.FileMetaData, columns: list[str]) -> None:
    """Let Arrow look at the metadata of columns in every row group as it does before it reads them.

    Raises:
        ArrowException, OSError: it refuses one.
    """
    if not columns or not meta.num_row_groups:
        return
    file = _NoBytes()
    try:
        parquet = pq.ParquetFile(file, metadata=meta, pre_buffer=True)  # looks at all before it reads any
        parquet.read_row_groups(range(meta.num_row_groups), columns=columns, use_threads=False)
    except (pa.ArrowException, OSError):
        if not file.asked:
            raise


def leaves_of(meta: pq.FileMetaData, columns: Collection[str]) -> dict[int, str]:
    """Return the physical columns that top-level ones are made of, with the name of each one's."""
    # A name may have dots itself, so the first part of a path is not always one.
    schema, below = meta.schema, tuple(f"{name}." for name in columns)
    found = {}
    for leaf in range(meta.num_columns):
        path = schema.column(leaf).path
        if path in columns or path.startswith(below):
            found[leaf] = next(name for name in columns if path == name or path.startswith(f"{name}."))
    return found


def int96_columns(meta: pq.FileMetaData, leaves: dict[int, str]) -> list[str]:
    """Return the columns, of some physical ones, that hold timestamps in Parquet's old 96 bits."""
    found = (name for leaf, name in leaves.items() if meta.schema.column(leaf).physical_type == "INT96")
    return list(dict.fromkeys(found))


def _groups(meta: pq.FileMetaData, wanted: dict[int, str]) -> np.ndarray[Any, Any]:
    """Return (row groups, 2) rows and uncompressed bytes of some columns; raises where counts do not agree."""
    flat = {leaf for leaf in wanted if meta.schema.column(leaf).max_repetition_level == 0}
    groups = np.empty((meta.num_row_groups, 2), dtype=np.int64)
    for number, found in enumerate(groups):
        group = meta.row_group(number)
        chunks = {leaf: group.column(leaf) for leaf in wanted}
        for leaf in flat:
            if (values := chunks[leaf].num_values) != group.num_rows:  # the rows beyond would be lost without a word
                raise pa.ArrowInvalid(
                    f"{wanted[leaf]!r} has {values} values in row group {number}, of {group.num_rows} rows"
                )
        found[:] = group.num_rows, sum(chunk.total_uncompressed_size for chunk in chunks.values())
    return groups


def _require_readable(path: str, meta: pq.FileMetaData, schema: pa.Schema, leaves: dict[int, str]) -> None:
    """Refuse columns that Arrow reads wrongly, or not at all, though the file is sound."""
    for name in int96_columns(meta, leaves):
        if name in schema.names and not pa.types.is_timestamp(schema.field(schema.names.index(name)).type):
            raise ConfigError(
                f"column {name!r} of {redact(path)} has timestamps of Parquet's old 96 bits inside lists or structs; "
                "write it with timestamps in microseconds"
            )
    for leaf, name in leaves.items():
        kind = schema.field(schema.names.index(name)).type if name in schema.names else pa.null()
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        if pa.types.is_fixed_size_list(kind) and _has_null_lists(meta, leaf, kind.list_size):
            raise ConfigError(
                f"column {name!r} of {redact(path)} is a fixed-size list with nulls, which pyarrow does not read; "
                "write it as a list without a fixed size"
            )


def _has_null_lists(meta: pq.FileMetaData, leaf: int, size: int) -> bool:
    """Tell a null list by its one value where a list has `size`; of one, statistics must show that there is no null."""
    for number in range(meta.num_row_groups):
        group = meta.row_group(number)
        column = group.column(leaf)
        known = column.statistics
        if size == 1 and known is not None and known.has_null_count and known.null_count:
            return True
        if column.num_values != group.num_rows * size:
            return True
    return False
