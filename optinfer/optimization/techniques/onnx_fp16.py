"""Weights and arithmetic in float16, inputs and outputs as they were: half the memory, and tensor cores on a GPU.

A CPU has no float16 kernels: there the runtime casts back and forth, so expect the size of fp16 at the speed of fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique, _onnx


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = convert_float_to_float16(
        _onnx.read(source), keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *options["keep_fp32"]]
    )
    _onnx.write(model, out)
    return Change(format="onnx", precision="fp16")


technique = Technique(
    inputs=("onnx",),
    output="onnx",
    requires=("onnx", "onnxruntime"),
    # Operator types that stay in fp32, for a model whose intermediate values exceed float16's 65504.
    defaults={"keep_fp32": []},
    run=run,
)
