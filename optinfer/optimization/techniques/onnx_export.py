"""Trace the model's torch module to ONNX, batch and sequence left open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from optinfer.errors import ConfigError
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    import torch

    family = context.family
    example = next(context.calibration_batches(1), None)
    if example is None:
        raise ConfigError("tracing a model needs a row, the sample has none; score a table with rows")
    # Two rows: an axis of one is taken for a constant while tracing.
    given = tuple(torch.from_numpy(np.repeat(example[name], 2, axis=0)) for name in family.inputs)
    axes = {axis for dynamic in family.dynamic_axes.values() for axis in dynamic.values()}
    dims = {axis: torch.export.Dim(axis) for axis in axes}
    shapes = tuple({i: dims[a] for i, a in family.dynamic_axes[name].items()} for name in family.inputs)
    with torch.inference_mode():
        program = torch.onnx.export(
            context.module(source),
            given,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(family.inputs),
            output_names=list(family.outputs),
            opset_version=options["opset"],
            verbose=False,
        )
        program.save(str(out / "model.onnx"), external_data=True)
    return Change(format="onnx", precision=source.precision)


technique = Technique(
    inputs=("torch",),
    output="onnx",
    requires=("torch", "onnx", "onnxscript"),
    # Opset 23 brings an Attention operator that later quantizers turn into an invalid one.
    defaults={"opset": 20},
    run=run,
)
