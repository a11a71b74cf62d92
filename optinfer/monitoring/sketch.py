"""What a job's rows and answers looked like, kept in a few thousand rows of measurements. Pure.

Rows are chosen by a hash of their place in the source, so that whoever scores them, today or in a resumed run, chooses
the same: sketches of fragments are put end to end, and are exactly the sketch that one replica would have made of the
whole. Of a chosen row measurements are kept, not its content: lengths, shares, numbers, classes, and of a vector its
projection on a few random directions, which keeps distances (Johnson and Lindenstrauss 1984) and nothing to read.

A column's Arrow type says how it is compared: booleans are shares, floats numbers, strings categories, lists of a fixed
size vectors. Its name says what it is about: `input.ROLE...`, `tokens...`, `answer.COLUMN...`, `column.NAME...`.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Rows = np.ndarray[Any, Any]
FRAGMENT, ROW = "_fragment", "_row"
INPUT, ANSWER, COLUMN = "input", "answer", "column"
NULL = "null"
# Of a vector: enough for distances within a third, and 64 bytes a row.
DIRECTIONS = 16
# Of fewer rows no threshold is worth much.
FEWEST_ROWS = 200
_LONGEST_CATEGORY = 60


def chosen(path: str, start: int, rows: int, share: float) -> Rows:
    """Return which of the rows [start, start + rows) of a file are kept, counted from `start`.

    Args:
        share: of all rows; from 1 on all are.
    """
    if share >= 1:
        return np.arange(rows)
    seed = np.uint64(int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little"))
    mixed = np.arange(start, start + rows, dtype=np.uint64) + seed
    # The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return np.flatnonzero(mixed < np.uint64(int(share * 2**64)))


def measured(name: str, column: pa.ChunkedArray, texts: bool = False) -> dict[str, pa.Array]:
    """Return what is kept of a column, by name; nothing where its type has no order, class or length.

    Args:
        texts: strings are texts, of which lengths are kept; else they are categories.
    """
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pa.types.is_struct(kind):
        inner = zip((field.name for field in kind), values.flatten(), strict=True)
        return {key: one for part, column in inner for key, one in measured(f"{name}.{part}", column, texts).items()}
    if pa.types.is_boolean(kind):
        return {name: values}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return {name: values.cast(pa.float64())}
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        values = values.cast(pa.large_string())
        return _text(name, values) if texts else {name: pc.utf8_slice_codeunits(values, 0, _LONGEST_CATEGORY)}
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        return {name: _projected(values)}
    return {}


def nulls(name: str, column: pa.ChunkedArray) -> dict[str, pa.Array]:
    """Return which values of a column are missing."""
    found = column.is_null()
    return {f"{name}.{NULL}": found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found}


def _text(name: str, texts: pa.Array) -> dict[str, pa.Array]:
    characters = pc.utf8_length(texts).cast(pa.float64())
    size = pc.binary_length(texts).cast(pa.float64())
    # Of another alphabet each character takes more bytes of UTF-8.
    a_character = pc.divide(size, pc.if_else(pc.equal(characters, 0), None, characters))
    return {f"{name}.characters": characters, f"{name}.bytes_a_character": a_character}


def _projected(vectors: pa.FixedSizeListArray) -> pa.Array:
    width, valid = vectors.type.list_size, np.asarray(vectors.is_valid())
    given = np.zeros((len(vectors), width))
    given[valid] = vectors.drop_null().flatten().cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, width)
    # Legacy generator: its numbers are promised to stay, and those of a reference are compared for years.
    directions = np.random.RandomState(width).standard_normal((width, DIRECTIONS)) / np.sqrt(DIRECTIONS)
    found = (given @ directions).astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), DIRECTIONS, mask=pa.array(~valid))


def packed(rows: Rows, columns: Mapping[str, pa.Array]) -> str:
    """Return a fragment's sketch as text that travels in a part's footer: chosen rows, with what was measured there."""
    table = pa.table({ROW: pa.array(rows.astype(np.int32)), **columns})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode()


def merged(parts: Iterable[tuple[int, str]]) -> pa.Table:
    """Put fragments' sketches end to end, in the order of rows.

    Args:
        parts: fragments' numbers with their packed sketches.

    Raises:
        ValueError: one is none.
    """
    tables = []
    for fragment, text in sorted(parts):
        try:
            table = pa.ipc.open_stream(base64.b64decode(text, validate=True)).read_all()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"the sketch of fragment {fragment} cannot be read: {error}") from error
        tables.append(table.append_column(FRAGMENT, pa.array(np.full(table.num_rows, fragment))))
    return pa.concat_tables(tables, promote_options="default").combine_chunks() if tables else pa.table({})
