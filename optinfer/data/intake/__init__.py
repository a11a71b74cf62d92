"""Files that are no table yet, and how rows are made of them. One file a kind; this is what they share.

A module here holds `intake = Intake(...)`. Files are read in the order of their names and a few at a time: memory holds
a row group, however many files there are. One that cannot be read is never left out without a word: it becomes a
`Piece` with its reason, and whoever writes the table decides.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from optinfer.data.storage import file_system, is_local
from optinfer.errors import ConfigError, SourceError, redact
from optinfer.plugins import Kind
from optinfer.system.outages import WAITING

# Arrow's offsets of texts and bytes have 31 bits.
_LARGEST_CELL = 2**31 - 1
_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


class Unreadable(Exception):
    """A file is not what its name says; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class File:
    """One file: its URL (locally its path), and its name below the folder, with `/` between the parts."""

    url: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person said of the files.

    Attributes:
        encoding: of texts; None is UTF-8.
        delimiter, quote: of CSV files; None finds the delimiter out, and takes `"` as quote.
        paths: images stay where they are, and rows hold their paths.
        pixel_range: values of 16-bit and float images that become black and white; None refuses such images.
    """

    encoding: str | None = None
    delimiter: str | None = None
    quote: str | None = None
    paths: bool = False
    pixel_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what no file can be read with.

        Raises:
            ConfigError: says which, and why.
        """
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise ConfigError(
                    f"--encoding {self.encoding}: there is no such encoding; utf-16 or cp1252, say"
                ) from None
        for name, value in (("delimiter", self.delimiter), ("quote", self.quote)):
            if value is not None and (len(value) != 1 or not value.isascii() or value in "\r\n"):
                raise ConfigError(f"--{name} {value!r}: give one ASCII character (a tab is $'\\t' in a shell)")
        if self.pixel_range is not None and not self.pixel_range[0] < self.pixel_range[1]:
            raise ConfigError(f"--pixel-range {self.pixel_range}: LOW has to be below HIGH")


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is known of files before a table is begun.

    Attributes:
        schema: columns that a row gets from them.
        rows: how many rows there will be, bad files left out.
        bad: (file, reason) of those that are not read again.
        said: what was found out, for whoever did not say it.
    """

    schema: pa.Schema
    rows: int
    bad: tuple[tuple[File, str], ...] = ()
    said: tuple[str, ...] = ()
    delimiter: str | None = None


@dataclass(frozen=True)
class Piece:
    """Rows of one file, in order, or the reason why it gives none; `said` is what a person should know of them."""

    file: File
    rows: pa.RecordBatch | None = None
    reason: str = ""
    said: str = ""


@dataclass(frozen=True, kw_only=True)
class Intake:
    """A kind of files.

    Attributes:
        about: what a row is.
        suffixes: of their names, in lower case.
        takes: options that mean something to it, of those in `Asked`.
        row_a_file: a file is one row, so the folder that it lies in may be its label.
        group_rows: most rows in a row group: a fragment reads whole ones, so few rows where each is large.
        compression: of the Parquet file.
        survey: (files, what was said) -> what they hold.
        pieces: (files, survey, what was said) -> their rows, in the order of the files.
    """

    about: str
    suffixes: tuple[str, ...]
    takes: frozenset[str]
    row_a_file: bool
    group_rows: int
    compression: str
    survey: Callable[[Sequence[File], Asked], Survey]
    pieces: Callable[[Sequence[File], Survey, Asked], Iterator[Piece]]


INTAKES: Kind[Intake] = Kind("intake", "intakes", __name__, Intake)


def content(file: File) -> bytes:
    """Return a file's bytes.

    Raises:
        Unreadable: it is not there, may not be read, or is too large for a cell.
        StorageError: its store does not answer.
    """
    fs, path = file_system(file.url)

    def read() -> bytes:
        if (size := int(fs.size(path) or 0)) > _LARGEST_CELL:
            raise Unreadable(f"it has {size:,} bytes, and a cell of a table holds {_LARGEST_CELL:,} at most")
        found: bytes = fs.cat_file(path)
        return found

    try:
        return read() if is_local(file.url) else WAITING.ask(file.url, read)
    except OSError as error:
        if not is_local(file.url) and not isinstance(error, FileNotFoundError):
            raise SourceError(
                f"cannot read {redact(file.url)}: {error}; check that its store can be reached"
            ) from error
        raise Unreadable(error.strerror or str(error)) from error


@contextmanager
def opened(file: File) -> Iterator[IO[Any]]:
    """Open a file that is read piece by piece, decompressed where its name says that it is compressed.

    Raises:
        Unreadable: it is not there, or may not be read.
    """
    fs, path = file_system(file.url)
    compression = next((kind for suffix, kind in _COMPRESSED.items() if file.name.lower().endswith(suffix)), None)
    try:
        stream = fs.open(path, "rb")
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    with stream:
        yield pa.CompressedInputStream(stream, compression) if compression else stream
