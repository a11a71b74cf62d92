"""Rows of an output by the values of their columns: part by part, and of each only the columns that are asked about."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from optinfer.data.fragments import part_name
from optinfer.data.output import Output
from optinfer.data.output_listing import QUARANTINE
from optinfer.errors import AccountingError, ConfigError, suggest

T = TypeVar("T")

_OF_A_PART = re.compile(r"part-(\d+)-")


@dataclass(frozen=True)
class Match:
    """A row that has the values: of a part, or of its quarantined rows."""

    fragment: int
    row: int
    aside: bool


def matches(output: Output, total: int, where: Mapping[str, str]) -> Iterator[Match]:
    """Yield the rows whose columns have these values, which are given as texts.

    Args:
        total: how many fragments the output has.

    Raises:
        ConfigError: there is no such column, or a text is no value of its type.
    """
    schema = _look(output, part_name(0, total), pq.read_schema) if total else pa.schema([])
    for name in where:
        if name not in schema.names:
            raise ConfigError(f"--where {name}=…: {output.shown} has no column {name!r}{suggest(name, schema.names)}")
    wanted = {name: _value(name, text, schema.field(name).type) for name, text in where.items()}
    for index in range(total):
        name = part_name(index, total)
        found = _look(output, name, lambda file: pq.ParquetFile(file).read(columns=list(wanted)))
        yield from (Match(index, row, aside=False) for row in _rows(found, wanted))
    for file in output.folder.names(under=QUARANTINE):
        if (part := _OF_A_PART.match(file)) is None or (data := output.folder.read(f"{QUARANTINE}/{file}")) is None:
            continue
        kept = pq.ParquetFile(io.BytesIO(data)).read()
        if all(name in kept.column_names for name in wanted):
            yield from (Match(int(part[1]), row, aside=True) for row in _rows(kept, wanted))


def _look(output: Output, name: str, work: Callable[[BinaryIO], T]) -> T:
    try:
        return output.folder.look(name, work)
    except FileNotFoundError:
        raise AccountingError(f"{output.shown}/{name} is gone; run the job again, which scores what is lost") from None


def _value(name: str, text: str, kind: pa.DataType) -> pa.Scalar:
    try:
        return pa.scalar(text).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"--where {name}={text}: the column is of {kind}, and that is no value of it") from error


def _rows(table: pa.Table, wanted: Mapping[str, pa.Scalar]) -> list[int]:
    found = np.ones(table.num_rows, dtype=bool)
    for name, value in wanted.items():
        column = table.column(table.schema.get_all_field_indices(name)[0])
        found &= pc.equal(column, value).fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
    return np.flatnonzero(found).tolist()
