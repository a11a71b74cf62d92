"""Static int8 by ONNX Runtime's own quantizer: scales fixed offline from the job's rows, so no row moves another's.

Only products with weights become int8, and what they put out stays float: quantizing that too takes a text model from a
cosine of 0.99 to 0.94. What outliers remain are moved into the weights first (`_smoothing`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optinfer.backends import Arrays
from optinfer.errors import ConfigError
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique, _onnx, _smoothing
from optinfer.optimization.techniques._saturation import load_options, reduce_range

_PRODUCTS = ["MatMul", "Gemm"]
# A convolution is int8 only between int8 neighbours.
_CONVOLUTIONAL = ["Conv", "Relu", "Clip", "Add", "MaxPool", "AveragePool", "GlobalAveragePool"]


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    from onnxruntime.quantization import QuantType, quantize_static

    rows = _onnx.calibration(context, options["rows"])
    model = _onnx.read_folded(source)
    _onnx.require_weights(model, "Conv", *_PRODUCTS)
    if options["smoothing"]:
        _smoothing.smooth(model, rows, options["smoothing"])
    convolutional = not _onnx.is_transformer(model) and _onnx.operators(model)["Conv"] > 0
    reduced = reduce_range("onnx_int8_qdq", options["reduce_range"])
    try:
        quantize_static(
            model,
            str(out / _onnx.ENTRY),
            _reader(rows),
            op_types_to_quantize=[*_PRODUCTS, *(_CONVOLUTIONAL if convolutional else [])],
            per_channel=True,
            reduce_range=reduced,
            # Unsigned activations by signed weights is the pair x86 kernels are made for.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": _PRODUCTS},
        )
    except ValueError as error:
        raise ConfigError(
            f"ONNX Runtime's quantizer cannot treat this model: {error}; use onnx_int8_static, or another variant"
        ) from error
    return Change(format="onnx", precision="int8", load_options=load_options(reduced))


def _reader(rows: list[Arrays]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rows: Iterator[Arrays] = iter(rows)

        def get_next(self) -> Arrays | None:
            return next(self._rows, None)

    return Rows()


technique = Technique(
    inputs=("onnx",),
    output="onnx",
    requires=("onnx", "onnxruntime"),
    calibrates=True,
    # `smoothing` is SmoothQuant's alpha, 0 for none. `reduce_range: auto` keeps weights to 7 bits on CPUs without VNNI:
    # their 8-bit products saturate.
    defaults={"rows": 128, "smoothing": 0.7, "reduce_range": "auto"},
    draft={"rows": 8},
    run=run,
)
