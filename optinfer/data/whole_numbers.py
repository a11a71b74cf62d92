"""Whole numbers as Arrow has them. `pa.array` would import pandas first, which takes longer than a whole plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa


def whole_numbers(values: Sequence[int] | np.ndarray[Any, Any]) -> pa.Array:
    """Return (n,) whole numbers as an Arrow array of 64 bits, none of them null."""
    held = np.ascontiguousarray(values, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(held), [None, pa.py_buffer(held)])
