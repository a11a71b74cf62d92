"""The tables that contestants read and write: cut from a source beforehand, read back and deleted afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
from scoreboard import Vectors

from optinfer.errors import ConfigError

ROW_GROUP_ROWS = 1024


def read_texts(source: str, column: str, rows: int) -> pa.ChunkedArray:
    """Return the first `rows` texts of a Parquet file or folder; rows without one are left out.

    Raises:
        ConfigError: the table or its column cannot be read, or holds no text.
    """
    try:
        dataset = pyarrow.dataset.dataset(source, format="parquet")
        texts = dataset.scanner(columns=[column], filter=pc.field(column).is_valid()).head(rows).column(0)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise ConfigError(f"cannot read column {column!r} of {source}: {error}") from error
    if not len(texts):
        raise ConfigError(f"{source} has no row with a text in column {column!r}")
    return texts.cast(pa.string())


def write_table(texts: pa.ChunkedArray, path: Path) -> None:
    """Write texts with their row numbers, as `id` and `text`."""
    cut = pa.table({"id": pa.array(range(len(texts)), pa.int64()), "text": texts})
    pq.write_table(cut, path, row_group_size=ROW_GROUP_ROWS)


def cut_table(source: str, column: str, rows: int, path: Path) -> int:
    """Write the first `rows` rows that have a text; return how many there were.

    Raises:
        ConfigError: the table or its column cannot be read.
    """
    texts = read_texts(source, column, rows)
    write_table(texts, path)
    return len(texts)


def repeated(texts: pa.ChunkedArray, rows: int) -> pa.ChunkedArray:
    """Return `rows` texts, no two alike because of this: each repeat of the table ends in its number."""
    pieces = [texts]
    for number in range(1, -(-rows // len(texts))):
        pieces.append(pc.binary_join_element_wise(texts, pa.scalar(str(number)), " "))
    return pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], pa.string()).slice(0, rows)


def commits(output: Path) -> list[tuple[float, int]]:
    """Return when each part of a job's output was committed, in seconds, and its rows; from the files themselves."""
    return [(part.stat().st_mtime_ns / 1e9, pq.read_metadata(part).num_rows) for part in output.glob("part-*.parquet")]


def take_vectors(output: Path) -> Vectors:
    """Read a job's output and delete it."""
    read = pyarrow.dataset.dataset(output, format="parquet").to_table(columns=["id", "embedding"]).combine_chunks()
    shutil.rmtree(output)
    column = read.column("embedding").chunk(0)
    # Ray Data writes arrays as a tensor extension type over lists.
    lists = column.storage if isinstance(column, pa.ExtensionArray) else column
    return Vectors(read.column("id").to_numpy(), lists.flatten().to_numpy().reshape(len(column), -1))
