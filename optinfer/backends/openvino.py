"""OpenVINO on CPU. Its "fp32" computes in bf16 where the CPU can, so the precision is always set and read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from optinfer.backends import Arrays, Backend, Executed, Execution, Session
from optinfer.models.artifact import Artifact

# OpenVINO's names of what multiplies matrices, and of precisions.
_HEAVY = ("FullyConnected", "MatMul", "Convolution", "GroupConvolution", "ScaledDotProductAttention", "MHA", "RNNSeq")
_SHORT = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4"}


class OpenVINOExecuted(Executed):
    inference_precision: str
    node_types: Mapping[str, int]
    threads: int


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return OpenVINOSession(artifact, execution)


class OpenVINOSession(Session):
    def __init__(self, artifact: Artifact, execution: Execution) -> None:
        import openvino

        core = openvino.Core()
        wanted = artifact.load_options.get("inference_precision", "f32")
        # bf16 without hardware for it is emulated: slower than f32, and other numbers.
        if wanted == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            wanted = "f32"
        self._model = core.compile_model(
            str(artifact.file),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": wanted,
                "INFERENCE_NUM_THREADS": execution.threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        self._request = self._model.create_infer_request()
        self._outputs = execution.outputs

    def __call__(self, inputs: Arrays) -> Arrays:
        self._request.infer(inputs, share_inputs=True)
        return {name: _copied(self._request.get_tensor(name).data) for name in self._outputs}

    def executed(self) -> OpenVINOExecuted:
        import openvino

        nodes = [op.get_rt_info() for op in self._model.get_runtime_model().get_ordered_ops()]
        described = [(_text(n, "layerType"), _text(n, "runtimePrecision")) for n in nodes if "runtimePrecision" in n]
        heavy = Counter(_SHORT.get(precision, precision) for kind, precision in described if kind in _HEAVY)
        return {
            "backend": "openvino",
            "version": openvino.__version__,
            "device": ",".join(self._model.get_property("EXECUTION_DEVICES")).lower(),
            "precisions": dict(heavy),
            "inference_precision": self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
            "node_types": dict(Counter(kind for kind, _ in described).most_common(8)),
            "threads": self._model.get_property("INFERENCE_NUM_THREADS"),
        }


def _copied(array: Any) -> Any:
    return array.astype("float32" if array.dtype.kind == "f" else array.dtype, copy=True)


def _text(info: Any, key: str) -> str:
    return str(info[key].astype(str))


backend = Backend(
    formats=("openvino",),
    requires=("openvino",),
    extra="openvino",
    # Best at 8-20 sorted rows of about 100 tokens.
    max_batch_tokens={"cpu": 768},
    # Its kernels are made for the shape they meet: some 20 ms for each new one.
    prepares_each_shape=True,
    load=load,
)
