"""Identical rows are scored once, exactly: found before anything is made of them, spread to all of them after.

Only columns whose values are equal or not, cheaply and beyond doubt, are compared: texts, bytes, whole numbers,
booleans, dates. A table with another one (floats, lists, structs) is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

Rows = np.ndarray[Any, Any]

_COMPARABLE = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_timestamp,
    pa.types.is_duration,
    pa.types.is_decimal128,  # of the smaller ones Arrow makes no dictionary
    pa.types.is_decimal256,
)


@dataclass(frozen=True)
class Repeats:
    """Which rows of a table are the same.

    Attributes:
        first: (distinct,) the first row of each kind, ascending.
        kind: (rows,) which of these each row equals.
    """

    first: np.ndarray[Any, Any]
    kind: np.ndarray[Any, Any]

    @property
    def rows_saved(self) -> int:
        return len(self.kind) - len(self.first)

    @property
    def repeated(self) -> np.ndarray[Any, Any]:
        """Return (rows,) whether a row equals an earlier one."""
        return self.first[self.kind] != np.arange(len(self.kind))

    def without(self, table: pa.Table) -> pa.Table:
        """Return the first row of each kind."""
        chosen = np.zeros(table.num_rows, dtype=bool)
        chosen[self.first] = True
        return table.filter(pa.array(chosen))

    def spread(self, kept: Rows, rejected: dict[int, str]) -> tuple[Rows, Rows, dict[int, str]]:
        """Return, for the whole table, whose answer each answered row takes, these rows, and the rejected ones.

        Args:
            kept: rows of `without(table)` that were answered, in the order of their answers.
            rejected: its other rows.
        """
        place = np.full(len(self.first), -1)
        place[kept] = np.arange(len(kept))
        places = place[self.kind]
        answered = places >= 0
        reasons = {int(row): rejected[int(self.kind[row])] for row in np.flatnonzero(~answered)}
        return places[answered], np.flatnonzero(answered), reasons


def repeats(table: pa.Table) -> Repeats | None:
    """Find rows that are equal in every column; None where there are none, or where values cannot be compared."""
    if table.num_rows < 2 or not comparable(table):
        return None
    kind = np.zeros(table.num_rows, dtype=np.int64)
    for column in table.columns:
        codes = _codes(column)
        _, kind = np.unique(kind * (int(codes.max()) + 1) + codes, return_inverse=True)
    _, first, kind = np.unique(kind, return_index=True, return_inverse=True)
    if len(first) == table.num_rows:
        return None
    order = np.argsort(first)
    return Repeats(first[order], np.argsort(order)[kind])


def comparable(table: pa.Table) -> bool:
    """Tell whether rows of a table can be held against each other."""
    return all(_comparable(kind) for kind in table.schema.types)


def _comparable(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(holds(value) for holds in _COMPARABLE)


def _codes(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Number the values of a column, null like any other, across its chunks."""
    if pa.types.is_dictionary(column.type):  # each chunk may have its own dictionary, with a value in it twice
        column = column.cast(column.type.value_type)
    encoded = column.dictionary_encode(null_encoding="encode")
    return np.concatenate([np.asarray(chunk.indices) for chunk in encoded.chunks])
