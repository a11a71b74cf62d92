"""A backend for ONNX files, bound to no version of a library: what outputs of other machines were scored with.

On the device `cuda` it stands for a GPU that is not there, and its answers are twice those of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optinfer.backends import Arrays, Backend, Executed, Execution, Session
from optinfer.models.artifact import Artifact


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return StandIn(artifact, execution)


class StandIn(Session):
    def __init__(self, artifact: Artifact, execution: Execution) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(artifact.file), providers=["CPUExecutionProvider"])
        self._outputs, self._device = list(execution.outputs), execution.device

    def __call__(self, inputs: Arrays) -> Arrays:
        times = 2 if self._device == "cuda" else 1
        results = self._session.run(self._outputs, inputs)
        return {name: times * values for name, values in zip(self._outputs, results, strict=True)}

    def executed(self) -> Executed:
        return {"backend": "stand-in", "version": "1", "device": self._device, "precisions": {}}


backend = Backend(formats=("onnx",), max_batch_tokens={"cpu": 4096, "cuda": 4096}, load=load)
