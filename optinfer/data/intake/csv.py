"""CSV with a header, read by pyarrow, whose types a table gets.

pyarrow's streaming reader takes the types of the first block, and stops where a later one holds something else. So
files are read twice: once as texts, block by block, each of which is given to pyarrow's own inference, and once in the
types that hold every block. The delimiter is found out only where one alone gives all rows the same number of fields.
"""

from __future__ import annotations

import codecs
import contextlib
import csv as python_csv
import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.csv as arrow_csv

from optinfer.data.intake import Asked, File, Intake, Piece, Survey, Unreadable, opened
from optinfer.errors import ConfigError, SourceError, redact

_BLOCK_BYTES = 4 * 2**20
_HEAD_BYTES = 64 * 2**10
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


def survey(files: Sequence[File], asked: Asked, block_bytes: int = _BLOCK_BYTES) -> Survey:
    delimiter = asked.delimiter or _one_delimiter(dict(_heads(files, asked)), _quote(asked))
    schema: pa.Schema | None = None
    first, rows, bad = None, 0, []
    for file in files:
        try:
            found, counted = _types(file, asked, delimiter, block_bytes)
            schema, first = (found, file) if schema is None else (_joined(schema, found, first), first)
        except Unreadable as error:
            bad.append((file, str(error)))
        else:
            rows += counted
    schema = schema or pa.schema([])
    told = (
        "there is one column: no delimiter is in the header"
        if len(schema) == 1
        else f"the delimiter is {_named(delimiter)}"
    )
    said = () if asked.delimiter or not schema.names else (told,)
    return Survey(schema=schema, rows=rows, bad=tuple(bad), said=said, delimiter=delimiter)


def pieces(files: Sequence[File], survey: Survey, asked: Asked, block_bytes: int = _BLOCK_BYTES) -> Iterator[Piece]:
    for file in files:
        types = dict(zip(survey.schema.names, survey.schema.types, strict=True))
        try:
            for batch in _read(file, asked, survey.delimiter or ",", block_bytes, types):
                yield Piece(file, batch.select(survey.schema.names))
        except Unreadable as error:  # it could be, a moment ago
            raise SourceError(f"{redact(file.url)} was changed while it was read: {error}; start again") from error


def _quote(asked: Asked) -> str:
    return asked.quote or '"'


def _heads(files: Sequence[File], asked: Asked) -> Iterator[tuple[File, str]]:
    """Yield the first lines of each file that has some; of the others it is said when they are read."""
    for file in files:
        with contextlib.suppress(Unreadable):
            yield file, _head(file, asked)


def _head(file: File, asked: Asked) -> str:
    """Return a file's first whole lines.

    Raises:
        Unreadable: there are none.
    """
    try:
        with opened(file) as stream:
            data = stream.read(_HEAD_BYTES)
        text = codecs.getincrementaldecoder(asked.encoding or "utf-8-sig")().decode(data)
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(_no_csv(asked, asked.delimiter, error)) from error
    if not text.strip():
        raise Unreadable("it is empty: there is no header")
    return text if len(data) < _HEAD_BYTES or "\n" not in text else text.rpartition("\n")[0]


def _no_csv(asked: Asked, delimiter: str | None, error: Exception) -> str:
    by = f" delimited by {_named(delimiter)}" if delimiter else ""
    how = "--encoding, --delimiter and --quote say how it is read"
    return f"it is no CSV in {asked.encoding or 'UTF-8'}{by}: {error}; {how}"


def _named(delimiter: str) -> str:
    return _NAMES.get(delimiter, repr(delimiter))


def _one_delimiter(heads: dict[File, str], quote: str) -> str:
    """Return the one delimiter of all files; a comma where there is just one column.

    Raises:
        ConfigError: it cannot be told.
    """
    chosen = {_delimiter(file, head, quote): file for file, head in heads.items()}
    if len(chosen) > 1:
        (one, a), (other, b), *_ = chosen.items()
        raise ConfigError(
            f"{redact(a.url)} is delimited by {_NAMES[one]}, {redact(b.url)} by {_NAMES[other]}; make a table of each"
        )
    return next(iter(chosen), ",")


def _delimiter(file: File, head: str, quote: str) -> str:
    fits = [one for one in _NAMES if _columns(head, one, quote) > 1]
    if len(fits) == 1:
        return fits[0]
    header = head.splitlines()[0]
    if not fits and not any(one in header for one in _NAMES):
        return ","
    found = f"{' and '.join(map(_named, fits))} each give" if fits else f"none of {', '.join(_NAMES.values())} gives"
    raise ConfigError(
        f"{redact(file.url)}: its delimiter cannot be told, as {found} its first rows the same number of fields; say "
        '--delimiter, and --quote where it is not "'
    )


def _columns(head: str, delimiter: str, quote: str) -> int:
    """Return how many fields every row of a head has, 0 where they differ."""
    rows = list(python_csv.reader(io.StringIO(head), delimiter=delimiter, quotechar=quote))
    counts = {len(row) for row in (rows[:-1] if len(rows) > 2 else rows) if row}  # the last may be cut in a quote
    return counts.pop() if len(counts) == 1 else 0


def _types(file: File, asked: Asked, delimiter: str, block_bytes: int) -> tuple[pa.Schema, int]:
    """Return the types that hold every value of a file, and its rows."""
    schema: pa.Schema | None = None
    rows = 0
    for batch in _read(file, asked, delimiter, block_bytes, None):
        schema = _inferred(batch) if schema is None else _joined(schema, _inferred(batch), file)
        rows += batch.num_rows
    if schema is None:  # a header alone
        schema = pa.schema([(name, pa.null()) for name in _header(file, asked, delimiter)])
    return schema, rows


def _inferred(batch: pa.RecordBatch) -> pa.Schema:
    """Ask pyarrow what types it would give to columns that were read as texts."""
    if not batch.num_rows:
        return pa.schema([(name, pa.null()) for name in batch.schema.names])
    written = pa.BufferOutputStream()
    arrow_csv.write_csv(batch, written)
    data = written.getvalue()
    inferred: pa.Schema = arrow_csv.read_csv(
        pa.BufferReader(data),
        read_options=arrow_csv.ReadOptions(block_size=data.size + 1, use_threads=False),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
    ).schema
    return inferred


def _joined(schema: pa.Schema, other: pa.Schema, first: File | None) -> pa.Schema:
    """Return types that hold the values of both.

    Raises:
        Unreadable: they do not have the same columns.
    """
    if sorted(schema.names) != sorted(other.names):
        differing = sorted({*schema.names} ^ {*other.names})
        where = redact(first.url) if first else "the first file"
        raise Unreadable(f"its columns are not those of {where}: {', '.join(differing)} is in one alone")
    return pa.schema([(f.name, _common(f.type, other.field(f.name).type)) for f in schema])


def _common(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """Return the type that pyarrow would have chosen for both at once: one that parses every value, else text."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    for kinds in ({pa.int64(), pa.float64()}, {pa.date32(), pa.timestamp("s"), pa.timestamp("ns")}):
        if {a, b} <= kinds:
            return max(a, b, key=lambda kind: (kind.bit_width, pa.types.is_floating(kind), kind == pa.timestamp("ns")))
    return pa.string()


def _read(
    file: File, asked: Asked, delimiter: str, block_bytes: int, types: dict[str, pa.DataType] | None
) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows; as texts where no types are given.

    Raises:
        Unreadable: it is not such a file.
    """
    with opened(file) as stream:
        try:
            if types is None:
                types = dict.fromkeys(_header(file, asked, delimiter), pa.string())
            options = _options(asked, delimiter, block_bytes, one_column=len(types) == 1)
            convert = arrow_csv.ConvertOptions(column_types=types)
            with arrow_csv.open_csv(stream, *options, convert_options=convert) as reader:
                yield from reader
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise Unreadable(_no_csv(asked, delimiter, error)) from error


def _options(
    asked: Asked, delimiter: str, block_bytes: int, one_column: bool
) -> tuple[arrow_csv.ReadOptions, arrow_csv.ParseOptions]:
    read = arrow_csv.ReadOptions(block_size=block_bytes, encoding=asked.encoding or "utf8")
    parse = arrow_csv.ParseOptions(
        delimiter=delimiter,
        quote_char=_quote(asked),
        newlines_in_values=True,
        ignore_empty_lines=not one_column,  # there, such a line is a row
    )
    return read, parse


def _header(file: File, asked: Asked, delimiter: str) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        Unreadable: there are none, or one is there twice.
    """
    header = io.StringIO(_head(file, asked))
    names = next(python_csv.reader(header, delimiter=delimiter, quotechar=_quote(asked)), [])
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Unreadable(f"its header has the column {twice[0]!r} twice")
    return names


intake = Intake(
    about="a row of a CSV file",
    suffixes=(".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".csv.bz2"),
    takes=frozenset({"encoding", "delimiter", "quote"}),
    row_a_file=False,
    group_rows=8192,
    compression="zstd",
    survey=survey,
    pieces=pieces,
)
