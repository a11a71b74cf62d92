"""Static int8 by NNCF on an OpenVINO model: scales fixed offline from the job's own rows, so no row moves another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique, _onnx, _openvino
from optinfer.optimization.techniques._saturation import overflow_fix, reduce_range


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    import nncf

    reduced = reduce_range("openvino_int8_static", options["reduce_range"])
    rows = _onnx.calibration(context, options["rows"])
    quantized = nncf.quantize(
        _openvino.read(source),
        nncf.Dataset(rows),
        subset_size=len(rows),
        model_type=nncf.ModelType.TRANSFORMER if _onnx.is_transformer(_onnx.read(source)) else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow_fix(reduced)),
    )
    _openvino.write(quantized, out)
    return Change(format="openvino", precision="int8", load_options=_openvino.load_options(options))


technique = Technique(
    inputs=("onnx",),
    output="openvino",
    requires=("openvino", "nncf", "onnx"),
    extra="openvino",
    calibrates=True,
    # What stays unquantized computes in bf16 where the CPU has it: with int8 matrices, fp32 would be the slowest part.
    # `reduce_range: auto` keeps weights to 7 bits on CPUs without VNNI.
    defaults={"rows": 128, "inference_precision": "bf16", "reduce_range": "auto"},
    draft={"rows": 8},
    run=run,
)
