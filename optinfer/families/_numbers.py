"""Numeric columns to arrays, rows kept apart: plain numbers, lists of fixed or varying length, columns side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optinfer.errors import ConfigError
from optinfer.families import Arrays, Features
from optinfer.families._graph import Port


@dataclass(frozen=True)
class Ragged:
    """Numbers of all rows end to end; row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        return np.diff(self.offsets)


@dataclass(kw_only=True)
class NumericFeatures(Features):
    """Inputs by name; rows that share a micro-batch have the same number of numbers, so nothing is padded."""

    columns: Mapping[str, Ragged]
    dims: Mapping[str, tuple[int | None, ...] | None]

    def collate(self, rows: np.ndarray[Any, Any], pad_to: int = 0) -> Arrays:
        return {name: self._stack(name, ragged, rows) for name, ragged in self.columns.items()}

    def _stack(self, name: str, ragged: Ragged, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        length = int(ragged.offsets[rows[0] + 1] - ragged.offsets[rows[0]])
        stacked = ragged.values[ragged.offsets[rows][:, None] + np.arange(length)]
        dims = self.dims[name]
        if dims is None:
            return stacked
        return stacked.reshape(len(rows), *(-1 if d is None else d for d in dims))


def kind_of(column: pa.DataType) -> pa.DataType | None:
    """Return the type of the numbers in a column: its own, its list's, or the widest of several columns'; or None."""
    if pa.types.is_struct(column):
        kinds = [column.field(i).type for i in range(column.num_fields)]
        if not kinds or not all(is_number(kind) for kind in kinds):
            return None
        return pa.float64() if any(pa.types.is_floating(k) for k in kinds) else kinds[0]
    if _is_list(column):
        return kind_of(column.value_type)
    return column if is_number(column) else None


def is_number(column: pa.DataType) -> bool:
    """Tell whether a column holds one number a row."""
    return bool(pa.types.is_integer(column) or pa.types.is_floating(column) or pa.types.is_boolean(column))


def numbers_a_row(column: pa.DataType) -> int | None:
    """Return how many numbers each row of a column has; None where it varies."""
    if pa.types.is_struct(column):
        return int(column.num_fields)
    if pa.types.is_fixed_size_list(column):
        inner = numbers_a_row(column.value_type)
        return None if inner is None else int(column.list_size) * inner
    return None if _is_list(column) else 1


def _is_list(column: pa.DataType) -> bool:
    return bool(pa.types.is_list(column) or pa.types.is_large_list(column) or pa.types.is_fixed_size_list(column))


def read_numbers(column: Any, dtype: str) -> tuple[Ragged, dict[int, str]]:
    """Return a column's numbers as `dtype`, and the rows that cannot be used with the reason."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values, offsets, holes = _flat(array)
    rejected = {int(i): "a value is null" for i in np.flatnonzero(holes)}
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype)
    # Floats are rounded, but must not become infinite; a model may have a use for NaN, so that is let through.
    lost = np.isinf(cast) & ~np.isinf(values) if cast.dtype.kind == "f" else cast != values
    for row in _rows_of(np.flatnonzero(lost), offsets):
        rejected.setdefault(int(row), f"a value does not fit {dtype}")
    return Ragged(cast, offsets), rejected


def _flat(array: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return (numbers end to end, offsets of the rows, rows with a null anywhere)."""
    rows, null = len(array), np.asarray(array.is_null())
    if pa.types.is_struct(array.type):
        parts = [_flat(field) for field in array.flatten()]
        values = np.stack([part[0] for part in parts], axis=1).ravel()
        return values, np.arange(rows + 1) * len(parts), np.any([null, *(part[2] for part in parts)], axis=0)
    if is_number(array.type):
        return _plain(array), np.arange(rows + 1), null
    # Null lists are left out by flatten and have no length here, so what remains are the other rows' entries, in order.
    lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0), dtype=np.int64)
    entries = np.concatenate([[0], np.cumsum(lengths)])
    values, offsets, holes = _flat(array.flatten())
    with_holes = null.copy()
    with_holes[_rows_of(np.flatnonzero(holes), entries)] = True
    return values, offsets[entries], with_holes


def _rows_of(positions: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the rows that positions in the flat values belong to."""
    return np.searchsorted(offsets, positions, side="right") - 1


def _plain(array: Any) -> np.ndarray[Any, Any]:
    filled = pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0)
    return np.asarray(filled.to_numpy(zero_copy_only=False))


def wrong_lengths(port: Port, ragged: Ragged) -> dict[int, str]:
    """Return the rows whose number of numbers does not fit the model's input, with the reason."""
    if port.dims is None:
        return {}
    lengths, step = ragged.lengths, port.step
    if port.varying:
        bad = np.flatnonzero((lengths % step != 0) | (lengths == 0))
        takes = f"a multiple of {step} numbers" if step > 1 else "at least one number"
        return {int(i): f"{port.name} takes {takes}, the row has {lengths[i]}" for i in bad}
    bad = np.flatnonzero(lengths != step)
    return {int(i): f"{port.name} takes {step} numbers, the row has {lengths[i]}" for i in bad}


def require_numbers(name: str, column: str, kind: pa.DataType, dtype: str | None) -> None:
    """Refuse a column whose values the input cannot hold."""
    numbers = kind_of(kind)
    if numbers is None:
        raise ConfigError(
            f"column {column} holds {kind}, input {name!r} needs numbers or lists of numbers; choose another column"
        )
    if dtype and np.dtype(dtype).kind in "iub" and pa.types.is_floating(numbers):
        raise ConfigError(f"column {column} holds {kind}, input {name!r} takes {dtype}; cast it when writing the table")
