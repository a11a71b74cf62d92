"""A sample of the job's own rows, drawn the same way every time: one part judges variants, another calibrates them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from optinfer.data.fragments import Fragment
from optinfer.data.sources import Reader
from optinfer.data.whole_numbers import whole_numbers
from optinfer.errors import CorruptFileError

# Spread over the table, yet few enough that sampling reads a small part of it.
_MOST_FRAGMENTS = 16


@dataclass(frozen=True)
class Sample:
    """`gate` rows judge a variant, `calibration` rows shape it; the two never share a row."""

    gate: pa.Table
    calibration: pa.Table


def digest(table: pa.Table) -> str:
    """Identify rows, so that what was measured on them or made of them can be reused."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]


def draw(
    fragments: Sequence[Fragment],
    reader: Reader,
    required: list[str],
    gate_rows: int,
    calibration_rows: int,
    skip_unreadable: bool = False,
) -> Sample:
    """Draw disjoint gate and calibration rows, evenly over the table; rows with nulls in `required` are left out.

    Fragments that cannot be decoded are an error, or left out with `skip_unreadable` as long as one can be read.

    A table too small for both gives two thirds to the gate.
    """
    chosen = [fragments[i] for i in spread(len(fragments), _MOST_FRAGMENTS)]
    wanted = gate_rows + calibration_rows
    tables: list[pa.Table] = []
    left = wanted
    for position, fragment in enumerate(chosen):
        share = -(-left // (len(chosen) - position))
        try:
            rows = _without_nulls(reader.read(fragment), required)
        except CorruptFileError:
            if not skip_unreadable or not (tables or position + 1 < len(chosen)):
                raise
            continue
        taken = rows.take(whole_numbers(spread(rows.num_rows, share)))
        tables.append(taken)
        left -= taken.num_rows
    table = pa.concat_tables(tables).combine_chunks()
    order = np.random.default_rng(0).permutation(table.num_rows)
    kept = min(gate_rows, table.num_rows if table.num_rows >= wanted else math.ceil(table.num_rows * 2 / 3))
    return Sample(
        gate=table.take(whole_numbers(np.sort(order[:kept]))),
        calibration=table.take(whole_numbers(np.sort(order[kept : kept + calibration_rows]))),
    )


def spread(total: int, most: int) -> list[int]:
    """Return up to `most` indices spread evenly over range(total)."""
    count = min(total, most)
    return [i * total // count for i in range(count)]


def _without_nulls(table: pa.Table, required: list[str]) -> pa.Table:
    for name in required:
        table = table.filter(table.column(name).is_valid())
    return table
