"""A folder on any fsspec file system, and the one operation everything hangs on: create only if absent.

On object stores that is a conditional PUT (`If-None-Match: *`); locally a finished file gets its name in one step that
replaces nothing. Nobody overwrites what another has committed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from optinfer.errors import ConfigError, redact
from optinfer.system import atomic
from optinfer.system.outages import WAITING, Waiting, failed

STATE = "_optinfer"
# Of Parquet files in an output that are no rows of it. Readers differ in which folders they leave out (globs none, not
# even `_optinfer`), but all of them look for `.parquet`. The version before wrote that suffix here, too.
ASIDE, ASIDE_BEFORE = ".pq", ".parquet"
_THREADS = 16
_T = TypeVar("_T")
# The most names that S3 gives at once.
_PAGE = 1000
# Somebody may remove the whole folder between the steps of one write, and again.
_RETRIES_ON_REMOVAL = 5
_PIECE_BYTES = 32 * 2**20


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


def connect_anew(url: str) -> None:
    """Forget connections to a store, and the keys they were made with: the next use reads those again."""
    if not is_local(url):
        fs, _ = file_system(url)
        fs.clear_instance_cache()


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
    """A folder by URL; picklable, the connection is made where it is used.

    Whatever is asked of it is asked again while the store fails (see system/outages.py).

    Raises:
        StorageError: by all methods, where it was asked for long enough.
    """

    def __init__(self, url: str, waiting: Waiting = WAITING) -> None:
        self.url = absolute(url).rstrip("/")
        self._waiting = waiting

    def __reduce__(self) -> tuple[Any, ...]:
        return (Folder, (self.url, self._waiting))

    @cached_property
    def _fs_path(self) -> tuple[Any, str]:
        return file_system(self.url)

    def _at(self, name: str) -> tuple[Any, str]:
        fs, root = self._fs_path
        return fs, f"{root}/{name}"

    def _ask(self, work: Callable[[], _T]) -> _T:
        return self._waiting.ask(self.url, work, self._connect_anew)

    def _connect_anew(self) -> None:
        connect_anew(self.url)
        self.__dict__.pop("_fs_path", None)

    def put_new(self, name: str, data: bytes) -> bool:
        """Create `name` holding `data`; return False, changing nothing, where it exists already.

        What is there is ours where it holds these very bytes: the answer to an earlier try may have been lost. Whoever
        has to be told from others puts something of his own into them.
        """
        return self.create(name, data) is not None

    def create(self, name: str, data: bytes) -> int | None:
        """Create `name` as `put_new` does; return the stamp of what was put, None where it exists already.

        A listing shows the same stamp for as long as nobody writes the file again; 0 is one that nobody knows.
        """
        if is_local(self.url):
            return self._named_new(name, data)
        try:
            return self._ask(lambda: self._put_where_none_is(name, data))
        except FileExistsError:
            return 0 if self.read(name) == data else None

    def _put_where_none_is(self, name: str, data: bytes) -> int:
        put = self._piped(name, data, mode="create")
        return _stamp(put.get("ETag") if isinstance(put, dict) else None)

    def _piped(self, name: str, data: bytes, **how: str) -> Any:
        fs, path = self._at(name)
        try:
            return fs.pipe_file(path, data, **how)
        except FileNotFoundError as error:
            # An upload in pieces that is not there any more: it was ended, and the answer to that was lost.
            if not _is_ended_upload(error):
                raise failed(self.url, error) from error
            raise OSError(errno.EBUSY, str(error)) from error

    def _named_new(self, name: str, data: bytes) -> int | None:
        stamps = []

        def take(staged: Path, target: Path) -> None:
            stamps.append(staged.stat().st_mtime_ns)
            atomic.name_new(staged, target)

        try:
            self._from_stage(name, data, take)
        except FileExistsError:
            return None
        return stamps[-1]

    def _from_stage(self, name: str, data: bytes, take: Callable[[Path, Path], None]) -> None:
        """Write `data` aside and let `take` put it at its name; again where the folder was removed meanwhile."""
        path, aside = Path(self.url, name), Path(self.url, STATE, "staging")
        for attempt in range(_RETRIES_ON_REMOVAL):
            try:
                return self._ask(lambda: atomic.put(path, data, aside, take))
            except FileNotFoundError:
                if attempt + 1 == _RETRIES_ON_REMOVAL:
                    raise

    def put(self, name: str, data: bytes) -> None:
        """Write `name`, replacing what is there; readers see the old or the new, never a part."""
        if is_local(self.url):
            return self._from_stage(name, data, os.replace)

        self._ask(lambda: self._piped(name, data))

    def read(self, name: str) -> bytes | None:
        """Return the bytes of `name`, or None where it does not exist."""

        def read() -> bytes:
            fs, path = self._at(name)
            data: bytes = fs.cat_file(path)
            return data

        try:
            return self._ask(read)
        except FileNotFoundError:
            return None

    def look(self, name: str, work: Callable[[BinaryIO], _T]) -> _T:
        """Return what `work` makes of a file, of which no more is fetched than it reads; a store is asked once."""

        def look() -> _T:
            fs, path = self._at(name)
            with fs.open(path, "rb") as file:
                return work(file)

        return self._waiting.limited(self.url, look)

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield a file piece by piece, each of which is asked for again while the store fails.

        Raises:
            FileNotFoundError: it is not there.
        """

        def size() -> int:
            fs, path = self._at(name)
            return int(fs.size(path))

        def read(start: int, stop: int) -> bytes:
            fs, path = self._at(name)
            data: bytes = fs.cat_file(path, start=start, end=stop)
            return data

        whole = self._ask(size)
        for start in range(0, whole, _PIECE_BYTES):
            yield self._ask(partial(read, start, min(start + _PIECE_BYTES, whole)))

    def send(self, name: str, file: Path) -> None:
        """Write `name` with what a file of this machine holds, replacing what is there; it need not fit into memory."""

        def send() -> None:
            fs, path = self._at(name)
            fs.put_file(str(file), path)

        self._ask(send)

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it, where it is there."""

        def delete() -> None:
            fs, path = self._at(name)
            if not fs.exists(path):
                return
            with contextlib.suppress(FileNotFoundError):  # somebody else removes it, too
                fs.rm(path, recursive=True)
            if not is_local(self.url) and fs.exists(path):  # s3fs says nothing of what it could not remove
                raise OSError(f"{name} is still there after it was removed")

        self._ask(delete)

    def remove(self, name: str, unwanted: Callable[[bytes], bool]) -> None:
        """Remove a file whose bytes are `unwanted`, where it is there; what another puts in its place meanwhile stays.

        On S3 that is a conditional DELETE (`If-Match`); locally the file is taken aside first, and put back at its name
        where it turns out to be another one.

        Args:
            unwanted: is asked twice, each time of bytes that are fetched anew: one may flip on its way.
        """

        def remove() -> None:
            if is_local(self.url):
                atomic.remove(Path(self.url, name), Path(self.url, STATE, "staging"), unwanted)
                return
            fs, path = self._at(name)
            seen = fs.info(path)
            if all(unwanted(fs.cat_file(path)) for _ in range(2)):
                _remove_version(fs, path, seen)

        with contextlib.suppress(FileNotFoundError):
            self._ask(remove)

    def keep(self, *under: str) -> None:
        """Have the names in the folder (and in these folders in it, and what is in these files) last if power goes now.

        What an object store has answered lasts.
        """
        if is_local(self.url):
            for name in ("", *under):
                self._ask(partial(atomic.keep, Path(self.url, name)))

    def names(self, pattern: str = r".*", under: str = "") -> list[str]:
        """Return the sorted names of files directly in the folder (or `under` it) that match a regular expression."""
        matches = re.compile(pattern).fullmatch
        return sorted(name for name in self._listed(under) if matches(name))

    def _listed(self, under: str) -> Iterable[str]:
        if not is_local(self.url):
            return (entry.name for entry in self.entries(under))
        try:
            return self._ask(lambda: os.listdir(Path(self.url, under)))  # scandir would ask for every file's size
        except FileNotFoundError:
            return []

    def entries(self, under: str = "", page: int = _PAGE) -> Iterator[Entry]:
        """Yield what lies directly in the folder (or `under` it); of S3 by pages of so many names."""
        fs, root = self._fs_path
        at = f"{root}/{under}" if under else root
        with contextlib.suppress(FileNotFoundError):
            if is_local(self.url):
                yield from self._ask(lambda: list(_scanned(at)))
            elif "s3" in fs.protocol:
                yield from self._paged(at, page)
            else:
                for info in self._ask(lambda: self._fs_path[0].ls(at, detail=True)):
                    name = info["name"].rstrip("/").rpartition("/")[2]
                    yield Entry(name, None if info["type"] == "directory" else int(info["size"]), 0)

    def _paged(self, at: str, size: int) -> Iterator[Entry]:
        """List S3 itself: s3fs keeps a dictionary an object, a gigabyte for a million."""
        bucket, key, _ = self._fs_path[0].split_path(at)
        prefix = f"{key}/" if key else ""
        asked = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/", "MaxKeys": size}
        while True:
            page = self._ask(lambda: self._fs_path[0].call_s3("list_objects_v2", **asked))
            for below in page.get("CommonPrefixes", ()):
                yield Entry(below["Prefix"].removeprefix(prefix).rstrip("/"), None, 0)
            for found in page.get("Contents", ()):
                if name := found["Key"].removeprefix(prefix):  # else the marker of the folder itself
                    yield Entry(name, int(found["Size"]), _stamp(found.get("ETag")))
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]


class Entry(NamedTuple):
    """One name of a listing; a folder's `size` is None, a `stamp` that nobody knows 0 (see `Folder.create`)."""

    name: str
    size: int | None
    stamp: int


def _is_ended_upload(error: FileNotFoundError) -> bool:
    return _code(error) == "NoSuchUpload"


def _code(error: OSError) -> str:
    """Return what S3 calls an error."""
    answer = getattr(error.__cause__, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def _remove_version(fs: Any, path: str, seen: dict[str, Any]) -> None:
    """Remove a remote file at the version that was seen; one that was replaced since stays."""
    if "s3" in fs.protocol:
        bucket, key, _ = fs.split_path(path)
        try:
            fs.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=seen["ETag"])
        except OSError as error:
            if _code(error) != "PreconditionFailed":
                raise
    elif version_of(fs.info(path)) == version_of(seen):  # fsspec has no condition for other stores: right before
        fs.rm_file(path)


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


def each(folder: Folder, work: Callable[[str], _T], names: Sequence[str]) -> list[_T]:
    """Do the same with files of a folder, at a time where the store is far."""
    if is_local(folder.url):  # threads would wait for each other's Python, not for the disk
        return list(map(work, names))
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(work, names))
