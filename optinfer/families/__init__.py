"""What rows and outputs mean. One file a family; this is the contract between them and the rest.

A family module holds the constants `ROLES` (what the job maps to source columns), `FRAGMENT_ROWS` (rows in a fragment),
`METRICS` (how outputs are compared, best first) and two functions: `check(schema, columns)`, which refuses source
columns of the wrong type, and `load(model_path, settings) -> Family`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(kw_only=True)
class Features(ABC):
    """Rows made ready for the model.

    Attributes:
        rows: number of rows, rejected ones included.
        lengths: (rows,) cost of each row in tokens, or None where all rows cost the same.
        rejected: row -> reason, for rows the model must not see.
    """

    rows: int
    lengths: np.ndarray[Any, Any] | None = None
    rejected: dict[int, str] = field(default_factory=dict)

    @abstractmethod
    def collate(self, rows: np.ndarray[Any, Any], pad_to: int = 0) -> Arrays:
        """Return the model inputs for some rows, padded to the longest of them (or to `pad_to`)."""


class Family(ABC):
    """A model's rows, loaded from its own files; made on the machine that scores.

    Attributes:
        inputs: names of the model's inputs, in the order its forward takes them.
        outputs: names of what forward returns, in order.
        dynamic_axes: input -> {axis: name} of axes that vary from call to call.
        schema: the columns a row gains.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    schema: pa.Schema

    @abstractmethod
    def preprocess(self, table: pa.Table) -> Features:
        """Turn a table with one column per role into features; never raises for a single bad row."""

    @abstractmethod
    def postprocess(self, outputs: Arrays) -> pa.Table:
        """Turn model outputs, first axis rows, into a table of `schema`."""

    @abstractmethod
    def load_module(self) -> Any:
        """Return the baseline: a torch module in eval mode, fp32, whose forward takes `inputs`, gives `outputs`."""
