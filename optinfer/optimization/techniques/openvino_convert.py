"""ONNX to OpenVINO, weights unchanged; `inference_precision: bf16` computes in bfloat16 on CPUs that have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique, _openvino


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    load_options = _openvino.load_options(options)
    _openvino.write(_openvino.read(source), out)
    precision = _openvino.PRECISIONS[options["inference_precision"]]
    return Change(format="openvino", precision=precision, load_options=load_options)


technique = Technique(
    inputs=("onnx",),
    output="openvino",
    requires=("openvino",),
    extra="openvino",
    defaults={"inference_precision": "f32"},
    run=run,
)
