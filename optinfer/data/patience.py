"""Reads of one file, tried until they say something about the file: its bytes, that it changed, or that it is corrupt.

An outage is not bad data. What a store says (no, not now, who are you, nothing at all) is retried for minutes and then
ends the job; only what the decoder refuses, twice, on bytes whose version and length are the planned ones is the file's
own fault. The whole read starts over each time: a new connection, and no thread of Arrow's waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from optinfer.data.pinned import ChangedError, PinnedFile, opened
from optinfer.data.storage import connect_anew, is_local
from optinfer.errors import CorruptFileError, OptinferError, SourceError, redact
from optinfer.system.outages import Waiting, reason

# Arrow reads no fixed-size list that is null (apache/arrow#35692): the file is sound, the reader is not.
_READER_LACKS = "Expected all lists to be of size"
_Result = TypeVar("_Result")


class _OutOfReachError(Exception):
    """The store did not give the bytes; its cause says what it said."""


class _UndecodableError(Exception):
    """The decoder refuses the bytes; the message is its own."""


@dataclass(frozen=True)
class Patience(Waiting):
    """How files are opened, and how long one is asked for that the store does not give.

    Attributes:
        opened: opens a file at the version that it has now.
    """

    opened: Callable[[str], PinnedFile] = opened

    def read(
        self, url: str, decode: Callable[[PinnedFile], _Result], size: int | None = None, version: str = ""
    ) -> _Result:
        """Return what `decode` makes of a file.

        Args:
            size, version: what the file was planned as; without a version it may be any, but the same before and after.

        Raises:
            CorruptFileError: the decoder refuses the bytes, also when they are fetched a second time.
            SourceError: the store does not give them, for minutes, or the file is not the one that was planned.
        """
        try:
            try:
                return self._reached(url, decode, size, version)
            except _UndecodableError:  # a byte that flipped on the way is no corrupt file
                return self._reached(url, decode, size, version)
        except _UndecodableError as error:
            raise CorruptFileError(f"{redact(url)} is not a readable Parquet file ({error})") from error
        except (ChangedError, FileNotFoundError) as error:
            gone = isinstance(error, FileNotFoundError)
            raise SourceError(
                f"{redact(url)} changed {'since' if version else 'while'} it was planned: it "
                f"{'is not there any more' if gone else error}; put it back, or run the job with a new sink.path to "
                "score the table as it is now"
            ) from error
        except _OutOfReachError as error:
            raise SourceError(
                f"cannot read {redact(url)}: {reason(url, error)} (tried for up to {self.seconds:.0f} s); check "
                "credentials, permissions, endpoint and network, then run the same command again: what is committed "
                "is kept"
            ) from error

    def _reached(self, url: str, decode: Callable[[PinnedFile], _Result], size: int | None, version: str) -> _Result:
        """Try until the store answers, or patience ends."""

        def once() -> _Result:
            try:
                return self.limited(url, lambda: self._once(url, decode, size, version))
            except TimeoutError as error:
                raise _OutOfReachError from error

        return self.trying(
            once,
            lambda error: isinstance(error, _OutOfReachError) and not _final(url, error),
            self.seconds,
            lambda: connect_anew(url),
            f"cannot read {redact(url)}",
            lambda error: reason(url, error),
        )

    def _once(self, url: str, decode: Callable[[PinnedFile], _Result], size: int | None, version: str) -> _Result:
        file = self._open(url, size, version)
        try:
            result = decode(file)
            _hold(file)
            return result
        except (OptinferError, ChangedError, FileNotFoundError, _OutOfReachError):
            raise
        except Exception as error:
            _hold(file)
            raise _refused(url, error) from error
        finally:
            file.close()

    def _open(self, url: str, size: int | None, version: str) -> PinnedFile:
        try:
            file = self.opened(url)
        except (FileNotFoundError, OptinferError):
            raise
        except Exception as error:
            raise _OutOfReachError from error
        if version and (file.size, file.version) != (size, version):
            file.close()
            if file.version == version and not is_local(url):  # a local version is a time, which a writer may keep
                raise _OutOfReachError from OSError(f"{file.size} bytes are told of a version that has {size}")
            raise ChangedError(f"has {file.size} bytes, version {file.version}, and had {size}, version {version}")
        return file


PATIENT = Patience()


def _final(url: str, error: BaseException) -> bool:
    """Tell what no waiting changes: this machine's own file permissions."""
    return is_local(url) and isinstance(error.__cause__, PermissionError)


def _refused(url: str, error: Exception) -> Exception:
    """Return what a decoder's error says of the file, whose bytes all came and are the planned ones."""
    reason = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return SourceError(
            f"not enough memory to decode {redact(url)} ({reason}); set fewer placement.replicas, or write the table "
            "with smaller row groups"
        )
    if isinstance(error, pa.ArrowNotImplementedError) or _READER_LACKS in reason:
        return SourceError(
            f"{redact(url)} cannot be read by pyarrow {pa.__version__}: {reason}; write the column another way"
        )
    return _UndecodableError(reason) if isinstance(error, (pa.ArrowException, OSError, UnicodeError)) else error


def _hold(file: PinnedFile) -> None:
    """Say what the store has to say before a decoder's words are believed, or its result is used.

    Raises:
        ChangedError, FileNotFoundError: the bytes were not, or not all, of one version.
        _OutOfReachError: not all bytes came.
    """
    try:
        file.hold()
    except (ChangedError, FileNotFoundError):
        raise
    except Exception as error:
        raise _OutOfReachError from error
    if file.failure is not None:
        raise _OutOfReachError from file.failure
