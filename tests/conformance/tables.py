"""The tables of the suite: columns with the values that go wrong elsewhere, and the ways in which they can be stored."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import struct
from typing import Any

import numpy as np
import pyarrow as pa

ROWS = 60


def repeated(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return ROWS rows of these values, a null after each round."""
    return pa.array(list(itertools.islice(itertools.cycle([*values, None]), ROWS)), kind)


def counts(values: list[int], kind: pa.DataType) -> pa.Array:
    """Return times that Python has no value for."""
    whole = pa.int32() if kind.bit_width == 32 else pa.int64()
    return repeated(values, whole).view(kind)


def floats(bits: list[int], kind: pa.DataType) -> pa.Array:
    return repeated(bits, {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width]).view(kind)


def as_text(values: list[bytes | None]) -> pa.Array:
    """Return texts of any bytes."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers(), binary.null_count)


def _signed(pattern: str, size: str) -> int:
    return int(struct.unpack(f"<{size.lower()}", struct.pack(f"<{size}", int(pattern, 16)))[0])


FLOAT64 = [
    _signed(bits, "Q")
    for bits in (
        "0",
        "8000000000000000",
        "7ff8000000000abc",
        "fff8000000000001",
        "7ff0000000000000",
        "1",
        "3ff8000000000000",
    )
]
FLOAT32 = [_signed(bits, "I") for bits in ("0", "80000000", "7fc00abc", "ffc00001", "7f800000", "1", "3fc00000")]
FLOAT16 = [_signed(bits, "H") for bits in ("0", "8000", "7e01", "fe02", "7c00", "1", "3e00")]
TEXTS = ["", "plain", "é\u0301 ß 日本 🙂", "a\0b", "x" * 300, " ", "null", "NaN"]
BYTES = [b"", b"\x00", b"\xff\xfe", b"x" * 300]
INT64 = [0, 1, -1, 2**63 - 1, -(2**63)]
INT32 = [0, 1, -1, 2**31 - 1, -(2**31)]
DATES = [
    0,
    1,
    -1,
    2932896,
    2932897,
    -719162,
    -719163,
    2**31 - 1,
    -(2**31),
]  # 9999-12-31 and the day after, year 1 and 0
D = decimal.Decimal
UUIDS = [bytes(range(16)), bytes(16), b"\xff" * 16]
STRUCT = pa.struct([("a", pa.int32()), ("b", pa.struct([("c", pa.string()), ("d", pa.float64())]))])
NOT_NULL = pa.struct([pa.field("a", pa.int32(), nullable=False)])

COLUMNS: dict[str, pa.Array] = {
    "bool": repeated([True, False], pa.bool_()),
    **{
        f"int{n}": repeated([0, 1, -1, 2 ** (n - 1) - 1, -(2 ** (n - 1))], getattr(pa, f"int{n}")())
        for n in (8, 16, 32, 64)
    },
    **{f"uint{n}": repeated([0, 1, 2**n - 1], getattr(pa, f"uint{n}")()) for n in (8, 16, 32, 64)},
    "float16": floats(FLOAT16, pa.float16()),
    "float32": floats(FLOAT32, pa.float32()),
    "float64": floats(FLOAT64, pa.float64()),
    "string": repeated(TEXTS, pa.string()),
    "large_string": repeated(TEXTS, pa.large_string()),
    "string_view": repeated(TEXTS, pa.string_view()),
    "string of other bytes": as_text([b"caf\xe9", b"\xed\xa0\x80", b"ok", None] * 15),
    "binary": repeated(BYTES, pa.binary()),
    "large_binary": repeated(BYTES, pa.large_binary()),
    "binary_view": repeated(BYTES, pa.binary_view()),
    "fixed binary": repeated([b"abc", b"\0\0\0"], pa.binary(3)),
    "date32": counts(DATES, pa.date32()),
    "date64": counts([0, 86400000, -86400000, 253402214400000], pa.date64()),
    "time32 s": repeated([dt.time(0), dt.time(23, 59, 59)], pa.time32("s")),
    "time32 ms": counts([0, 1, 86399999], pa.time32("ms")),
    "time64 us": counts([0, 1, 86399999999], pa.time64("us")),
    "time64 ns": counts([0, 1, 86399999999999], pa.time64("ns")),
    "timestamp s": counts([0, -1, 253402300799], pa.timestamp("s")),
    "timestamp ms": counts([0, -1, 253402300799999, 2**62], pa.timestamp("ms")),
    "timestamp us": counts([0, -1, 253402300799999999, -62135596800000001], pa.timestamp("us")),
    "timestamp ns": counts([0, -1, 1, 2**63 - 1, -(2**63) + 1], pa.timestamp("ns")),
    "timestamp us UTC": counts([0, 1, 253402300799999999], pa.timestamp("us", "UTC")),
    "timestamp ns Berlin": counts([0, 1, 2**62], pa.timestamp("ns", "Europe/Berlin")),
    "timestamp ms offset": counts([0, 1], pa.timestamp("ms", "+02:00")),
    **{f"duration {unit}": counts(INT64, pa.duration(unit)) for unit in ("s", "ms", "us", "ns")},
    "decimal32": repeated([D("99999.99"), D("-0.01"), D("0.00")], pa.decimal32(7, 2)),
    "decimal64": repeated([D("999999999999.999"), D("-0.001")], pa.decimal64(15, 3)),
    "decimal128": repeated([D("9" * 28 + "." + "9" * 10), D("-0.0000000001")], pa.decimal128(38, 10)),
    "decimal256": repeated([D("9" * 66 + "." + "9" * 4), D("-1")], pa.decimal256(70, 4)),
    "null": pa.nulls(ROWS),
    "dictionary": repeated(["a", "b", ""], pa.dictionary(pa.int8(), pa.string())),
    "dictionary ordered": pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None] * 20, pa.int8()), pa.array(["low", "high"]), ordered=True
    ),
    "dictionary of integers": repeated([5, 7], pa.dictionary(pa.int32(), pa.int64())),
    "dictionary of bytes": repeated([b"\xff", b""], pa.dictionary(pa.int32(), pa.binary())),
    "list": repeated([[], [1, None, -3], [2**40]], pa.list_(pa.int64())),
    "list of lists": repeated([[], [[]], [None, ["a"], ["b", None]]], pa.list_(pa.list_(pa.string()))),
    "large_list": repeated([[], ["x", None]], pa.large_list(pa.string())),
    "list of floats": pa.ListArray.from_arrays(
        np.arange(0, 4 * ROWS + 1, 4, dtype=np.int32),
        pa.chunked_array([floats(FLOAT32, pa.float32())] * 4).combine_chunks(),
    ),
    "list of not null": repeated([[], [1, 2]], pa.list_(pa.field("item", pa.int16(), nullable=False))),
    "list of structs": repeated([[], [{"a": 1, "b": None}, None]], pa.list_(STRUCT)),
    "fixed list": pa.array([[i, None] for i in range(ROWS)], pa.list_(pa.int32(), 2)),
    "list of views": repeated([[], ["x", None]], pa.list_(pa.string_view())),
    "struct": repeated([{"a": 1, "b": {"c": "x", "d": -0.0}}, {"a": None, "b": None}], STRUCT),
    "struct of not null": pa.StructArray.from_arrays(
        [pa.array(range(ROWS), pa.int32())], fields=list(NOT_NULL), mask=pa.array([i % 3 == 0 for i in range(ROWS)])
    ),
    "map": repeated([[], [("k", 1), ("l", None)]], pa.map_(pa.string(), pa.int64())),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), repeated(UUIDS, pa.binary(16))),
    "json": pa.ExtensionArray.from_storage(pa.json_(), repeated(["{}", '{"a": 1}', "null"], pa.string())),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), repeated([0, 1, 2], pa.int8())),
    "tensor": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2, 2]), pa.array([[i] * 4 for i in range(ROWS)], pa.list_(pa.int32(), 4))
    ),
    "opaque": pa.ExtensionArray.from_storage(
        pa.opaque(pa.int64(), "geometry", "somebody"), repeated(INT64, pa.int64())
    ),
}
"""Name of a column -> its values."""

CODECS = ("none", "snappy", "gzip", "brotli", "zstd", "lz4")
LAYOUTS: dict[str, dict[str, Any]] = {
    "one group cut": {"row_group_size": ROWS},
    "many groups": {"row_group_size": 7},
    "pages v2": {"row_group_size": 33, "data_page_version": "2.0", "data_page_size": 64},
    "tiny pages": {"row_group_size": 40, "data_page_size": 16, "write_page_index": True},
    "checksums": {"row_group_size": 25, "write_page_checksum": True, "write_statistics": False},
    "without Arrow's schema": {"row_group_size": 50, "store_schema": False},
}


def encodings(kind: pa.DataType) -> list[str]:
    """Return the encodings that Parquet has for a type's values besides plain and dictionary."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        return ["DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"]
    if pa.types.is_floating(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_decimal(kind):
        return ["BYTE_STREAM_SPLIT"]
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        return ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"]
    return []


def cells() -> list[tuple[str, str, str, str]]:
    """Return (column, encoding, codec, layout) of every cell: each column in each of its encodings, the rest in turn."""
    turns = zip(itertools.cycle(CODECS), itertools.cycle([*LAYOUTS, *list(LAYOUTS)[:1]]), strict=False)
    pairs = [(name, e) for name, column in COLUMNS.items() for e in ("PLAIN", "dictionary", *encodings(column.type))]
    return [(name, encoding, *next(turns)) for name, encoding in pairs]
