"""SmoothQuant: moves the outliers of a matrix product's input into its weights, where per-channel scales absorb them.

x @ W equals (x / s) @ (s * W) for any s > 0 per input channel. With s growing with a channel's largest value, no single
channel stretches the one scale that all of x shares. Xiao et al. 2022, https://arxiv.org/abs/2211.10438, equation 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optinfer.backends import Arrays

Array = np.ndarray[Any, Any]


def smooth(model: Any, rows: list[Arrays], alpha: float) -> None:
    """Rewrite, in place, each MatMul and Gemm with constant weights; `alpha` is the share moved into the weights."""
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    products = _products(model, weights)
    peaks = _peaks(model, list(products), rows)
    for name, nodes in products.items():
        matrices = {node.input[1]: numpy_helper.to_array(weights[node.input[1]]) for node in nodes}
        channels = {node.input[1]: 1 if _flag(node, "transB") else 0 for node in nodes}
        largest = np.max([np.abs(m).max(axis=1 - channels[w]) for w, m in matrices.items()], axis=0)
        scale = _scale(peaks[name], largest, alpha)
        for weight, matrix in matrices.items():
            shaped = scale[None, :] if channels[weight] else scale[:, None]
            weights[weight].CopyFrom(numpy_helper.from_array(matrix * shaped, weight))
        divisor = numpy_helper.from_array(1 / scale, f"{name}_smoothing")
        model.graph.initializer.append(divisor)
        smoothed = helper.make_node("Mul", [name, divisor.name], [f"{name}_smoothed"], name=f"{name}_smooth")
        first = next(i for i, node in enumerate(model.graph.node) if node.name == nodes[0].name)
        for node in nodes:
            node.input[0] = smoothed.output[0]
        model.graph.node.insert(first, smoothed)


def _products(model: Any, weights: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the products with constant weights by the name of their input: those that share one share its scale."""
    readers = [name for node in model.graph.node for name in node.input]
    found: dict[str, list[Any]] = {}
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{i}"
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights or node.input[0] in weights:
            continue
        tied = readers.count(node.input[1]) > 1 or len(weights[node.input[1]].dims) != 2
        if not tied and not _flag(node, "transA"):
            found.setdefault(node.input[0], []).append(node)
    return found


def _peaks(model: Any, names: list[str], rows: list[Arrays]) -> dict[str, Array]:
    """Return the largest absolute value of each channel (last axis) of the tensors over all rows."""
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in (*probe.graph.input, *probe.graph.output)}
    probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in known)
    asked = [name for name in names if name not in {value.name for value in probe.graph.input}]
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    peaks: dict[str, Array] = {}
    for row in rows:
        seen = {**row, **dict(zip(asked, session.run(asked, row) if asked else [], strict=True))}
        for name in names:
            peak = np.abs(seen[name].reshape(-1, seen[name].shape[-1])).max(axis=0)
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
    return peaks


def _scale(peak: Array, largest: Array, alpha: float) -> Array:
    # A channel that no row moved, or no weight reads, says nothing about its scale.
    silent = (peak == 0) | (largest == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = peak**alpha / largest ** (1 - alpha)
    scale[silent] = 1
    return scale.clip(1e-5).astype(np.float32)


def _flag(node: Any, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)
