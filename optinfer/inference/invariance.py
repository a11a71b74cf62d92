"""Does a row's answer depend on its company? Rows alone, and the same rows with neighbours, outliers and padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from optinfer.errors import OptinferError
from optinfer.families import Arrays, Family, Features
from optinfer.inference.answers import Scored
from optinfer.inference.preparing import prepare

_ROWS = 8
_NEIGHBOURS = 3
_OUTLIERS_AMONG = 128
# An output below this, beside a larger one, may be nothing but the rounding of it.
_LEAST = 1e-3


class Answering(Protocol):
    """A loaded model that can be asked for chosen rows in chosen company."""

    family: Family
    max_batch_size: int

    def answer(self, features: Features, rows: np.ndarray[Any, Any], pad_to: int = 0) -> Arrays: ...


def invariance(replica: Answering, sample: pa.Table, scored: Scored) -> dict[str, float]:
    """Return the largest difference of any output component between a row alone and the same row in company.

    Cases: as the replica scored it, which also tells whether answers came back in the order of the rows; ordinary
    neighbours; outlier neighbours (the longest rows, or those with the largest inputs); padding to twice the length, as
    far as the model takes it. In an output that is smaller than another, a difference counts for as much more. Empty
    where no two rows could share a micro-batch. A row that the model cannot answer is nobody's company.
    """
    features = prepare(replica.family, sample.take(pa.array(scored.kept))).features
    rows = np.arange(features.rows)
    if len(rows) < 2 or replica.max_batch_size < 2:
        return {}
    chosen = _chosen(features)
    alone = {int(row): replica.answer(features, np.array([row])) for row in chosen}
    worst: dict[str, float] = {}
    worth = worth_of(scored.outputs)

    def note(case: str, row: int, outputs: Arrays | None) -> None:
        if outputs is None:
            return
        worst[case] = max(worst.get(case, 0.0), difference(alone[row], outputs, worth))

    companies = {"neighbours": rows, "outlier neighbours": outliers_first(features, rows)}
    for row in map(int, chosen):
        note("as scored", row, {name: values[row : row + 1] for name, values in scored.outputs.items()})
        for case, pool in companies.items():
            if others := [r for r in pool if r != row and features.may_share(r, row)][:_NEIGHBOURS]:
                note(case, row, _together(replica, features, np.array([row, *others])))
        if (width := _padded_width(features, row)) is not None:
            note("padding", row, _together(replica, features, np.array([row]), width))
    return worst


def _together(replica: Answering, features: Features, rows: np.ndarray[Any, Any], pad_to: int = 0) -> Arrays | None:
    """Return what a model answers in company; None where it raises, as the job then scores each row alone."""
    try:
        return replica.answer(features, rows, pad_to)
    except OptinferError:
        raise
    except Exception:
        return None


def scale(outputs: Arrays) -> float:
    """Return the largest number of any output, which a difference is to be seen against."""
    floats = [np.abs(v).max() for v in outputs.values() if v.size and np.issubdtype(v.dtype, np.floating)]
    return max(map(float, floats), default=1.0)


def difference(alone: Arrays, company: Arrays, worth: Mapping[str, float] | None = None) -> float:
    """Return the largest difference between the first rows of two answers; labels that differ do so by 1."""
    worth = worth or {}
    return max((worth.get(name, 1.0) * _apart(alone[name][0], company[name][0]) for name in alone), default=0.0)


def worth_of(outputs: Arrays) -> dict[str, float]:
    """Return what a difference in each output counts: beside a large one, a small one has to be right, too."""
    largest = scale(outputs)
    return {
        name: largest / max(scale({name: values}), min(largest, _LEAST)) if values.size and largest else 1.0
        for name, values in outputs.items()
    }


def _apart(one: Any, other: Any) -> float:
    one, other = np.asarray(one), np.asarray(other)
    if not np.issubdtype(one.dtype, np.floating):
        return float((one != other).any())
    return float(np.abs(one.astype(np.float64) - other).max(initial=0.0))


def _chosen(features: Features) -> np.ndarray[Any, Any]:
    """Return rows from all over the sample, and the longest one."""
    spread = np.linspace(0, features.rows - 1, min(_ROWS, features.rows)).astype(np.int64)
    longest = [] if features.lengths is None else [int(features.lengths.argmax())]
    return np.unique([*spread, *longest])


def _padded_width(features: Features, row: int) -> int | None:
    """Return twice a row's length, or as far as the model takes it; None where it cannot be padded."""
    if features.lengths is None or features.same_length:
        return None
    length = int(features.lengths[row])
    width = 2 * length if features.longest is None else min(2 * length, features.longest)
    return width if width > length else None


def outliers_first(features: Features, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return rows, those that stretch a shared scale the most first."""
    if features.lengths is not None:
        sizes = features.lengths[rows]
    else:
        rows = rows[:_OUTLIERS_AMONG]
        sizes = np.array([_largest(features.collate(np.array([row]))) for row in rows])
    return np.asarray(rows[np.argsort(-sizes, kind="stable")])


def _largest(inputs: Arrays) -> float:
    numbers = [a for a in inputs.values() if a.dtype.kind in "fiub"]
    return max((float(np.abs(a.astype(np.float64)).max(initial=0)) for a in numbers), default=0.0)
