"""A folder on any fsspec file system, and the one operation everything hangs on: create only if absent.

On object stores that is a conditional PUT (`If-None-Match: *`); locally it is a hard link made from a finished file,
which either appears whole or not at all. There is no rename, and nobody overwrites what another has committed.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError, OptinferError, redact

STATE = "_optinfer"
_RETRIES_ON_CONFLICT = 5


def file_system(url: str) -> tuple[Any, str]:
    """Return (fsspec file system, path on it) for a URL or local path; listings are never cached."""
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"cannot open {redact(url)}: {error}; give a local path or an s3:// URL, or install the protocol's package"
        ) from error
    return fs, path


def failures() -> tuple[type[Exception], ...]:
    """Return what file systems raise when they cannot be reached; some of S3's errors are no OSErrors."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, botocore.BotoCoreError) if botocore else (OSError,)


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn a storage failure inside a `with` block into an error that says what to check."""
    try:
        yield
    except failures() as error:
        raise OptinferError(
            f"cannot use {redact(url)}: {type(error).__name__}: {error}; "
            "check the path, its permissions, credentials and endpoint"
        ) from error


def version_of(info: dict[str, Any]) -> str:
    """Return what tells a file from one that replaced it: its etag or modification time, as fsspec knows it."""
    return str(info.get("ETag") or info.get("mtime") or info.get("LastModified") or "").strip('"')


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def absolute(url: str) -> str:
    """Make a local path absolute, so that it means the same on every process of this machine."""
    if not is_local(url):
        return url
    try:
        return str(Path(url.removeprefix("file://")).expanduser().absolute())
    except (RuntimeError, OSError) as error:  # ~ of nobody, or a working directory that is gone
        raise ConfigError(f"{url} cannot be found: {error}; give the full path") from error


class Folder:
    """A folder by URL; picklable, the connection is made where it is used."""

    def __init__(self, url: str) -> None:
        self.url = absolute(url).rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Folder, (self.url,))

    @cached_property
    def _fs_path(self) -> tuple[Any, str]:
        return file_system(self.url)

    def _at(self, name: str) -> tuple[Any, str]:
        fs, root = self._fs_path
        return fs, f"{root}/{name}"

    def put_new(self, name: str, data: bytes) -> bool:
        """Create `name` holding `data`; return False, changing nothing, where it exists already."""
        if is_local(self.url):
            return self._link_new(name, data)
        fs, path = self._at(name)
        for attempt in range(_RETRIES_ON_CONFLICT):
            try:
                fs.pipe_file(path, data, mode="create")
                return True
            except FileExistsError:
                return False
            except OSError as error:
                # S3 answers 409 when two conditional writes race: neither is decided, the loser asks again.
                if "Conflict" not in str(error) or attempt + 1 == _RETRIES_ON_CONFLICT:
                    raise
        raise AssertionError("unreachable")

    def _link_new(self, name: str, data: bytes) -> bool:
        target = Path(self.url, name)
        staged = self._stage(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(staged, target)
        except FileExistsError:
            return False
        finally:
            staged.unlink()
        return True

    def _stage(self, data: bytes) -> Path:
        """Write `data` durably under a name no reader looks at."""
        staged = Path(self.url, STATE, "staging", uuid.uuid4().hex)
        staged.parent.mkdir(parents=True, exist_ok=True)
        with open(staged, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return staged

    def put(self, name: str, data: bytes) -> None:
        """Write `name`, replacing what is there; readers see the old or the new, never a part."""
        if is_local(self.url):
            target = Path(self.url, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._stage(data), target)
        else:
            fs, path = self._at(name)
            fs.pipe_file(path, data)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of `name`, or None where it does not exist."""
        fs, path = self._at(name)
        try:
            data: bytes = fs.cat_file(path)
        except FileNotFoundError:
            return None
        return data

    def open(self, name: str) -> Any:
        fs, path = self._at(name)
        return fs.open(path, "rb")

    def delete(self, name: str) -> None:
        fs, path = self._at(name)
        if fs.exists(path):
            fs.rm(path, recursive=True)

    def names(self, pattern: str = r".*", under: str = "") -> list[str]:
        """Return the sorted names of files directly in the folder (or `under` it) that match a regular expression."""
        matches = re.compile(pattern).fullmatch
        try:
            return sorted(name for name in self._listed(under) if matches(name))
        except FileNotFoundError:
            return []

    def _listed(self, under: str) -> list[str]:
        if is_local(self.url):  # fsspec would ask for every file's size and times
            return os.listdir(Path(self.url, under))
        fs, root = self._fs_path
        entries = fs.ls(f"{root}/{under}" if under else root, detail=False)
        return [entry.rstrip("/").rpartition("/")[2] for entry in entries]
