"""One schema for all files of a table: what differs without loss becomes the wider of the two, the rest is refused.

A file whose columns are of other types than the plan's says so in its fragments (`Fragment.cast`), so that every reader
of a fragment gets the planned types and none has to know of the others. Views (`string_view`) are read as large texts:
Arrow has no kernels for them, and in Parquet both are the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import pyarrow as pa

from optinfer.errors import ConfigError, redact, suggest

_MOST_DIGITS = {32: 9, 64: 18, 128: 38, 256: 76}  # of a decimal, by its bits
_Kind = Callable[[pa.DataType], bool]
_TEXTS: tuple[_Kind, ...] = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES: tuple[_Kind, ...] = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
_LISTS: tuple[_Kind, ...] = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def table_schema(schemas: Sequence[tuple[str, pa.Schema]], columns: Sequence[str]) -> pa.Schema:
    """Return the first file's schema, its needed columns as wide as any file's.

    Args:
        schemas: (file, its columns with its partition columns).
        columns: those that the job needs.

    Raises:
        ConfigError: a needed column is not in every file, is in one twice, or has types that cannot be reconciled.
    """
    first, schema = schemas[0][0], schemas[0][1]
    for name in columns:
        if name not in schema.names:
            raise ConfigError(f"column {name!r} is not in {redact(first)}" + suggest(name, schema.names))
    fields = [_common(schemas, name) for name in columns]
    kept = [field for field in schema if field.name not in columns]
    order = {name: at for at, name in reversed(list(enumerate(schema.names)))}
    return pa.schema(sorted([*kept, *fields], key=lambda field: order[field.name]))


def _common(schemas: Sequence[tuple[str, pa.Schema]], name: str) -> pa.Field:
    (first, schema), *others = schemas
    field = _only(first, schema, name)
    common = pa.field(name, without_views(field.type), field.nullable, field.metadata)
    widest = first
    for file, other in others:
        if name not in other.names:
            raise ConfigError(
                f"column {name!r} is in {redact(first)} but not in {redact(file)}; "
                "point source.path at files of one schema"
            )
        found = _only(file, other, name)
        if found.equals(field, check_metadata=True):
            continue
        kind = wider(common.type, without_views(found.type))
        if kind is None:
            raise ConfigError(
                f"column {name!r} is {common.type} in {redact(widest)} but {found.type} in {redact(file)}, and neither "
                "holds every value of the other; point source.path at files of one schema"
            )
        widest = widest if kind == common.type else file
        metadata = common.metadata if found.metadata == common.metadata else None
        common = pa.field(name, kind, common.nullable or found.nullable, metadata)
    return common


def _only(file: str, schema: pa.Schema, name: str) -> pa.Field:
    if schema.names.count(name) > 1:
        raise ConfigError(
            f"column {name!r} is in {redact(file)} twice, and which one is meant cannot be told; "
            "write the table with a name for each column"
        )
    return schema.field(name)


def wider(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Return the type that holds every value of both, None where there is none or it would mean something else."""
    if a == b:
        return a
    if pa.types.is_null(a) or pa.types.is_null(b):
        return b if pa.types.is_null(a) else a
    if pa.types.is_dictionary(a) or pa.types.is_dictionary(b):
        return wider(*(kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (a, b)))
    for family, widest in ((_TEXTS, pa.large_string()), (_BYTES, pa.large_binary())):
        if all(any(holds(kind) for holds in family) for kind in (a, b)):
            return widest
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        return _wider_integer(a, b)
    if pa.types.is_floating(a) and pa.types.is_floating(b):
        return max(a, b, key=lambda kind: kind.bit_width)
    if pa.types.is_decimal(a) and pa.types.is_decimal(b):
        return _wider_decimal(a, b)
    return _wider_nested(a, b)


def _wider_integer(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_signed_integer(a) == pa.types.is_signed_integer(b):
        return max(a, b, key=lambda kind: kind.bit_width)
    signed, unsigned = (a, b) if pa.types.is_signed_integer(a) else (b, a)
    bits = max(signed.bit_width, 2 * unsigned.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)


def _wider_decimal(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    scale = max(a.scale, b.scale)
    digits = max(a.precision - a.scale, b.precision - b.scale) + scale
    widest = max(a.bit_width, b.bit_width)
    kinds = {32: pa.decimal32, 64: pa.decimal64, 128: pa.decimal128, 256: pa.decimal256}
    fitting = (kind for bits, kind in kinds.items() if bits >= widest and digits <= _MOST_DIGITS[bits])
    return next((kind(digits, scale) for kind in fitting), None)


def _wider_nested(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        if [field.name for field in a] != [field.name for field in b]:
            return None
        fields = [_wider_field(x, y) for x, y in zip(a, b, strict=True)]
        return pa.struct(fields) if all(fields) else None
    if pa.types.is_map(a) and pa.types.is_map(b):
        key, item = _wider_field(a.key_field, b.key_field), _wider_field(a.item_field, b.item_field)
        return pa.map_(key, item) if key and item and a.keys_sorted == b.keys_sorted else None
    if not all(any(holds(kind) for holds in _LISTS) for kind in (a, b)):
        return None
    value = _wider_field(a.value_field, b.value_field)
    if value is None:
        return None
    fixed = [pa.types.is_fixed_size_list(kind) for kind in (a, b)]
    if all(fixed) and a.list_size == b.list_size:
        return pa.list_(value, a.list_size)
    large = any(pa.types.is_large_list(kind) for kind in (a, b))
    return pa.large_list(value) if large else pa.list_(value)


def _wider_field(a: pa.Field, b: pa.Field) -> pa.Field | None:
    kind = wider(a.type, b.type)
    return kind and pa.field(a.name, kind, a.nullable or b.nullable, a.metadata if a.metadata == b.metadata else None)


def without_views(kind: pa.DataType) -> pa.DataType:
    """Return a type with its `string_view` and `binary_view` as large texts and bytes, at any depth."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if isinstance(kind, pa.BaseExtensionType):
        return kind
    if pa.types.is_struct(kind):
        return pa.struct([_viewless(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_viewless(kind.key_field), _viewless(kind.item_field), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_viewless(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(_viewless(kind.value_field))
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(_viewless(kind.value_field))
    return kind


def _viewless(field: pa.Field) -> pa.Field:
    return field.with_type(without_views(field.type))


def cast_of(file: pa.Schema, table: pa.Schema, columns: Sequence[str]) -> str:
    """Return what `conform` needs to give a file's columns the table's types: "" where they have them."""
    differing = [table.field(n) for n in columns if not file.field(n).equals(table.field(n), check_metadata=True)]
    if not differing:
        return ""
    return base64.b64encode(pa.schema(differing).serialize().to_pybytes()).decode()


def conform(table: pa.Table, cast: str) -> pa.Table:
    """Give columns the types that `cast` names, value for value: a value that the type does not hold is an error."""
    if not cast:
        return table
    for field in pa.ipc.read_schema(pa.py_buffer(base64.b64decode(cast))):
        if (at := table.schema.get_field_index(field.name)) >= 0:
            table = table.set_column(at, field, table.column(at).cast(field.type, safe=True))
    return table


def require_casts(files: Sequence[tuple[str, pa.Schema]], table: pa.Schema, columns: Sequence[str]) -> None:
    """Refuse a difference that Arrow cannot bridge, before anything is read.

    Raises:
        ConfigError: names column, file and both types.
    """
    tried: set[tuple[pa.DataType, pa.DataType]] = set()
    for file, schema in files:
        for name in columns:
            have, want = schema.field(name).type, table.field(name).type
            if have == want or (have, want) in tried:
                continue
            tried.add((have, want))
            try:
                pa.nulls(1, have).cast(want)
                pa.array([], have).cast(want)
            except (pa.ArrowException, ValueError) as error:
                raise ConfigError(
                    f"column {name!r} is {have} in {redact(file)}, and Arrow makes no {want} of it ({error}); "
                    "point source.path at files of one schema"
                ) from error
