"""ONNX Runtime. It silently replaces a provider it cannot load, so what runs is checked against what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optinfer.artifact import Artifact
from optinfer.backends import Arrays, Execution, Session
from optinfer.errors import UnavailableError

FORMATS = ("onnx",)
REQUIRES = ("onnxruntime",)
DEVICES = ("cpu",)
# Best at 4-8 sorted rows of about 100 tokens: its int8 kernels lose to memory traffic beyond that.
MAX_BATCH_TOKENS = {"cpu": 768}

_PROVIDERS = {"cpu": "CPUExecutionProvider"}


def unavailable(device: str) -> str | None:
    return None


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return OnnxRuntimeSession(artifact, execution)


class OnnxRuntimeSession(Session):
    def __init__(self, artifact: Artifact, execution: Execution) -> None:
        import onnxruntime

        wanted = _PROVIDERS[execution.device]
        self._optimized = str(Path(artifact.path, "model.onnx"))
        self._session = onnxruntime.InferenceSession(self._optimized, _options(execution), providers=[wanted])
        got = self._session.get_providers()
        if got[0] != wanted:
            raise UnavailableError(f"asked for {wanted}, ONNX Runtime runs {got}: install what {wanted} needs")
        self._outputs = execution.outputs
        self._threads = execution.threads

    def __call__(self, inputs: Arrays) -> Arrays:
        results = self._session.run(list(self._outputs), inputs)
        return dict(zip(self._outputs, results, strict=True))

    def executed(self) -> dict[str, Any]:
        import onnx
        import onnxruntime

        graph = onnx.load(self._optimized, load_external_data=False).graph
        kinds = Counter(node.op_type for node in graph.node)
        return {
            "backend": "onnxruntime",
            "version": onnxruntime.__version__,
            "providers": self._session.get_providers(),
            "node_types": dict(kinds.most_common(8)),
            "quantized_nodes": sum(n for kind, n in kinds.items() if "Integer" in kind or "QLinear" in kind),
            "threads": self._threads,
        }


def _options(execution: Execution) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = execution.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Replicas share the machine: a thread that spins while waiting takes its core from another replica.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
