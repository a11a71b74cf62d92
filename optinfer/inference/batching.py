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
    few_shapes: bool = False,
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
        few_shapes: micro-batches are to be collated at `width(...)`, which the token budget counts.
    """
    if lengths is None:
        for start in range(0, len(rows), max_batch_size):
            yield rows[start : start + max_batch_size]
        return
    ordered = rows[np.argsort(-lengths[rows], kind="stable")]
    longest_of_all = int(lengths.max(initial=1))
    start = 0
    while start < len(ordered):
        longest = width(int(lengths[ordered[start]]), longest_of_all, few_shapes)
        size = max(1, min(max_batch_size, max_batch_tokens // longest))
        if same_length:
            size = min(size, int(np.count_nonzero(lengths[ordered[start : start + size]] == lengths[ordered[start]])))
        yield ordered[start : start + size]
        start += size


def width(longest: int, longest_of_all: int, few_shapes: bool) -> int:
    """Return the tokens that a micro-batch is padded to.

    A runtime that prepares itself for each new shape spends more on that than on the padding that avoids it: widths are
    rounded up to one of sixteen an octave, 2% on average, but never beyond the longest row there is, which the model
    is known to take.
    """
    longest = max(longest, 1)
    if not few_shapes:
        return longest
    step = 1 << max(longest.bit_length() - 5, 0)
    return max(longest, min(-(-longest // step) * step, longest_of_all))
