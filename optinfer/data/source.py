"""List the source and read its footers, in parallel; refuse what cannot work before anything heavy starts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from optinfer.config import SourceConfig
from optinfer.data.fragments import Fragments, Plan, SourceFile, cut, rows_per_fragment, tapered
from optinfer.data.storage import absolute, failures, file_system, is_local, version_of
from optinfer.errors import ConfigError, SourceError, redact, suggest

_FOOTER_THREADS = 16


@dataclass(frozen=True, eq=False)
class _Footer:
    """One file; `groups` holds (row groups, 2) rows and bytes."""

    file: SourceFile
    groups: np.ndarray[Any, Any]
    schema: pa.Schema


def plan_source(source: SourceConfig, columns: Sequence[str], wanted_rows: int) -> Plan:
    """Cut the source into fragments.

    Args:
        source: the job's source.
        columns: source columns the job reads (family inputs and `sink.columns`).
        wanted_rows: rows that a fragment should have in a large table.

    Raises:
        ConfigError: the path does not exist, nothing matches, or a column is missing.
        SourceError: a file cannot be read and `on_bad_file` is `raise`.
    """
    root, listed = _list(source.path)
    footers, bad = _read_footers(listed, source, set(columns))
    if not footers:
        raise SourceError(f"none of the {len(bad)} files in {redact(source.path)} can be read; first: {bad[0][1]}")
    partitions = _partitions(root, [f.file.path for f in footers])
    schema = _common_schema(footers, partitions, columns)
    total = min(sum(f.file.rows for f in footers), source.limit or 2**62)
    ranges = _ranges(footers, source, total, wanted_rows)
    return Plan(
        files=tuple(f.file for f in footers),
        fragments=_columns(ranges, [f.file.path for f in footers], partitions),
        schema=schema,
        bad_files=tuple(bad),
    )


def _list(path: str) -> tuple[str, list[dict[str, Any]]]:
    """Return (root the partitions hang from, files sorted by path) for a file, folder or glob."""
    fs, stripped = file_system(absolute(path))
    shown = redact(path)
    try:
        if any(c in stripped for c in "*?["):
            found = fs.glob(stripped, detail=True)
            if not found:
                raise ConfigError(f"no file matches {shown}; check the pattern (quote it in a shell)")
            root = stripped[: min(stripped.index(c) for c in "*?[" if c in stripped)].rpartition("/")[0]
        elif fs.isfile(stripped):
            found, root = {stripped: fs.info(stripped)}, stripped.rpartition("/")[0]
        else:
            found, root = fs.find(stripped, detail=True), stripped
            if not found:
                raise ConfigError(_nothing_at(fs, stripped, shown))
    except failures() as error:
        if isinstance(error, FileNotFoundError):
            raise ConfigError(_nothing_at(fs, stripped, shown)) from error
        raise SourceError(f"cannot list {shown}: {error}; check credentials, endpoint and permissions") from error
    files = [info for name, info in sorted(found.items()) if _is_data(name, root) and info["type"] == "file"]
    if not files:
        raise ConfigError(f"no .parquet file in {shown} (names beginning with '_' or '.' are skipped)")
    return root, files


def _nothing_at(fs: Any, stripped: str, shown: str) -> str:
    if fs.exists(stripped):
        return f"{shown} holds no file; point source.path at Parquet files"
    return f"{shown} does not exist; check source.path (relative paths start at the current folder)"


def _is_data(name: str, root: str) -> bool:
    inner = name.removeprefix(root).strip("/").split("/")
    return not any(part.startswith(("_", ".")) for part in inner) and name.endswith((".parquet", ".pq", ".parq"))


def _read_footers(
    listed: list[dict[str, Any]], source: SourceConfig, columns: set[str]
) -> tuple[list[_Footer], list[tuple[str, str]]]:
    fs, _ = file_system(absolute(source.path))
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        results = list(pool.map(lambda info: _footer(fs, info, columns), listed))
    footers = [r for r in results if isinstance(r, _Footer)]
    bad = [r for r in results if not isinstance(r, _Footer)]
    if bad and source.on_bad_file == "raise":
        raise SourceError(
            f"{bad[0][1]}; repair or remove the file, or set source.on_bad_file: quarantine to score the others"
            + (f" ({len(bad)} files are affected)" if len(bad) > 1 else "")
        )
    return footers, bad


def _footer(fs: Any, info: dict[str, Any], columns: set[str]) -> _Footer | tuple[str, str]:
    path = fs.unstrip_protocol(info["name"]) if not _local(fs) else info["name"]
    try:
        with fs.open(info["name"], "rb") as file:
            parquet = pq.ParquetFile(file)
            meta, schema = parquet.metadata, parquet.schema_arrow
    except (pa.ArrowException, OSError) as error:
        return path, f"{redact(path)} is not a readable Parquet file ({' '.join(str(error).split())})"
    return _Footer(SourceFile(path, int(info["size"]), version_of(info), meta.num_rows), _groups(meta, columns), schema)


def _groups(meta: pq.FileMetaData, columns: set[str]) -> np.ndarray[Any, Any]:
    """Return (row groups, 2) rows and uncompressed bytes of some columns."""
    wanted = [i for i in range(meta.num_columns) if meta.schema.column(i).path.split(".")[0] in columns]
    groups = np.empty((meta.num_row_groups, 2), dtype=np.int64)
    for number, found in enumerate(groups):
        group = meta.row_group(number)
        found[:] = group.num_rows, sum(group.column(i).total_uncompressed_size for i in wanted)
    return groups


def _local(fs: Any) -> bool:
    protocols = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
    return "file" in protocols


def _partitions(root: str, paths: list[str]) -> dict[str, dict[str, pa.Scalar]]:
    """Return hive partition values (`key=value` folders below the root) by path; integers where every file's is one."""
    inner = {p: (p if is_local(p) else p.partition("://")[2]).removeprefix(root) for p in paths}
    keys = {part.partition("=")[0] for i in inner.values() for part in i.split("/")[:-1] if "=" in part}
    texts = pads.HivePartitioning(pa.schema([(key, pa.string()) for key in sorted(keys)]))
    values = {p: pads.get_partition_keys(texts.parse(i)) for p, i in inner.items()}
    types = {key: _partition_type([v[key] for v in values.values() if v.get(key) is not None]) for key in keys}
    return {
        path: {key: pa.scalar(value, pa.string()).cast(types[key]) for key, value in found.items()}
        for path, found in values.items()
    }


def _partition_type(values: list[str]) -> pa.DataType:
    return pa.int64() if all(re.fullmatch(r"-?\d{1,18}", value) for value in values) else pa.string()


def _common_schema(
    footers: list[_Footer], partitions: dict[str, dict[str, pa.Scalar]], columns: Sequence[str]
) -> pa.Schema:
    """Return the first file's schema with its partition columns; every file must agree on the needed columns."""
    first = footers[0]
    schema = first.schema.remove_metadata()
    for name, value in partitions.get(first.file.path, {}).items():
        if name not in schema.names:
            schema = schema.append(pa.field(name, value.type))
    for name in columns:
        if name not in schema.names:
            raise ConfigError(f"column {name!r} is not in {redact(first.file.path)}" + suggest(name, schema.names))
        for footer in footers[1:]:
            present = {*footer.schema.names, *partitions.get(footer.file.path, {})}
            if name not in present:
                raise ConfigError(
                    f"column {name!r} is in {redact(first.file.path)} but not in {redact(footer.file.path)}; "
                    "point source.path at files of one schema"
                )
            if name in footer.schema.names and footer.schema.field(name).type != schema.field(name).type:
                raise ConfigError(
                    f"column {name!r} is {schema.field(name).type} in {redact(first.file.path)} but "
                    f"{footer.schema.field(name).type} in {redact(footer.file.path)}; "
                    "point source.path at files of one schema"
                )
    return schema


def _ranges(
    footers: list[_Footer], source: SourceConfig, total: int, wanted_rows: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (file, start, stop) of every fragment; `total` rows are cut."""
    automatic = source.fragment_rows == "auto"
    max_rows = rows_per_fragment(total, wanted_rows) if source.fragment_rows == "auto" else source.fragment_rows
    before = 0
    for index, footer in enumerate(footers):
        for start, stop in cut(footer.groups.tolist(), max_rows, source.fragment_mb * 1e6):
            stop = min(stop, start + total - before)
            pieces = tapered(start, stop, before, total) if automatic else [(start, stop)]
            yield from ((index, a, b) for a, b in pieces if b > a)
            before += stop - start


def _columns(
    ranges: Iterable[tuple[int, int, int]], paths: list[str], partitions: dict[str, dict[str, pa.Scalar]]
) -> Fragments:
    values = [partitions.get(path, {}) for path in paths]
    numbers = np.fromiter(itertools.chain.from_iterable(ranges), dtype=np.int64).reshape(-1, 3)
    return Fragments(
        paths=tuple(paths),
        partitions=tuple(tuple((n, v.as_py(), str(v.type)) for n, v in found.items()) for found in values),
        file=numbers[:, 0].copy(),
        start=numbers[:, 1].copy(),
        stop=numbers[:, 2].copy(),
    )
