"""Texts: a row each, decoded strictly: a text of another encoding is named instead of being guessed at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from optinfer.data.intake import Asked, File, Intake, Piece, Survey, Unreadable, content

_SCHEMA = pa.schema([("text", pa.string())])
# The same, without the mark that some editors put first.
_UTF_8 = "utf-8-sig"


def survey(files: Sequence[File], asked: Asked) -> Survey:
    return Survey(schema=_SCHEMA, rows=len(files))


def pieces(files: Sequence[File], survey: Survey, asked: Asked) -> Iterator[Piece]:
    for file in files:
        try:
            text = content(file).decode(asked.encoding or _UTF_8)
        except Unreadable as error:
            yield Piece(file, reason=str(error))
        except UnicodeDecodeError as error:
            yield Piece(file, reason=f"it is no {asked.encoding or 'UTF-8'} text ({error.reason} at byte {error.start})"
                        "; say --encoding where it has another")  # fmt: skip
        else:
            yield Piece(file, pa.record_batch([[text]], schema=_SCHEMA))


intake = Intake(
    about="a text file",
    suffixes=(".txt", ".text", ".md"),
    takes=frozenset({"encoding"}),
    row_a_file=True,
    group_rows=1024,
    compression="zstd",
    survey=survey,
    pieces=pieces,
)
