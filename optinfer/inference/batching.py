"""Lengths to micro-batches. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def micro_batches(
    rows: np.ndarray[Any, Any],
    lengths: np.ndarray[Any, Any] | None,
    max_batch_tokens: int,
    max_batch_size: int,
    same_length: bool = False,
) -> Iterator[np.ndarray[Any, Any]]:
    """Cut `rows` into micro-batches, longest rows first.

    Neighbours in length share a micro-batch, so padding is small; the longest go first, so memory that does not
    suffice shows at once. Padded tokens of a micro-batch (its size times its longest row) stay within
    `max_batch_tokens`, except for a single row that is longer by itself.

    Args:
        rows: (n,) row indices to score.
        lengths: tokens by row index; None cuts plain runs of `max_batch_size`.
        max_batch_tokens: padded tokens a micro-batch may hold.
        max_batch_size: rows a micro-batch may hold.
        same_length: a micro-batch holds rows of one length only: the model has no mask for padding.
    """
    if lengths is None:
        for start in range(0, len(rows), max_batch_size):
            yield rows[start : start + max_batch_size]
        return
    ordered = rows[np.argsort(-lengths[rows], kind="stable")]
    start = 0
    while start < len(ordered):
        longest = max(int(lengths[ordered[start]]), 1)
        size = max(1, min(max_batch_size, max_batch_tokens // longest))
        if same_length:
            size = min(size, int(np.count_nonzero(lengths[ordered[start : start + size]] == lengths[ordered[start]])))
        yield ordered[start : start + size]
        start += size
