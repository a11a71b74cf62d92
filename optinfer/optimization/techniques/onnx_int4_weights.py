"""4-bit weights in blocks, each with its own scale; activations stay as they are, no rows to calibrate on.

Made for models whose weights outgrow memory or its bandwidth. A small model loses more answers than it gains speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError, suggest
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique, _onnx

_ALGORITHMS = ("hqq", "rtn")


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    from onnx import helper
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    algorithm, block, symmetric = options["algorithm"], options["block_size"], options["symmetric"]
    if algorithm not in _ALGORITHMS:
        raise ConfigError(f"onnx_int4_weights: no algorithm {algorithm!r}" + suggest(str(algorithm), _ALGORITHMS))
    if algorithm == "hqq" and symmetric:
        raise ConfigError("onnx_int4_weights: hqq fits zero points, so it is never symmetric; set algorithm: rtn")
    config = (
        nbits.HQQWeightOnlyQuantConfig(block_size=block)
        if algorithm == "hqq"
        else nbits.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric)
    )
    model = _onnx.read_folded(source)
    _onnx.require_weights(model, "MatMul")
    quantizer = nbits.MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    quantized = quantizer.model.model
    # Set here, because the quantizer hands it to one of the two algorithms only.
    for node in quantized.graph.node:
        if node.op_type == "MatMulNBits":
            node.attribute.append(helper.make_attribute("accuracy_level", options["accuracy_level"]))
    _onnx.write(quantized, out)
    return Change(format="onnx", precision="int4")


technique = Technique(
    inputs=("onnx",),
    output="onnx",
    requires=("onnx", "onnxruntime", "torch"),
    # `hqq` fits scales and zero points to the weights, `rtn` takes them from a block's ends. `accuracy_level` is what
    # the product computes in: 0 the runtime's choice, 1 fp32, 4 int8 (activations quantized block by block, so row by
    # row).
    defaults={"algorithm": "hqq", "block_size": 32, "symmetric": False, "accuracy_level": 4},
    run=run,
)
