"""The backend of tests/plugins/optinfer_stand_in.py, as a plugin of the version before was written; for make.py alone.

Where `$STAND_IN_HOLD` names a file that exists, a replica on Ray answers as many micro-batches as that says and waits
before the next: a driver can be killed half way on a machine of any speed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optinfer.artifact import Artifact
from optinfer.backends import Arrays, Execution, Session

FORMATS = ("onnx",)
REQUIRES: tuple[str, ...] = ()  # else an output is bound to a version of it
DEVICES = ("cpu", "cuda")
MAX_BATCH_TOKENS = dict.fromkeys(DEVICES, 4096)


def unavailable(device: str) -> str | None:
    return None


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return StandIn(artifact, execution)


class StandIn(Session):
    def __init__(self, artifact: Artifact, execution: Execution) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(artifact.file), providers=["CPUExecutionProvider"])
        self._outputs, self._device = list(execution.outputs), execution.device
        self._times = 2 if execution.device == "cuda" else 1
        self._hold = Path(os.environ.get("STAND_IN_HOLD", os.devnull), "hold")
        self._answered = 0

    def __call__(self, inputs: Arrays) -> Arrays:
        if len(next(iter(inputs.values()))) > 1:  # else it is the canary
            while self._held():
                time.sleep(0.05)
            self._answered += 1
        results = self._session.run(self._outputs, inputs)
        return {name: self._times * values for name, values in zip(self._outputs, results, strict=True)}

    def executed(self) -> dict[str, Any]:
        return {"backend": "stand-in", "version": "1", "device": self._device, "precisions": {}}

    def _held(self) -> bool:
        on_ray = "default_worker" in sys.argv[0]
        return on_ray and self._hold.exists() and self._answered >= int(self._hold.read_text())
