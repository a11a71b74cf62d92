"""What the OpenVINO techniques share: reading an ONNX model, and saying in which float the rest of it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError, suggest
from optinfer.models.artifact import Artifact

PRECISIONS = {"f32": "fp32", "bf16": "bf16"}


def read(source: Artifact) -> Any:
    import openvino

    return openvino.Core().read_model(str(source.file))


def write(model: Any, out: Path) -> None:
    import openvino

    # What compresses a model is a technique of its own: nothing is rounded on the way.
    openvino.save_model(model, str(out / "model.xml"), compress_to_fp16=False)


def load_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return what the backend is told of `inference_precision`, checked."""
    wanted = options["inference_precision"]
    if wanted not in PRECISIONS:
        raise ConfigError(f"no inference_precision {wanted!r}" + suggest(str(wanted), PRECISIONS))
    return {"inference_precision": wanted}
