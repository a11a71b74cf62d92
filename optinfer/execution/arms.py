"""Whose a row is in an experiment: decided by its key alone, so that every run, resume and node deals alike.

A key is hashed together with the experiment's name into a number in [0, 1); each arm has an interval of it, in the
order of the arms' names, and the control the rest. Whole numbers are dealt as they are written, so that a key means the
same in a table that keeps it as text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optinfer.errors import ConfigError
from optinfer.inference.answers import Scored, joined
from optinfer.inference.settings import ReplicaSettings
from optinfer.records.stats import Stats

# From an arm and its rows, with a column per role, to their answers.
Score = Callable[[int, pa.Table], Scored]
Roles = Callable[[pa.Table], pa.Table]
NO_ARM = -1
_NOTHING = np.array([], dtype=np.int64)
_DIGEST_BYTES = 8


@dataclass(frozen=True)
class Arm:
    """One arm beside the control: its share of the keys, and what scores them."""

    name: str
    share: float
    settings: ReplicaSettings


@dataclass(frozen=True)
class Experiment:
    """What deals rows to arms.

    Attributes:
        name: the keys are dealt by.
        key: source column.
        column: of the output, with the arms' names.
        control: name of the arm that is the job itself.
        arms: the others, by name ascending.
    """

    name: str
    key: str
    column: str
    control: str
    arms: tuple[Arm, ...]

    @property
    def _names(self) -> pa.Array:
        return pa.array([self.control, *(arm.name for arm in self.arms)], pa.string())

    def dealt(self, table: pa.Table) -> pa.Table:
        """Return a table of the source with the column that says whose each row is: null without a key."""
        of = dealt(table.column(self.key), self.name, [arm.share for arm in self.arms])
        return table.append_column(self.column, self._names.take(pa.array(of, mask=of == NO_ARM)))

    def scored(self, table: pa.Table, roles: Roles, score: Score) -> Scored:
        """Return the answers to rows that were dealt, each by its own arm; a row that is none's has none."""
        of = pc.index_in(table.column(self.column), self._names).fill_null(NO_ARM).to_numpy()
        parts = []
        for arm in range(len(self.arms) + 1):
            if len(rows := np.flatnonzero(of == arm)):
                answered = score(arm, roles(table.take(pa.array(rows))))
                parts.append((rows, replace(answered, outputs={})))  # models name these as they like
        lost = dict.fromkeys(range(int((of == NO_ARM).sum())), f"{self.key}, by which arms are dealt, is null")
        if lost:
            stats = Stats(rows_in=len(lost), rows_quarantined=len(lost))
            parts.append((np.flatnonzero(of == NO_ARM), Scored({}, pa.table({}), _NOTHING, lost, stats)))
        return joined(parts)


def dealt(keys: pa.ChunkedArray, name: str, shares: list[float]) -> np.ndarray[Any, Any]:
    """Return (rows,) the arm of each key: 0 is who takes the rest, then one for each share; `NO_ARM` for a null."""
    known = keys.cast(pa.string()).combine_chunks().dictionary_encode()
    salt, scale = f"{name}\0".encode(), 2.0 ** (8 * _DIGEST_BYTES)
    numbers = [
        int.from_bytes(blake2b(salt + key.encode(), digest_size=_DIGEST_BYTES).digest()) / scale
        for key in known.dictionary.to_pylist()
    ]
    at = np.searchsorted(np.cumsum(shares), numbers, side="right")
    arms = np.append(np.where(at < len(shares), at + 1, 0), NO_ARM)
    return np.asarray(arms[known.indices.fill_null(len(numbers)).to_numpy()])


def require_key(source: pa.Schema, key: str) -> None:
    """Refuse a key that does not read the same wherever it is written.

    Raises:
        ConfigError: it is neither text nor a whole number.
    """
    kind = source.field(key).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise ConfigError(
            f"experiment.key {key!r} is of type {kind}; arms are dealt by a text or a whole number: name such a column"
        )
