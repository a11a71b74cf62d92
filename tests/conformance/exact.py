"""Values bit for bit, as plain Python: what `==` calls equal (0.0 and -0.0) or different (NaN and NaN) is told rightly."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_BITS = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}


def exact(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """Return a column's values; texts as bytes, times as counts, floats as their bits, structs as tuples."""
    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in exact(chunk)]
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return exact(column.storage)
    if pa.types.is_dictionary(kind):
        return exact(column.dictionary_decode())
    if pa.types.is_floating(kind) or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind)):
        return _plain(column.view(_BITS[kind.bit_width]))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _plain(column.cast(pa.large_string()).cast(pa.large_binary()))
    if pa.types.is_struct(kind):
        parts = [exact(part) for part in column.flatten()]
        return [
            None if null else values
            for null, values in zip(_plain(column.is_null()), zip(*parts, strict=True), strict=True)
        ]
    if pa.types.is_map(kind):
        pairs = pa.struct([kind.key_field, kind.item_field])
        return exact(column.cast(pa.list_(pairs)))
    if pa.types.is_nested(kind):
        values = iter(exact(column.flatten()))
        lengths = _plain(pc.list_value_length(column))
        return [None if length is None else [next(values) for _ in range(length)] for length in lengths]
    return _plain(column)


def _plain(column: pa.Array) -> list[Any]:
    found: list[Any] = column.to_pylist()
    return found
