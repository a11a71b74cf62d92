"""How far answers to the same rows moved between two scorings: by column, by row, and whether a bit did. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Moved:
    """Two tables of answers to the same rows, held against each other.

    Attributes:
        columns: name -> (rows,) largest difference of any number of that row; infinite where other values differ, or
            one of the two has none.
        same_bits: (rows,) whether all columns are the same to the last bit.
    """

    columns: Mapping[str, Array]
    same_bits: Array

    @cached_property
    def farthest(self) -> Array:
        """(rows,) the largest difference of any column."""
        return np.max([*self.columns.values(), np.zeros(len(self.same_bits))], axis=0)


def moved(stored: pa.Table, again: pa.Table) -> Moved:
    """Hold answers against those that are stored; row by row, in the types in which they are stored.

    A column that only one of the two has differs in every row.
    """
    columns, same = {}, np.ones(stored.num_rows, dtype=bool)
    for name in dict.fromkeys([*stored.column_names, *again.column_names]):
        if name not in stored.column_names or name not in again.column_names:
            columns[name], bits = np.full(len(same), np.inf), np.zeros(len(same), dtype=bool)
        else:
            columns[name], bits = _apart(stored.column(name), again.column(name))
        same &= bits
    return Moved(columns, same)


def _apart(stored: pa.ChunkedArray, again: pa.ChunkedArray) -> tuple[Array, Array]:
    """Return (rows,) how far apart two columns are, and (rows,) whether they are the same bits."""
    try:
        ours, theirs = _numbers(stored), _numbers(again.cast(stored.type))
    except pa.ArrowInvalid:  # no such type any more
        ours = theirs = None
    if ours is None or theirs is None or ours.shape != theirs.shape:
        equal = np.array([a == b for a, b in zip(stored.to_pylist(), again.to_pylist(), strict=True)], dtype=bool)
        return np.where(equal, 0.0, np.inf), equal
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    apart = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
    kind = f"u{ours.dtype.itemsize}"
    return np.nan_to_num(apart, nan=np.inf).max(axis=1, initial=0.0), (ours.view(kind) == theirs.view(kind)).all(axis=1)


def _numbers(column: pa.ChunkedArray) -> Array | None:
    """Return (rows, width) floats of a column, or None where it holds anything else, nulls, or uneven rows."""
    rows, values = len(column), column.combine_chunks()
    while _is_list(values.type):
        if values.null_count or pc.count_distinct(pc.list_value_length(values)).as_py() > 1:
            return None
        values = values.flatten()
    if not pa.types.is_floating(values.type) or values.null_count:
        return None
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).reshape(rows, -1) if rows else None


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
