"""What of a source's path is read: every Parquet file below it, and a name for each file that is not.

Names that begin with `_` or `.` are skipped without a word, as all readers do (a `_key=value` folder is a partition
nevertheless). Files without a Parquet suffix are left out, and said: they may be rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from optinfer.data.formats import refuse_foreign
from optinfer.data.storage import absolute, file_system, is_local
from optinfer.errors import ConfigError, SourceError, StorageError, redact
from optinfer.system.outages import WAITING, reason

SUFFIXES = (".parquet", ".pq", ".parq")
_NAMES_SAID = 3


@dataclass(frozen=True)
class Listing:
    """Files of a source, as URLs (local ones as paths), in the order of their names.

    Attributes:
        root: the folder that partitions hang from, as the file system writes it.
        left_out: files that are not read, though no convention hides them.
    """

    root: str
    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def warning(self, shown: str) -> str | None:
        """Say which files are left out, None where none is."""
        if not self.left_out:
            return None
        return f"{said(self.left_out)} in {shown} left out: no {SUFFIXES[0]} suffix; rename what should be read"


def said(names: tuple[str, ...]) -> str:
    """Count names and give the first of them."""
    more = ", ..." if len(names) > _NAMES_SAID else ""
    return f"{len(names)} file{'s' * (len(names) > 1)} ({', '.join(names[:_NAMES_SAID])}{more})"


# Millions of names come in thousands of answers.
_WAITING = replace(WAITING, longest_try=3600.0)


def list_source(path: str) -> Listing:
    """List a file, folder or glob.

    Raises:
        ConfigError: there is no Parquet file, or the folder belongs to a table format.
        SourceError: the store does not answer.
    """
    fs, stripped = file_system(absolute(path))
    shown = redact(path)
    try:
        return _WAITING.ask(absolute(path), lambda: _listed(fs, stripped, shown, is_local(path)))
    except FileNotFoundError as error:
        raise ConfigError(_nothing_at(fs, stripped, shown)) from error
    except StorageError as error:
        raise SourceError(
            f"cannot list {shown}: {reason(path, error)}; check credentials, endpoint and permissions"
        ) from error


def _listed(fs: Any, stripped: str, shown: str, local: bool) -> Listing:
    pattern = any(c in stripped for c in "*?[") and not fs.exists(stripped)
    if pattern:
        names = _matching(fs, stripped, local)
        if not names:
            raise ConfigError(f"no file matches {shown}; check the pattern (quote it in a shell)")
        root = stripped[: min(stripped.index(c) for c in "*?[" if c in stripped)].rpartition("/")[0]
    elif fs.isfile(stripped):  # named itself, it is the user's choice
        return Listing(stripped.rpartition("/")[0], (_url(fs, stripped, local),))
    else:
        names, root = below(fs, stripped, local), stripped
        if not names:
            raise ConfigError(_nothing_at(fs, stripped, shown))
    refuse_foreign(fs, shown, root, names, whole=not pattern)
    seen = sorted(name for name in names if not hidden(name, root))
    seen = _without_second_names(seen) if local else seen
    files = tuple(_url(fs, name, local) for name in seen if name.lower().endswith(SUFFIXES))
    left_out = tuple(
        name.removeprefix(root).lstrip("/") for name in seen if names[name] and not name.lower().endswith(SUFFIXES)
    )
    if not files:
        also = f"; without the suffix: {said(left_out)}" if left_out else ""
        raise ConfigError(f"no .parquet file in {shown} (names beginning with '_' or '.' are skipped{also})")
    return Listing(root, files, left_out)


def _nothing_at(fs: Any, stripped: str, shown: str) -> str:
    if fs.exists(stripped):
        return f"{shown} holds no file; point source.path at Parquet files"
    return f"{shown} does not exist; check source.path (relative paths start at the current folder)"


def hidden(name: str, root: str) -> bool:
    inner = name.removeprefix(root).strip("/").split("/")
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in inner)


def _url(fs: Any, name: str, local: bool) -> str:
    return name if local else fs.unstrip_protocol(name)


def _matching(fs: Any, pattern: str, local: bool) -> dict[str, int]:
    """Return the size of every file that a pattern matches, or that lies below a folder it matches."""
    found: dict[str, int] = {}
    for name, info in fs.glob(pattern, detail=True).items():
        folder = os.path.isdir(name) if local else info["type"] == "directory"
        found |= below(fs, name, local) if folder else {name: _size(name, info, local)}
    return found


def below(fs: Any, folder: str, local: bool) -> dict[str, int]:
    """Return the size of every file below a folder, hidden ones and links included; markers of folders are no files."""
    if local:  # fsspec gives links another type than what they lead to
        return {name: _size(name, {}, True) for name in _walk(folder)}
    infos = fs.find(folder, detail=True).items()
    return {name: int(info["size"] or 0) for name, info in infos if info["type"] == "file" and not name.endswith("/")}


def _size(name: str, info: dict[str, Any], local: bool) -> int:
    if not local:
        return int(info["size"] or 0)
    try:
        return os.stat(name).st_size
    except OSError:  # a link to nothing: whoever reads it says so
        return 1


def _without_second_names(names: list[str]) -> list[str]:
    """Leave out links to files that are listed anyway: `latest.parquet` would give its rows twice."""
    real = {name: os.path.realpath(name) for name in names}
    kept: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (real[name] != name, name)):
        kept.setdefault(real[name], name)
    return sorted(kept.values())


def _walk(folder: str, within: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yield the files below a folder, through links, none of which may lead back up."""
    found = os.stat(folder)
    here = (found.st_dev, found.st_ino)
    if here in within:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, within | {here})
            else:
                yield entry.path
