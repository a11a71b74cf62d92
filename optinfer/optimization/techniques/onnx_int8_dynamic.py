"""ONNX Runtime's dynamic int8: weights quantized offline, activations at run time with one scale for the whole tensor.

That one scale is why a row's answer depends on the rows beside it; the certificate measures it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique
from optinfer.optimization.techniques._saturation import load_options, reduce_range


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    reduced = reduce_range("onnx_int8_dynamic", options["reduce_range"])
    model = onnx.load(str(source.file))
    # The exporter's recorded shapes no longer hold once operators are replaced (onnxruntime issue 25890).
    del model.graph.value_info[:]
    quantize_dynamic(
        model,
        str(out / "model.onnx"),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=options["per_channel"],
        reduce_range=reduced,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    return Change(
        format="onnx",
        precision="int8",
        load_options=load_options(reduced),
        notes=("activations share one scale in a micro-batch: answers depend on a row's neighbours",),
    )


technique = Technique(
    inputs=("onnx",),
    output="onnx",
    requires=("onnx", "onnxruntime"),
    # `reduce_range: auto` keeps weights to 7 bits on CPUs without VNNI.
    defaults={"per_channel": True, "reduce_range": "auto"},
    run=run,
)
