"""Folders that are more than their Parquet files: a log says which files count, and plain reading ignores it.

Delta, Iceberg, Hudi and Lance keep files of older versions, Spark's streaming sink those of attempts that failed. Read
as plain Parquet such a folder gives superseded rows and rows twice: it is refused, wherever in the path the log lies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from optinfer.errors import ConfigError, redact

_THREADS = 16


class _Format(NamedTuple):
    name: str
    log: str
    how: str


_COPY = "write the rows of its current version to a folder of their own and point source.path there"
_FORMATS = (
    _Format("Delta", "_delta_log", "point source.path at the table's own folder, and leave source.format out"),
    _Format("Iceberg", "metadata", f"{_COPY}: DuckDB's `COPY (FROM iceberg_scan('...')) TO 'copy.parquet'`, say"),
    _Format("Hudi", ".hoodie", f"{_COPY}: with Spark, say"),
    _Format("Lance", "_versions", f"{_COPY}: `pyarrow.parquet.write_table(lance.dataset('...').to_table(), ...)`, say"),
    _Format("Spark streaming", "_spark_metadata", f"{_COPY}: with Spark, which reads its own log"),
)
_ICEBERG_VERSION = re.compile(r"[^/]*\.metadata\.json(\.gz)?")


def refuse_foreign(fs: Any, shown: str, root: str, names: Iterable[str], whole: bool) -> None:
    """Refuse a source with a table format's log in it, beside its files, or above it.

    Args:
        fs: the file system.
        shown: source.path, for the message.
        root: the folder below which the files lie.
        names: every path that was found, hidden ones included.
        whole: these are all that lie below the root; else logs are looked for beside each.

    Raises:
        ConfigError: names the format and how to read it.
    """
    beside = set() if whole else {root}
    for name in names:
        folders = name.removeprefix(root).strip("/").split("/")[:-1]
        for at, folder in enumerate(folders):
            kind = _logs(folder, name)
            if kind is not None:
                _refuse(kind, shown, "/".join([root.rstrip("/"), *folders[: at + 1]]))
            if not whole and "=" not in folder:  # the root of a table is no partition
                beside.add("/".join([root.rstrip("/"), *folders[: at + 1]]))
    looked_at = sorted({*beside, *_above(root)})
    with ThreadPoolExecutor(_THREADS) as pool:
        for kind, log in filter(None, pool.map(lambda folder: _log_in(fs, folder), looked_at)):
            _refuse(kind, shown, log)


def _refuse(kind: _Format, shown: str, log: str) -> None:
    raise ConfigError(
        f"{shown} is a {kind.name} table ({redact(log)} is its log): its files hold superseded rows, too, and only the "
        f"log says which count; {kind.how}. A single file of it may be named itself"
    )


def _logs(folder: str, name: str) -> _Format | None:
    """Return the format whose log a file's folder is."""
    kind = next((kind for kind in _FORMATS if kind.log == folder), None)
    if kind and kind.name == "Iceberg" and not _ICEBERG_VERSION.fullmatch(name.rpartition("/")[2]):
        return None
    if kind and kind.name == "Lance" and not name.endswith(".manifest"):
        return None
    return kind


def _above(root: str) -> list[str]:
    """Return the folders above one, the bucket or the file system's root left out."""
    parts = root.rstrip("/").split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts)) if "/".join(parts[:count])]


def _log_in(fs: Any, folder: str) -> tuple[_Format, str] | None:
    """Return the format whose log lies in a folder; one that may not be looked into is taken for a plain one."""
    for kind in _FORMATS:
        log = f"{folder}/{kind.log}"
        try:
            if not fs.exists(log):
                continue
            if all(_logs(kind.log, name) is None for name in fs.ls(log, detail=False)):
                continue
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        return kind, log
    return None
