"""Hive partitions: `key=value` folders below the source's root are columns, each file's value a constant of its rows.

Values are texts in a path. Integers are made of them only where each is written as integers are, so that none of
`007`, `+1`, `-0` or `1e5` becomes another value: one such value keeps the whole column as texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from optinfer.data.fragments import Partition
from optinfer.data.storage import is_local
from optinfer.errors import ConfigError, redact

_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_INT64 = range(-(2**63), 2**63)


def partitions(root: str, paths: Sequence[str]) -> dict[str, Partition]:
    """Return the partition values of each path, typed alike.

    Raises:
        ConfigError: a path names a key twice, or a value is no UTF-8 text.
    """
    texts = {path: _texts(root, path) for path in paths}
    values: dict[str, set[str | None]] = {}
    for found in texts.values():
        for key, value in found.items():
            values.setdefault(key, set()).add(value)
    whole = {key for key, found in values.items() if _are_integers(found)}
    return {path: tuple(_typed(key, value, key in whole) for key, value in t.items()) for path, t in texts.items()}


def _texts(root: str, path: str) -> dict[str, str | None]:
    inner = (path if is_local(path) else path.partition("://")[2]).removeprefix(root)
    found: dict[str, str | None] = {}
    for folder in inner.split("/")[:-1]:
        raw_key, equals, raw_value = folder.partition("=")
        if not equals or not raw_key:
            continue
        try:
            key, value = unquote(raw_key, errors="strict"), unquote(raw_value, errors="strict")
        except UnicodeDecodeError as error:
            raise ConfigError(f"the folder {folder!r} of {redact(path)} is no UTF-8 text; rename it") from error
        if key in found:
            raise ConfigError(f"{redact(path)} names the partition {key!r} twice; point source.path below the first")
        found[key] = None if raw_value == _NULL else value
    return found


def _are_integers(values: set[str | None]) -> bool:
    texts = [value for value in values if value is not None]
    return bool(texts) and all(_INTEGER.fullmatch(text) and int(text) in _INT64 for text in texts)


def _typed(key: str, value: str | None, whole: bool) -> tuple[str, Any, str]:
    if whole:
        return key, None if value is None else int(value), str(pa.int64())
    return key, value, str(pa.string())


def type_named(kind: str) -> pa.DataType:
    """Return the type that a partition value's third part names: `str` of it."""
    zoned = re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]", kind)
    return pa.timestamp(*zoned.groups()) if zoned else pa.type_for_alias(kind)


def constant(value: Any, kind: str) -> pa.Scalar:
    """Return a partition value, which travels as a plain one, or as its text."""
    wanted = type_named(kind)
    if isinstance(value, str) and wanted != pa.string():
        return pa.scalar(value).cast(wanted)
    return pa.scalar(value, wanted)


def with_partitions(schema: pa.Schema, partition: Partition) -> pa.Schema:
    """Return a file's columns and, after them, those of its folders."""
    for name, _, kind in partition:
        if name not in schema.names:
            schema = schema.append(pa.field(name, type_named(kind)))
    return schema


def require_agreement(path: str, meta: pq.FileMetaData, partition: Partition, columns: set[str]) -> None:
    """Refuse a needed column that the file holds, too, unless its statistics show that every row says the same.

    Raises:
        ConfigError: the folder and the file differ, or may.
    """
    leaves = {meta.schema.column(i).path: i for i in range(meta.num_columns)}
    for name, value, _ in partition:
        if name not in columns or not any(leaf == name or leaf.startswith(f"{name}.") for leaf in leaves):
            continue
        if name not in leaves or not all(_says(meta.row_group(g), leaves[name], value) for g in _filled(meta)):
            raise ConfigError(
                f"column {name!r} is in {redact(path)} and also in its folder's name ({name}={value}), and its "
                "statistics do not show that both agree; rename one, or point source.path below that folder"
            )


def _filled(meta: pq.FileMetaData) -> list[int]:
    return [group for group in range(meta.num_row_groups) if meta.row_group(group).num_rows]


def _says(group: pq.RowGroupMetaData, column: int, value: Any) -> bool:
    """Tell whether statistics show that every row of a group has this value."""
    found = group.column(column).statistics
    if found is None or not found.has_null_count:
        return False
    if value is None:
        return bool(found.null_count == group.num_rows)
    if found.null_count or not found.has_min_max or found.min != found.max:
        return False
    return bool(found.min == value) or str(found.min) == str(value)
