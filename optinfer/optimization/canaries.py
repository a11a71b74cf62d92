"""Which rows of a sample a certificate keeps, with the variant's own answers: on these every replica proves itself.

The ordinary row, the longest, and the one whose answer lies farthest from the others'. Few and small: they travel to
every replica, and each scores them when it loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from optinfer.backends import BACKENDS
from optinfer.inference.answers import Scored
from optinfer.inference.canaries import answered, contents, ground
from optinfer.inference.engine import Engine
from optinfer.inference.invariance import outliers_first, worth_of
from optinfer.inference.preparing import prepare
from optinfer.inference.replica import ReplicaSettings
from optinfer.optimization.techniques import TECHNIQUES
from optinfer.records.canary import Arrays, Canaries, packed_answers, packed_rows

_MOST_BYTES = 64 * 1024


def measured(
    engine: Engine, settings: ReplicaSettings, rows: pa.Table, scored: Scored, ran: Sequence[str], tolerance: float
) -> Canaries:
    """Return canaries of the rows that an engine answered; none where it answered none.

    Args:
        rows: those that are `scored`, all of them kept.
        ran: precisions that were asked for and that ran.
        tolerance: how far a number may move without being another answer.
    """
    kinds, picked, answers = [], [], []
    for kind, row in _within(rows, _chosen(engine, rows, scored)):
        if answer := answered(engine, rows.slice(row, 1)):
            kinds.append(kind)
            picked.append(row)
            answers.append(answer)
    hints = [value for value in settings.artifact.load_options.values() if isinstance(value, str)]
    return Canaries(
        kinds=tuple(kinds),
        rows=packed_rows(rows.take(pa.array(picked, pa.int64()))),
        answers=packed_answers({name: np.concatenate([a[name] for a in answers]) for name in (answers or [{}])[0]}),
        worth=worth_of(scored.outputs),
        tolerance=tolerance,
        precisions=tuple(dict.fromkeys([*ran, *hints])),
        files=contents(settings),
        ground=ground(settings.device, [*_packages(settings), *engine.family.opened_by]),
    )


def _chosen(engine: Engine, rows: pa.Table, scored: Scored) -> Iterator[tuple[str, int]]:
    """Yield kind and row; one row may be of several kinds."""
    if not rows.num_rows:
        return
    features = prepare(engine.family, rows).features
    largest = int(outliers_first(features, np.arange(features.rows))[0])
    if features.lengths is None:
        yield "ordinary", features.rows // 2
        yield "largest", largest
    else:
        yield "ordinary", int(np.argsort(features.lengths, kind="stable")[features.rows // 2])
        yield "longest", largest
    yield "outlier", _farthest(scored.outputs, features.rows)


def _farthest(outputs: Arrays, rows: int) -> int:
    """Return the row whose numbers lie farthest from the average answer."""
    apart = np.zeros(rows)
    for values in outputs.values():
        if np.issubdtype(values.dtype, np.floating) and values.size:
            flat = values.reshape(rows, -1).astype(np.float64)
            apart += np.linalg.norm((flat - flat.mean(axis=0)) / max(np.abs(flat).max(), 1e-30), axis=1)
    return int(apart.argmax())


def _within(rows: pa.Table, chosen: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Yield each row once, as long as all of them stay small; the smallest row of all where none of them is."""
    left, seen = _MOST_BYTES, set[int]()
    for kind, row in chosen:
        size = _size(rows, row)
        if row not in seen and size <= left:
            seen.add(row)
            left -= size
            yield kind, row
    if not seen and rows.num_rows:
        yield "smallest", min(range(rows.num_rows), key=lambda row: _size(rows, row))


def _size(rows: pa.Table, row: int) -> int:
    return int(rows.slice(row, 1).nbytes)


def _packages(settings: ReplicaSettings) -> list[str]:
    """Name what executes the variant, and what converts it on load."""
    converting = [TECHNIQUES.get(conversion["technique"]) for conversion in settings.artifact.conversions]
    named = [*BACKENDS.get(settings.backend).requires, *(name for each in converting for name in each.requires)]
    return list(dict.fromkeys(named))
