"""Rows without an answer that keep their place in the output: nulls, and the reason beside them.

What `sink.on_error: column` makes of an output. Its columns of answers take nulls, so a list of a fixed size becomes
one without: pyarrow writes nulls of the former, and cannot read the file again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import ConfigError

COLUMN = "column"
REASON = "_error"


def gained(answers: pa.Schema, on_error: str) -> pa.Schema:
    """Return the columns that rows gain: those of the answers, and with `column` the reason why there is none.

    Raises:
        ConfigError: the model has a column of that name, or one that cannot hold nulls.
    """
    if on_error != COLUMN:
        return answers
    if REASON in answers.names:
        raise ConfigError(f"the model adds a column {REASON!r} of its own; set sink.on_error: quarantine")
    return pa.schema([*(pa.field(field.name, _open(field)) for field in answers), pa.field(REASON, pa.string())])


def placed(added: pa.Table, kept: np.ndarray[Any, Any], rejected: dict[int, str], answers: pa.Schema) -> pa.Table:
    """Return (rows) of `gained` columns, in the order of the rows: answered, or null with the reason.

    Args:
        added: a row for each in `kept`.
        answers: their columns.
    """
    count = len(kept) + len(rejected)
    places = np.zeros(count, dtype=np.int64)
    places[kept] = np.arange(len(kept))
    answered = np.isin(np.arange(count), kept)
    given = added.cast(pa.schema(list(gained(answers, COLUMN))[:-1]))
    reasons = pa.array([rejected.get(row) for row in range(count)], pa.string())
    return given.take(pa.array(places, mask=~answered)).append_column(REASON, reasons)


def _open(field: pa.Field) -> pa.DataType:
    """Return the type of a column that also holds nulls."""
    kind = field.type
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field)
    if pa.types.is_struct(kind) and any(pa.types.is_fixed_size_list(inner.type) for inner in kind):
        raise ConfigError(
            f"column {field.name!r} of {kind} cannot hold nulls: pyarrow reads none of a list of a fixed size; "
            "leave that size out of the schema, or set sink.on_error: quarantine"
        )
    return kind
