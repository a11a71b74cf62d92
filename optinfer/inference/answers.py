"""What a model answered, held against what it was asked, where the answers are made: counts, order, shapes, types.

An answer that is not one entry a row shifts every later one, and nothing downstream could tell: that is no row's fault,
so it ends the variant (LoadError), never a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.backends import Arrays
from optinfer.errors import LoadError
from optinfer.families import Family
from optinfer.records.stats import Stats

Rows = np.ndarray[Any, Any]
Piece = tuple[Rows, Arrays]


@dataclass(frozen=True)
class Scored:
    """The answers to some rows, and what they took.

    Attributes:
        outputs: of the model, for the rows in `kept` (ascending).
        added: the columns the family makes of them, one row for each kept row.
        rejected: row -> reason, for all others.
        traits: (rows,) of all rows, what the family says is worth watching; `repeated`: equal to an earlier row. Of
            those that nothing was made of: NaN.
    """

    outputs: Arrays
    added: pa.Table
    kept: Rows
    rejected: dict[int, str]
    stats: Stats
    traits: Mapping[str, Rows] = field(default_factory=dict)


def joined(parts: list[tuple[Rows, Scored]]) -> Scored:
    """Put together what was scored apart; each part's rows are those of the whole that it holds."""
    answered = [(rows, scored) for rows, scored in parts if len(scored.kept)]
    kept = np.concatenate([rows[:0] for rows, _ in parts] + [rows[scored.kept] for rows, scored in answered])
    order = np.argsort(kept)
    outputs, added = {}, pa.table({})
    if answered:
        first = answered[0][1].outputs
        outputs = {name: np.concatenate([scored.outputs[name] for _, scored in answered])[order] for name in first}
        added = pa.concat_tables([scored.added for _, scored in answered]).take(pa.array(order))
    rejected = {int(rows[row]): why for rows, scored in parts for row, why in scored.rejected.items()}
    stats = sum((scored.stats for _, scored in parts), Stats())
    return Scored(outputs, added, kept[order], rejected, stats, _joined_traits(parts))


def _joined_traits(parts: list[tuple[Rows, Scored]]) -> dict[str, Rows]:
    total = sum(len(rows) for rows, _ in parts)
    found: dict[str, Rows] = {}
    for rows, scored in parts:
        for name, values in scored.traits.items():
            found.setdefault(name, np.full(total, np.nan))[rows] = values
    return found


def require_rows(outputs: Arrays, names: Sequence[str], rows: int) -> None:
    """Refuse outputs that are not one entry for each of the rows that a session was given.

    Raises:
        LoadError: an output is missing, has no rows, or another number of them.
    """
    for name in names:
        if name not in outputs:
            raise LoadError(f"the model gives no output {name!r}, it gives {', '.join(outputs) or 'nothing'}")
        shape = np.shape(outputs[name])
        if not shape or shape[0] != rows:
            given = f"{shape[0]} rows" if shape else "one value"
            raise LoadError(
                f"the model gives {given} of {name!r} for {rows} rows: an answer must be one entry a row, in order; "
                "export it so that its first axis is the rows, or name other outputs"
            )


def in_order(pieces: list[Piece]) -> tuple[Arrays, Rows]:
    """Return the outputs of all micro-batches in the rows' order, and these rows.

    Raises:
        LoadError: a row was answered twice, or micro-batches have answers of different shapes.
    """
    if not pieces:
        return {}, np.array([], dtype=np.int64)
    rows = np.concatenate([batch for batch, _ in pieces])
    order = np.argsort(rows, kind="stable")
    if len(rows) > 1 and not (np.diff(rows[order]) > 0).all():
        raise LoadError("a row was answered twice; please report this as a bug")
    found = {}
    for name in pieces[0][1]:
        shapes = sorted({np.shape(outputs[name])[1:] for _, outputs in pieces})
        if len(shapes) > 1:
            raise LoadError(
                f"output {name!r} has rows of {shapes[0]} and of {shapes[-1]}: one size for all rows is needed; leave "
                "it out of model.outputs, or export the model without it"
            )
        found[name] = np.concatenate([outputs[name] for _, outputs in pieces])[order]
    return found, rows[order]


def chosen(outputs: Arrays, rows: Rows) -> Arrays:
    return {name: values[rows] for name, values in outputs.items()}


def finite(outputs: Arrays, rows: int) -> Rows:
    """Return (rows,) whether all numbers are finite: a vector nobody can use must not pass for an answer."""
    found = np.ones(rows, dtype=bool)
    for values in outputs.values():
        if np.issubdtype(values.dtype, np.floating):
            found &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    return found


def finished(family: Family, outputs: Arrays, rows: int) -> pa.Table:
    """Return the columns that the family makes of outputs, one row for each.

    Raises:
        LoadError: it makes other columns than it said, or another number of rows.
    """
    if not rows:
        return family.schema.empty_table()
    table = family.postprocess(outputs)
    if table.num_rows != rows:
        raise LoadError(
            f"postprocess gives {table.num_rows} rows for the answers to {rows}: one row for each is needed, in order"
        )
    if not table.schema.equals(family.schema):
        raise LoadError(
            f"postprocess gives the columns {_named(table.schema)}, announced are {_named(family.schema)}; correct it"
        )
    return table


def _named(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
