"""Columns to arrays, rows kept apart: plain numbers, lists of fixed or varying length, columns side by side, texts.

Each column goes into the input's type on its own: beside a column of floats, numpy would make floats of whole numbers
too, which hold them up to 2**53 only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optinfer.errors import ConfigError
from optinfer.families import Arrays, Features
from optinfer.families._graph import TEXT, Port


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
        fields = [column.field(i).type for i in range(column.num_fields)]
        if not fields or not all(is_number(field) for field in fields):
            return None
        kinds = [kind_of(field) for field in fields]
        return pa.float64() if any(pa.types.is_floating(k) for k in kinds) else kinds[0]
    if _is_list(column):
        return kind_of(column.value_type)
    if not is_number(column):
        return None
    return column.value_type if pa.types.is_dictionary(column) else column


def is_number(column: pa.DataType) -> bool:
    """Tell whether a column holds one number a row."""
    if pa.types.is_dictionary(column):
        column = column.value_type
    return bool(pa.types.is_integer(column) or pa.types.is_floating(column) or pa.types.is_boolean(column))


def is_text(column: pa.DataType) -> bool:
    """Tell whether a column holds one text a row."""
    if pa.types.is_dictionary(column):
        column = column.value_type
    return bool(pa.types.is_string(column) or pa.types.is_large_string(column) or pa.types.is_string_view(column))


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
    """Return a column's numbers (or texts) as `dtype`, and the rows that cannot be used with the reason.

    Whole numbers are exact or rejected where the input takes such; where it takes floats, all are rounded to its type.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = _flat(array, dtype)
    rejected = {int(i): "a value is null" for i in np.flatnonzero(flat.holes)}
    for row in _rows_of(np.flatnonzero(flat.lost), flat.offsets):
        rejected.setdefault(int(row), f"a value does not fit {dtype}")
    return Ragged(flat.values, flat.offsets), rejected


@dataclass(frozen=True)
class _Flat:
    """All rows' values end to end: where each row begins, which rows have a null, which values did not fit."""

    values: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    holes: np.ndarray[Any, Any]
    lost: np.ndarray[Any, Any]


def _flat(array: Any, dtype: str) -> _Flat:
    rows, null = len(array), np.asarray(array.is_null())
    if pa.types.is_dictionary(array.type):
        return _flat(array.dictionary_decode(), dtype)
    if pa.types.is_struct(array.type):
        parts = [_flat(field, dtype) for field in array.flatten()]
        values, lost = (np.stack(side, axis=1).ravel() for side in ([p.values for p in parts], [p.lost for p in parts]))
        return _Flat(values, np.arange(rows + 1) * len(parts), np.any([null, *(p.holes for p in parts)], axis=0), lost)
    if is_number(array.type) or is_text(array.type):
        return _plain(array, null, dtype)
    # Null lists are left out by flatten and have no length here, so what remains are the other rows' entries, in order.
    lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0), dtype=np.int64)
    entries = np.concatenate([[0], np.cumsum(lengths)])
    inner = _flat(array.flatten(), dtype)
    with_holes = null.copy()
    with_holes[_rows_of(np.flatnonzero(inner.holes), entries)] = True
    return _Flat(inner.values, inner.offsets[entries], with_holes, inner.lost)


def _rows_of(positions: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the rows that positions in the flat values belong to."""
    return np.searchsorted(offsets, positions, side="right") - 1


def _plain(array: Any, null: np.ndarray[Any, Any], dtype: str) -> _Flat:
    """Read one number or text a row."""
    offsets = np.arange(len(array) + 1)
    if dtype == TEXT:
        texts = np.array(pc.fill_null(array, "").to_pylist(), dtype=object)
        return _Flat(texts, offsets, null, np.zeros(len(array), dtype=bool))
    filled = pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0)
    given = np.asarray(filled.to_numpy(zero_copy_only=False))
    with np.errstate(over="ignore", invalid="ignore"):
        cast = given.astype(dtype)
    # Floats are rounded, but must not become infinite; a model may have a use for NaN, so that is let through.
    lost = np.isinf(cast) & ~np.isinf(given) if cast.dtype.kind == "f" else cast != given
    return _Flat(cast, offsets, null, lost)


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


def require_kind(name: str, column: str, kind: pa.DataType, dtype: str | None) -> None:
    """Refuse a column whose values the input cannot hold."""
    if dtype == TEXT:
        if not is_text(kind):
            raise ConfigError(f"column {column} holds {kind}, input {name!r} takes texts; choose a column of strings")
        return
    numbers = kind_of(kind)
    if numbers is None:
        raise ConfigError(
            f"column {column} holds {kind}, input {name!r} needs numbers or lists of numbers; choose another "
            "column, or cast it when writing the table"
        )
    if dtype and np.dtype(dtype).kind in "iub" and pa.types.is_floating(numbers):
        raise ConfigError(f"column {column} holds {kind}, input {name!r} takes {dtype}; cast it when writing the table")
