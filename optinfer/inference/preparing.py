"""Rows to features, also where some rows cannot be made ready: those that raise are found and named, the others go on.

A family makes all rows of a table ready in one call. Where that raises, halves are tried, down to the rows at fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from optinfer.errors import LoadError, OptinferError, scrubbed
from optinfer.families import Family, Features

Rows = np.ndarray[Any, Any]
_LONGEST_REASON = 500


@dataclass(frozen=True)
class Prepared:
    """Features of the rows that could be made ready.

    Attributes:
        rows: (features.rows,) the row of the table that each row of `features` is.
        refused: row of the table -> reason, for those that raised and those that the family rejected.
    """

    features: Features
    rows: Rows
    refused: dict[int, str]

    @property
    def usable(self) -> Rows:
        """Rows of `features` that the model may see."""
        return np.delete(np.arange(self.features.rows), list(self.features.rejected))


def prepare(family: Family, table: pa.Table) -> Prepared:
    """Make rows ready, one column per role.

    Raises:
        LoadError: rows that can be made ready one by one cannot be made ready together.
        OptinferError: the family cannot make any row ready, or what rows point to is out of reach.
    """
    refused: dict[int, str] = {}
    rows = np.arange(table.num_rows)
    try:
        features = _ready(family, table)
    except OptinferError:  # what is wrong is no row's fault
        raise
    except Exception:
        refused = culprits(lambda part: _ready(family, part), table)
        rows = np.delete(rows, list(refused))
        try:
            # Together again: what pads does so to the longest of the rows it is given.
            features = _ready(family, table.take(pa.array(rows)))
        except OptinferError:
            raise
        except Exception as error:
            raise LoadError(f"rows that are made ready one by one cannot be together: {described(error)}") from error
    refused |= {int(rows[row]): why for row, why in features.rejected.items()}
    return Prepared(features, rows, refused)


def culprits(attempt: Callable[[pa.Table], object], table: pa.Table, first: int = 0) -> dict[int, str]:
    """Return row -> reason of those with which `attempt` raises, found by halves; `first` is added to each."""
    if not table.num_rows:
        return {}
    try:
        attempt(table)
    except OptinferError:  # what is wrong is no row's fault
        raise
    except Exception as error:
        if table.num_rows == 1:
            return {first: described(error)}
        half = table.num_rows // 2
        return culprits(attempt, table.slice(0, half), first) | culprits(attempt, table.slice(half), first + half)
    return {}


def described(error: BaseException) -> str:
    """Say what a row or a model met, briefly enough for a column of reasons."""
    return scrubbed(f"{type(error).__name__}: {error}")[:_LONGEST_REASON]


def _ready(family: Family, table: pa.Table) -> Features:
    features = family.preprocess(table)
    if features.rows != table.num_rows:
        raise LoadError(
            f"{type(family).__name__} made {features.rows} rows of features of {table.num_rows} rows; each row must "
            "give one"
        )
    return features
