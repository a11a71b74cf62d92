"""What the ONNX techniques share: reading a graph whole, folding its constants, asking what it is made of."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from optinfer.backends import Arrays
from optinfer.errors import ConfigError
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext

ENTRY = "model.onnx"
_FUSED_ATTENTION = {"Attention", "MultiHeadAttention"}


def read(source: Artifact) -> Any:
    """Return the fp32 `ModelProto` with its weights in memory, ready to be rewritten."""
    import onnx

    _require_fp32(source)
    return without_shapes(onnx.load(str(source.file)))


def read_folded(source: Artifact) -> Any:
    """Return the model as `read` does, after ONNX Runtime folded what is constant.

    A weight behind a transpose, or a convolution with its batch normalization behind it, would not be seen as weights.
    """
    import onnx

    _require_fp32(source)
    with tempfile.TemporaryDirectory() as folder:
        optimize(source.file, Path(folder), "basic")
        return without_shapes(onnx.load(str(Path(folder, ENTRY))))


def without_shapes(model: Any) -> Any:
    """Drop the recorded shapes: they no longer hold once operators are replaced (onnxruntime issue 25890)."""
    del model.graph.value_info[:]
    return model


def optimize(model: Path, out: Path, level: str) -> None:
    """Let ONNX Runtime save its optimized graph: `basic` has standard operators only, `extended` fused ones too."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = {
        "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    }[level]
    options.optimized_model_filepath = str(out / ENTRY)
    # Left alone, it points at the external weights of the model it read, by a name that leads nowhere from `out`.
    prefix = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{prefix}_file_name", f"{ENTRY}.data")
    options.add_session_config_entry(f"{prefix}_min_size_in_bytes", "1024")
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def write(model: Any, out: Path) -> None:
    """Save the model; one file holds up to 2 GB, so weights go beside it."""
    import onnx

    onnx.save(model, str(out / ENTRY), save_as_external_data=True, location=f"{ENTRY}.data")


def _require_fp32(source: Artifact) -> None:
    if source.precision != "fp32":
        raise ConfigError(
            f"this step rewrites fp32 models, the one before it left {source.precision}; "
            "make it the only step of its variant that changes the precision"
        )


def calibration(context: BuildContext, rows: int) -> list[Arrays]:
    """Return up to `rows` rows of model inputs, at least one."""
    batches = list(context.calibration_batches(rows))
    if not batches:
        raise ConfigError("static int8 needs rows to calibrate on, the sample has none; score a table with rows")
    return batches


def is_transformer(model: Any) -> bool:
    """Say whether the graph attends: a softmax, and products of two computed matrices, or both in one operator."""
    constant = {tensor.name for tensor in model.graph.initializer}
    kinds = operators(model)
    products = any(n.op_type == "MatMul" and not constant & set(n.input) for n in model.graph.node)
    return bool(_FUSED_ATTENTION & set(kinds)) or (products and kinds["Softmax"] > 0)


def operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def require_weights(model: Any, *kinds: str) -> None:
    """Refuse a model in which nothing of `kinds` multiplies by a constant: it would come out as it went in."""
    constant = {tensor.name for tensor in model.graph.initializer}
    if not any(node.op_type in kinds and node.input[1] in constant for node in model.graph.node):
        raise ConfigError(
            f"the model has no {' or '.join(kinds)} with constant weights to quantize; use another variant"
        )
