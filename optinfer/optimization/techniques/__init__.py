"""Offline changes to a model. One file a technique; this is the contract between them and the rest.

A technique module holds the constants `INPUTS` (artifact formats it takes), `OUTPUT` (the format it gives), `REQUIRES`
(modules it needs installed), `CALIBRATES` (whether the job's rows shape the result), `DEFAULTS` (its options) and
`run(source, context, out, options) -> Change`, which writes files into the empty folder `out`. One that changes how a
torch module is loaded also has `convert(module, options, device) -> module`, which the torch backends call on load.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optinfer.backends.torch import converted
from optinfer.families import Arrays, Family, Features
from optinfer.models.artifact import Artifact


@dataclass(frozen=True)
class BuildContext:
    """What a technique may use besides the artifact: the family (to load and trace) and calibration rows."""

    family: Family
    calibration: Features | None

    def module(self, source: Artifact, device: str = "cpu") -> Any:
        """Return the torch module of an artifact of format `torch`, in eval mode, what it converts on load included."""
        return converted(source, self.family.load_module, device)

    def calibration_batches(self, rows: int) -> Iterator[Arrays]:
        """Yield model inputs for up to `rows` calibration rows, one row each, so that no padding is calibrated on."""
        if self.calibration is None:
            return
        usable = [i for i in range(self.calibration.rows) if i not in self.calibration.rejected][:rows]
        for row in usable:
            yield self.calibration.collate(np.array([row]))


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a technique made.

    Attributes:
        format: of the files in `out`, or of the source where it wrote none.
        precision: what the arithmetic is now meant to be.
        load_options: what the backend must know when loading.
        convert: plain options for this technique's `convert`, which also gets its `folder`; None converts nothing.
        notes: what a person should know about the artifact.
    """

    format: str
    precision: str
    load_options: dict[str, Any] = field(default_factory=dict)
    convert: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
