"""The shapes one TensorRT engine serves, from the job's own rows; the model's file stays as it is.

TensorRT tunes an engine for one shape and lets it serve a range. Without a range it builds an engine anew,
in minutes, for each shape that exceeds the earlier ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from optinfer.errors import ConfigError
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    shapes = [
        {name: array.shape for name, array in batch.items()} for batch in context.calibration_batches(options["rows"])
    ]
    if not shapes:
        raise ConfigError("a TensorRT profile is taken from rows, the sample has none; score a table with rows")
    return Change(
        format="onnx",
        precision="fp16" if options["fp16"] else "fp32",
        load_options={
            "profile": profile(shapes, context.family.dynamic_axes, options["batch_rows"], options["longest"]),
            "fp16": options["fp16"],
        },
    )


def profile(
    shapes: list[dict[str, tuple[int, ...]]], dynamic_axes: Any, batch_rows: int, longest: int
) -> dict[str, dict[str, list[int]]]:
    """Return the smallest, usual and largest shape of each input, as {"min" | "opt" | "max": {input: dims}}.

    Args:
        shapes: of each calibration row alone, rows first.
        dynamic_axes: input -> axes that vary; the others keep the size they have.
        batch_rows: rows of a full micro-batch: the usual and the largest number.
        longest: what a varying axis may at least grow to.
    """
    found: dict[str, dict[str, list[int]]] = {"min": {}, "opt": {}, "max": {}}
    for name, first in shapes[0].items():
        seen = np.array([shape[name] for shape in shapes])
        varies = [axis > 0 and axis in dynamic_axes.get(name, {}) for axis in range(len(first))]
        usual, most = np.median(seen, axis=0).astype(int), seen.max(axis=0)
        # The table may hold a shorter row than any calibrated on, so a varying axis begins at one.
        found["min"][name] = [1, *(1 if v else n for v, n in zip(varies[1:], first[1:], strict=True))]
        found["opt"][name] = [batch_rows, *usual[1:].tolist()]
        found["max"][name] = [
            batch_rows,
            *(max(longest, int(n)) if v else int(n) for v, n in zip(varies[1:], most[1:], strict=True)),
        ]
    return found


technique = Technique(
    inputs=("onnx",),
    output="onnx",
    requires=("onnx",),
    calibrates=True,
    # What an engine takes at most: the backend splits micro-batches beyond `batch_rows` and refuses rows beyond
    # `longest`.
    defaults={"rows": 128, "batch_rows": 64, "longest": 512, "fp16": True},
    run=run,
)
