"""Static int8 by NNCF on an ONNX model: scales fixed offline from the job's own rows, so no row moves another's.

NNCF evens out outliers before it quantizes, and also takes embeddings and attention products: small files, close
answers, less speed than `onnx_int8_qdq`, which leaves those in fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError, suggest
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique, _onnx
from optinfer.optimization.techniques._saturation import load_options, overflow_fix, reduce_range

_MODEL_TYPES = ("auto", "transformer", "none")


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    import nncf

    wanted = options["model_type"]
    if wanted not in _MODEL_TYPES:
        raise ConfigError(f"onnx_int8_static: no model_type {wanted!r}" + suggest(str(wanted), _MODEL_TYPES))
    reduced = reduce_range("onnx_int8_static", options["reduce_range"])
    rows = _onnx.calibration(context, options["rows"])
    model = _onnx.read(source)
    transformer = _onnx.is_transformer(model) if wanted == "auto" else wanted == "transformer"
    quantized = nncf.quantize(
        model,
        nncf.Dataset(rows),
        subset_size=len(rows),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow_fix(reduced)),
    )
    _onnx.write(quantized, out)
    return Change(format="onnx", precision="int8", load_options=load_options(reduced))


technique = Technique(
    inputs=("onnx",),
    output="onnx",
    requires=("onnx", "onnxruntime", "nncf"),
    extra="openvino",
    calibrates=True,
    # `model_type: transformer` keeps normalization and softmax in float and evens out outliers; `none` suits
    # convolutions.
    # `reduce_range: auto` keeps weights to 7 bits on CPUs without VNNI.
    defaults={"rows": 128, "model_type": "auto", "reduce_range": "auto"},
    draft={"rows": 8},
    run=run,
)
