"""ONNX Runtime's dynamic int8: weights quantized offline, activations at run time with one scale for the whole tensor.

That one scale is why a row's answer depends on the rows beside it; the certificate measures it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source.file))
    # The exporter's recorded shapes no longer hold once operators are replaced (onnxruntime issue 25890).
    del model.graph.value_info[:]
    quantize_dynamic(
        model,
        str(out / "model.onnx"),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=options["per_channel"],
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    return Change(
        format="onnx",
        precision="int8",
        notes=("activations share one scale in a micro-batch: answers depend on a row's neighbours",),
    )


technique = Technique(
    inputs=("onnx",),
    output="onnx",
    requires=("onnx", "onnxruntime"),
    defaults={"per_channel": True},
    run=run,
)
