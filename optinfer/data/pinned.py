"""A file held to one version, and what the store says about it kept apart from what a decoder makes of its bytes.

A decoder sees a file that was replaced half way, a connection that broke and a corrupt page alike, as bytes that make
no sense, and wraps an error of the file below it into one of its own. Here the file remembers what the store said, and
its version is looked at before and after the bytes are used. On S3 every read is conditional (`If-Match`), so nothing
else can come; a local file is one open descriptor: a replacement does not matter, and an overwrite in place shows.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from optinfer.data.storage import file_system, is_local, version_of

# What a footer of ordinary size fits into: one request for it instead of two or three.
_TAIL_BYTES = 64 * 1024


class ChangedError(Exception):
    """The file is not, or no longer, the one that was planned; the message continues `it ...`."""


class PinnedFile(ABC):
    """A file to read; made by `opened`.

    Attributes:
        failure: what went wrong first at the store, None as long as nothing did.
    """

    def __init__(self, size: int, version: str) -> None:
        self.size = size
        self.version = version
        self.failure: Exception | None = None
        self.closed = False
        self._position = 0
        self._tail = b""

    @abstractmethod
    def hold(self) -> None:
        """Look at the version again, after the bytes were used.

        Raises:
            ChangedError: it is another one.
        """

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def read(self, count: int | None = -1) -> bytes:
        start = self._position
        stop = self.size if count is None or count < 0 else min(start + count, self.size)
        data = self._between(start, stop) if stop > start else b""
        self._position = start + len(data)
        return data

    def keep_tail(self) -> bytes:
        """Fetch the end of the file, where a footer lies, at once; reads of it cost nothing after that."""
        self._tail = self._between(max(self.size - _TAIL_BYTES, 0), self.size) if self.size else b""
        return self._tail

    def _between(self, start: int, stop: int) -> bytes:
        kept = self.size - len(self._tail)
        if self._tail and start >= kept:
            return self._tail[start - kept : stop - kept]
        try:
            data = self._fetch(start, stop)
            if len(data) != stop - start:
                raise OSError(f"{len(data)} of {stop - start} bytes came")
        except Exception as error:
            self.failure = self.failure or error
            raise
        return data

    @abstractmethod
    def _fetch(self, start: int, stop: int) -> bytes:
        """Return these bytes of the file; fewer are an error of the store's."""

    def close(self) -> None:
        self.closed = True


class _LocalFile(PinnedFile):
    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        super().__init__(*self._now())

    def _now(self) -> tuple[int, str]:
        found = os.fstat(self._descriptor)
        return found.st_size, str(found.st_mtime_ns)

    def hold(self) -> None:
        if self._now() != (self.size, self.version):
            raise ChangedError("was written to while it was read")

    def _fetch(self, start: int, stop: int) -> bytes:
        pieces = []
        while start < stop and (piece := os.pread(self._descriptor, stop - start, start)):
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class _RemoteFile(PinnedFile):
    def __init__(self, url: str) -> None:
        self._fs, self._path = file_system(url)
        # fsspec would read 50 MB ahead at every range, for nothing: Arrow joins the ranges that it needs.
        self._file = self._fs.open(self._path, "rb", cache_type="none")
        # s3fs makes every read conditional on the etag that it saw here.
        details = getattr(self._file, "details", None) or self._fs.info(self._path)
        self._conditional = "IfMatch" in getattr(self._file, "read_kw", {})
        super().__init__(int(details["size"]), version_of(details))

    def hold(self) -> None:
        if self._conditional and self.failure is None:
            return
        details = self._fs.info(self._path)
        size, version = int(details["size"]), version_of(details)
        if (size, version) != (self.size, self.version):
            if version == self.version:
                raise OSError(f"{size} bytes are told of a version that has {self.size}")
            raise ChangedError("was replaced while it was read")

    def _fetch(self, start: int, stop: int) -> bytes:
        self._file.seek(start)
        data: bytes = self._file.read(stop - start)
        return data

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def opened(url: str) -> PinnedFile:
    """Open a file at the version that it has now.

    Raises:
        FileNotFoundError: it does not exist.
        Exception: whatever the store says; few libraries keep to OSError.
    """
    return _LocalFile(url.removeprefix("file://")) if is_local(url) else _RemoteFile(url)
