"""Offline changes to a model. One file a technique; this is the contract between them and the rest.

A technique module holds the constants `INPUTS` (artifact formats it takes), `REQUIRES` (modules it needs installed),
`CALIBRATES` (whether the job's rows shape the result), `DEFAULTS` (its options) and one function
`run(source, context, out, options) -> Change`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optinfer.families import Arrays, Family, Features
from optinfer.inference.batching import micro_batches


@dataclass(frozen=True)
class BuildContext:
    """What a technique may use besides the artifact: the family (to load and trace) and calibration rows."""

    family: Family
    calibration: Features | None

    def calibration_batches(self, rows: int) -> Iterator[Arrays]:
        """Yield model inputs for up to `rows` calibration rows, one row each, so that no padding is calibrated on."""
        if self.calibration is None:
            return
        usable = [i for i in range(self.calibration.rows) if i not in self.calibration.rejected][:rows]
        for batch in micro_batches(np.array(usable), self.calibration.lengths, 1, 1):
            yield self.calibration.collate(batch)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a technique made: the format of the files in `out`, the precision, and what to do or know when loading."""

    format: str
    precision: str
    load_options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
