"""ONNX Runtime. It silently replaces a provider it cannot load, so what runs is checked against what was asked for."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optinfer.backends import Arrays, Backend, Executed, Execution, Session
from optinfer.backends._zipmap import without_dictionaries
from optinfer.errors import LoadError, UnavailableError
from optinfer.models.artifact import Artifact
from optinfer.system.machine import lacks_nvidia_gpu

Providers = Sequence[tuple[str, Mapping[str, str]]]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DEVICE_OF = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
# What multiplies matrices; the rest of a graph is shapes and glue.
_HEAVY = ("MatMul", "Gemm", "Conv", "Attention", "LSTM", "GRU", "RNN", "Einsum")
# Weights in blocks: how wide, only the model says.
_BLOCKS = "blocks"
# Of what a node is given, the narrowest says what it multiplies.
_NARROWEST_FIRST = {"int8": "int8", "uint8": "int8", "float16": "fp16", "bfloat16": "bf16", "float": "fp32"}


def unavailable(device: str) -> str | None:
    return lacks_nvidia_gpu() if device == "cuda" else None


def load(artifact: Artifact, execution: Execution, load_module: Callable[[], Any]) -> Session:
    return OnnxRuntimeSession(artifact, execution, [(_PROVIDERS[execution.device], {})])


class OnnxExecuted(Executed):
    providers: Sequence[str]
    node_types: Mapping[str, int]
    nodes_by_provider: Mapping[str, int]
    threads: int


class OnnxRuntimeSession(Session):
    """Runs on the first of `providers`, or not at all."""

    def __init__(self, artifact: Artifact, execution: Execution, providers: Providers) -> None:
        self._model = str(artifact.file)
        self._providers = list(providers)
        self._execution = execution
        self._last: Arrays = {}
        # What may hold full 8-bit weights: a CPU without VNNI has kernels for it that do not saturate, slower ones.
        self._exact = bool(artifact.load_options.get("full_range"))
        self._session = self._open(self._options())
        self._outputs = execution.outputs

    def __call__(self, inputs: Arrays) -> Arrays:
        self._last = inputs
        if self._execution.device == "cpu":
            results = self._session.run(list(self._outputs), inputs)
        else:
            results = self._run_bound(inputs)
        return {name: _usable(array) for name, array in zip(self._outputs, results, strict=True)}

    def executed(self) -> OnnxExecuted:
        """Profile one call of a second session like this one: the runtime's own list of what ran, and where."""
        import onnxruntime

        nodes = self._profile()
        heavy = [(kind, provider, precision) for kind, provider, precision in nodes if precision]
        if any(precision == _BLOCKS for _, _, precision in heavy):
            width = f"int{_block_bits(self._model)}"
            heavy = [(kind, provider, width if found == _BLOCKS else found) for kind, provider, found in heavy]
        return {
            "backend": "onnxruntime",
            "version": onnxruntime.__version__,
            "device": ",".join(sorted({_DEVICE_OF.get(provider, provider) for _, provider, _ in heavy or nodes})),
            "providers": self._session.get_providers(),
            "precisions": dict(Counter(precision for _, _, precision in heavy)),
            "node_types": dict(Counter(kind for kind, _, _ in nodes).most_common(8)),
            "nodes_by_provider": dict(Counter(provider for _, provider, _ in nodes)),
            "threads": self._execution.threads,
        }

    def _options(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._execution.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Replicas share the machine: a thread that spins while waiting takes its core from another replica.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    def _open(self, options: Any) -> Any:
        import onnxruntime

        wanted = self._providers[0][0]
        try:
            session = onnxruntime.InferenceSession(self._model, options, providers=self._providers)
            dictionaries = any(not output.type.startswith("tensor") for output in session.get_outputs())
            if dictionaries and (plain := without_dictionaries(self._model)):
                session = onnxruntime.InferenceSession(plain, options, providers=self._providers)
        except ValueError as error:
            raise UnavailableError(
                f"asked for {wanted}, this onnxruntime has {', '.join(onnxruntime.get_available_providers())}; "
                "install the onnxruntime package for this device (onnxruntime-gpu for NVIDIA GPUs)"
            ) from error
        except Exception as error:
            raise LoadError(f"ONNX Runtime cannot load {self._model}: {error}; export the model again") from error
        got = session.get_providers()
        if got[0] != wanted:
            raise UnavailableError(
                f"asked for {wanted}, ONNX Runtime runs {', '.join(got)} instead: a library or the device it needs is "
                "missing; install them, or choose a variant for another device"
            )
        # Without this a call that fails on the device would be repeated on the CPU, and nobody would know.
        session.disable_fallback()
        return session

    def _run_bound(self, inputs: Arrays) -> list[Any]:
        """Leave the outputs on the device until all of them are there, then copy once."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name in self._outputs:
            binding.bind_output(name, self._execution.device)
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def _profile(self) -> list[tuple[str, str, str | None]]:
        """Return (operator, provider, precision or None where it multiplies nothing) of each node of one call."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder, "profile"))
            session = self._open(options)
            session.run(list(self._outputs), self._last)
            events = json.loads(Path(session.end_profiling()).read_text())
        nodes = {e["name"]: e["args"] for e in events if e.get("cat") == "Node" and "provider" in e.get("args", {})}
        return [(a["op_name"], a["provider"], _precision(a)) for a in nodes.values()]


def _precision(node: Mapping[str, Any]) -> str | None:
    """Tell what a node multiplies: its operator's name first, then the narrowest type it is given."""
    kind = node["op_name"]
    if "NBits" in kind:
        return _BLOCKS
    if "Integer" in kind or kind.startswith(("QLinear", "QGemm", "DynamicQuantize", "QAttention")):
        return "int8" if any(heavy in kind for heavy in _HEAVY) else None
    if not any(heavy in kind for heavy in _HEAVY):
        return None
    given = {name for shape in node.get("input_type_shape", []) for name in shape}
    return next((name for dtype, name in _NARROWEST_FIRST.items() if dtype in given), "fp64")


def _block_bits(model: str) -> int:
    """Tell how wide weights in blocks are, the widest where they differ; the profile leaves it out.

    The nodes say it, or the integers that ONNX Runtime makes such nodes of.
    """
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits"]
    said = {attribute.i for node in nodes for attribute in node.attribute if attribute.name == "bits"}
    four = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
    eight = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    held = {4 if t.data_type in four else 8 for t in graph.initializer if t.data_type in (*four, *eight)}
    return max(said or held, default=4)


def _usable(array: Any) -> Any:
    """Return halves as float32; doubles stay what they are: a model that gives them means all of their digits."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


backend = Backend(
    formats=("onnx",),
    requires=("onnxruntime",),
    # Best at 4-8 sorted rows of about 100 tokens: its int8 kernels lose to memory traffic beyond that.
    max_batch_tokens={"cpu": 768, "cuda": 65536},
    unavailable=unavailable,
    load=load,
)
