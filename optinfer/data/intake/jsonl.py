"""JSON lines, read by pyarrow.json, in the types that hold every line of every file.

A file is cut at line ends and read piece by piece, twice: a key that only later lines have is a column from the first
row on, and one whose numbers get a fraction later holds fractions from the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.json as arrow_json

from optinfer.data.intake import Asked, File, Intake, Piece, Survey, Unreadable, opened
from optinfer.errors import SourceError, redact

_BLOCK_BYTES = 4 * 2**20


def survey(files: Sequence[File], asked: Asked, block_bytes: int = _BLOCK_BYTES) -> Survey:
    schema, rows, bad = pa.schema([]), 0, []
    for file in files:
        try:
            found, counted = _types(file, block_bytes)
            schema = _joined(schema, found)
        except Unreadable as error:
            bad.append((file, str(error)))
        else:
            rows += counted
    return Survey(schema=schema, rows=rows, bad=tuple(bad))


def pieces(files: Sequence[File], survey: Survey, asked: Asked, block_bytes: int = _BLOCK_BYTES) -> Iterator[Piece]:
    for file in files:
        try:
            for table in _read(file, block_bytes, survey.schema):
                yield from (Piece(file, batch) for batch in table.select(survey.schema.names).to_batches())
        except Unreadable as error:  # it could be, a moment ago
            raise SourceError(f"{redact(file.url)} was changed while it was read: {error}; start again") from error


def _types(file: File, block_bytes: int) -> tuple[pa.Schema, int]:
    """Return the types that hold every line of a file, and its rows."""
    schema, rows = pa.schema([]), 0
    for table in _read(file, block_bytes, None):
        schema, rows = _joined(schema, table.schema), rows + table.num_rows
    if not rows:
        raise Unreadable("it is empty: there is no line of JSON")
    return schema, rows


def _joined(schema: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Return the columns of both.

    Raises:
        Unreadable: no type holds both one's values and the other's.
    """
    try:
        return pa.unify_schemas([_with_texts(schema, other), _with_texts(other, schema)], promote_options="permissive")
    except (pa.ArrowException, ValueError) as error:
        raise Unreadable(f"no type holds both its values and those before: {error}") from error


def _with_texts(schema: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Return types in which times are texts where `other` has texts: pyarrow takes a text for a time by its looks."""
    texts = {field.name for field in other if pa.types.is_string(field.type)}
    times = (field.name in texts and pa.types.is_timestamp(field.type) for field in schema)
    return pa.schema([f.with_type(pa.string()) if is_text else f for f, is_text in zip(schema, times, strict=True)])


def _read(file: File, block_bytes: int, schema: pa.Schema | None) -> Iterator[pa.Table]:
    """Yield a file's rows, in the types of a schema or in those that a piece has by itself.

    Raises:
        Unreadable: it is not such a file.
    """
    lines_before = 0
    for block in _blocks(file, block_bytes):
        try:
            block.decode("utf-8")  # which pyarrow does not look at
            yield arrow_json.read_json(
                pa.BufferReader(block),
                read_options=arrow_json.ReadOptions(block_size=len(block) + 1, use_threads=False),
                parse_options=arrow_json.ParseOptions(
                    explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "error"
                ),
            )
        except (pa.ArrowException, UnicodeDecodeError) as error:
            after = f" after line {lines_before:,}" if lines_before else ""
            raise Unreadable(f"it is no JSON lines in UTF-8{after}: {error}") from error
        lines_before += block.count(b"\n")


def _blocks(file: File, block_bytes: int) -> Iterator[bytes]:
    """Yield a file in pieces that end with a line."""
    with opened(file) as stream:
        try:
            rest = b""
            while data := stream.read(block_bytes):
                whole, end, begun = data.rpartition(b"\n")
                if end and (rest + whole).strip():
                    yield rest + whole + end
                rest = begun if end else rest + begun
        except OSError as error:
            raise Unreadable(str(error)) from error
        if rest.strip():
            yield rest


intake = Intake(
    about="a line of JSON",
    suffixes=(".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".jsonl.bz2"),
    takes=frozenset(),
    row_a_file=False,
    group_rows=8192,
    compression="zstd",
    survey=survey,
    pieces=pieces,
)
