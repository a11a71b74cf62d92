"""Files by what they hold: their size and SHA-256, which a file keeps wherever it is taken."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

_MOST_KNOWN = 65536
# Of a file that was written just now the clock of its disk, which ticks in milliseconds, may not tell a second write.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Listed:
    """A file by its name in its folder; a `sha256` that nobody knows is empty."""

    name: str
    size: int
    sha256: str

    def is_at(self, path: Path, read: bool = True) -> bool:
        """Tell whether this is what lies there; by its size alone where it is not to be `read`."""
        try:
            size = path.stat().st_size
            return size == self.size and not (read and self.sha256 and digest(path) != self.sha256)
        except OSError:
            return False


def digest(path: Path) -> str:
    """Return a file's SHA-256; a process reads it again only after somebody wrote to it (400 MB/s and more)."""
    there = os.stat(path)
    as_it_is = os.fspath(path), there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino
    if time.time_ns() - there.st_ctime_ns < _SETTLED_NS:
        return _read(*as_it_is)
    return _known(*as_it_is)


def listed(folder: Path, names: Sequence[str] | None = None) -> list[Listed]:
    """Return what a folder holds, by name; None takes all that lies in it."""
    if names is None:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [Listed(name, (folder / name).stat().st_size, digest(folder / name)) for name in names]


def as_plain(files: Sequence[Listed]) -> dict[str, dict[str, int | str]]:
    """Return files as JSON has them."""
    return {file.name: {"size": file.size, "sha256": file.sha256} for file in files}


def from_plain(raw: Mapping[str, Mapping[str, int | str] | int]) -> list[Listed]:
    """Return the files that JSON has; notes of before have a size alone.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it has something else.
    """
    found = []
    for name, told in raw.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name!r} leads out of its folder")
        size, sha256 = (told, "") if isinstance(told, int) else (told["size"], told["sha256"])
        found.append(Listed(name, int(size), str(sha256)))
    return found


def _read(path: str, *as_it_is: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_known = lru_cache(maxsize=_MOST_KNOWN)(_read)
