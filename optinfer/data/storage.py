"""A folder on any fsspec file system, and the one operation everything hangs on: create only if absent.

On object stores that is a conditional PUT (`If-None-Match: *`); locally it is a hard link made from a finished file,
which either appears whole or not at all. There is no rename, and nobody overwrites what another has committed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from optinfer.errors import ConfigError, OptinferError, redact
from optinfer.system import atomic

STATE = "_optinfer"
_THREADS = 16
_T = TypeVar("_T")
_RETRIES_ON_CONFLICT = 5
# The most names that S3 gives at once.
_PAGE = 1000
# Somebody may remove the whole folder between the steps of one write, and again.
_RETRIES_ON_REMOVAL = 5


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
    """Return what tells an object from one that replaced it, as fsspec knows it: an etag, a generation or a time."""
    known = ("ETag", "etag", "generation", "md5Hash", "last_modified", "LastModified", "updated", "mtime", "created")
    return str(next((info[name] for name in known if info.get(name)), "")).strip('"')


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
        return self.create(name, data) is not None

    def create(self, name: str, data: bytes) -> int | None:
        """Create `name` as `put_new` does; return the stamp of what was put, None where it exists already.

        A listing shows the same stamp for as long as nobody writes the file again; 0 is one that nobody knows.
        """
        if is_local(self.url):
            return self._link_new(name, data)
        fs, path = self._at(name)
        for attempt in range(_RETRIES_ON_CONFLICT):
            try:
                put = fs.pipe_file(path, data, mode="create")
                return _stamp(put.get("ETag") if isinstance(put, dict) else None)
            except FileExistsError:
                return None
            except OSError as error:
                # S3 answers 409 when two conditional writes race: neither is decided, the loser asks again.
                if "Conflict" not in str(error) or attempt + 1 == _RETRIES_ON_CONFLICT:
                    raise
        raise AssertionError("unreachable")

    def _link_new(self, name: str, data: bytes) -> int | None:
        stamps = []

        def link(staged: Path, target: Path) -> None:
            stamps.append(staged.stat().st_mtime_ns)
            os.link(staged, target)

        try:
            self._from_stage(name, data, link)
        except FileExistsError:
            return None
        return stamps[-1]

    def _from_stage(self, name: str, data: bytes, take: Callable[[Path, Path], None]) -> None:
        """Write `data` aside and let `take` put it at its name; again where the folder was removed meanwhile."""
        for attempt in range(_RETRIES_ON_REMOVAL):
            try:
                return atomic.put(Path(self.url, name), data, Path(self.url, STATE, "staging"), take)
            except FileNotFoundError:
                if attempt + 1 == _RETRIES_ON_REMOVAL:
                    raise

    def put(self, name: str, data: bytes) -> None:
        """Write `name`, replacing what is there; readers see the old or the new, never a part."""
        if is_local(self.url):
            self._from_stage(name, data, os.replace)
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
        with contextlib.suppress(FileNotFoundError):  # somebody else removes it, too
            if fs.exists(path):
                fs.rm(path, recursive=True)

    def names(self, pattern: str = r".*", under: str = "") -> list[str]:
        """Return the sorted names of files directly in the folder (or `under` it) that match a regular expression."""
        matches = re.compile(pattern).fullmatch
        try:
            return sorted(name for name in self._listed(under) if matches(name))
        except FileNotFoundError:
            return []

    def _listed(self, under: str) -> Iterable[str]:
        if is_local(self.url):  # scandir would ask for every file's size
            return os.listdir(Path(self.url, under))
        return (entry.name for entry in self.entries(under))

    def entries(self, under: str = "", page: int = _PAGE) -> Iterator[Entry]:
        """Yield what lies directly in the folder (or `under` it); of S3 by pages of so many names."""
        fs, root = self._fs_path
        at = f"{root}/{under}" if under else root
        with contextlib.suppress(FileNotFoundError):
            if is_local(self.url):
                yield from _scanned(at)
            elif "s3" in fs.protocol:
                yield from _paged(fs, at, page)
            else:
                for info in fs.ls(at, detail=True):
                    name = info["name"].rstrip("/").rpartition("/")[2]
                    yield Entry(name, None if info["type"] == "directory" else int(info["size"]), 0)


class Entry(NamedTuple):
    """One name of a listing; a folder's `size` is None, a `stamp` that nobody knows 0 (see `Folder.create`)."""

    name: str
    size: int | None
    stamp: int


def _stamp(etag: str | None) -> int:
    """Return an etag as a number, so that a million of them fit into a column."""
    return int.from_bytes(hashlib.sha256(etag.strip('"').encode()).digest()[:7]) if etag else 0


def _scanned(at: str) -> Iterator[Entry]:
    with os.scandir(at) as found:
        for entry in found:
            try:
                if entry.is_dir():
                    yield Entry(entry.name, None, 0)
                else:
                    known = entry.stat()
                    yield Entry(entry.name, known.st_size, known.st_mtime_ns)
            except FileNotFoundError:  # removed since, or a link to nothing: a reader finds nothing there either
                continue


def _paged(fs: Any, at: str, size: int) -> Iterator[Entry]:
    """List S3 itself: s3fs keeps a dictionary an object, a gigabyte for a million."""
    bucket, key, _ = fs.split_path(at)
    prefix = f"{key}/" if key else ""
    asked = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/", "MaxKeys": size, **fs.req_kw}
    more: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", **asked, **more)
        for below in page.get("CommonPrefixes", ()):
            yield Entry(below["Prefix"].removeprefix(prefix).rstrip("/"), None, 0)
        for found in page.get("Contents", ()):
            if name := found["Key"].removeprefix(prefix):  # else the marker of the folder itself
                yield Entry(name, int(found["Size"]), _stamp(found.get("ETag")))
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def each(folder: Folder, work: Callable[[str], _T], names: Sequence[str]) -> list[_T]:
    """Do the same with files of a folder, at a time where the store is far."""
    if is_local(folder.url):  # threads would wait for each other's Python, not for the disk
        return list(map(work, names))
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(work, names))


def storage_options(url: str) -> dict[str, str]:
    """Return how a library of its own reaches a store, as s3fs reaches it here; nothing for a local path."""
    if is_local(url):
        return {}
    fs, _ = file_system(url)
    if "s3" not in fs.protocol:
        return {}
    endpoint = fs.endpoint_url or fs.client_kwargs.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL")
    region = fs.client_kwargs.get("region_name") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    found = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true" if str(endpoint).startswith("http://") else None,
        "AWS_REGION": region or "us-east-1",
        "AWS_ACCESS_KEY_ID": fs.key,
        "AWS_SECRET_ACCESS_KEY": fs.secret,
        "AWS_SESSION_TOKEN": fs.token,
        "aws_conditional_put": "etag",
    }
    return {name: value for name, value in found.items() if value}
