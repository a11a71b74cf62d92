"""A technique that writes a file instead of a model, and keeps what it was called with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique

# Options of each call; an exception at the front is raised once.
calls: list[Any] = []


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    calls.append(options)
    (out / "model.onnx").write_text("half")
    if isinstance(calls[0], Exception):
        raise calls.pop(0)
    return Change(format="onnx", precision="fp32")


technique = Technique(inputs=("torch",), output="onnx", run=run, defaults={"opset": 20})
