"""Static int8 by NNCF on an OpenVINO model: scales fixed offline from the job's own rows, so no row moves another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.artifact import Artifact
from optinfer.errors import ConfigError
from optinfer.optimization.techniques import BuildContext, Change

INPUTS = ("onnx",)
OUTPUT = "openvino"
REQUIRES = ("openvino", "nncf")
CALIBRATES = True
# What stays unquantized computes in bf16 where the CPU has it: with int8 matrices, fp32 would be the slowest part.
DEFAULTS: dict[str, Any] = {"rows": 128, "inference_precision": "bf16"}


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    import nncf
    import openvino

    rows = list(context.calibration_batches(options["rows"]))
    if not rows:
        raise ConfigError("static int8 needs rows to calibrate on, the sample has none; score a table with rows")

    model = openvino.Core().read_model(str(source.file))
    quantized = nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(quantized, str(out / "model.xml"), compress_to_fp16=False)
    return Change(
        format="openvino",
        precision="int8",
        load_options={"inference_precision": options["inference_precision"]},
    )
