"""What an ONNX file says of its inputs and outputs, read without a runtime: tensors, texts, and dictionaries of scores.

Converters of scikit-learn, LightGBM and XGBoost end a classifier with ZipMap: one dictionary of scores a row. Its node
lists the classes, so the scores are read as the array that they were before. Converters also declare shapes that their
operators do not give (LightGBM's label has one entry, a multi-label one has no second axis, several targets of a forest
are one): in their files, shapes are inferred from the operators and go before what was declared; and where these do not
tell, the job's word does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError
from optinfer.families._graph import TEXT, Port, Signature

_ML_DOMAIN = "ai.onnx.ml"
_CONVERTERS = ("skl2onnx", "OnnxMLTools")
_ACTIVATIONS = ("Softmax", "Sigmoid")
_SAME_VALUES = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
# How many entries these give depends on what they find, not on how many rows there are.
_FINDS = ("NonMaxSuppression", "NonZero", "Unique", "Compress")
_FOUND_ROWS = ("Identity", "Cast", "Gather", "Slice", "Transpose")


def onnx_signature(path: Path) -> Signature:
    """Read an ONNX file's inputs and outputs; an output that cannot become a column says why in its `refusal`.

    Raises:
        ConfigError: the file is no ONNX model, or takes something other than numbers and texts.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ConfigError(f"{path} is not an ONNX model: {error}") from error
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in weights]
    inputs = [_port(value) for value in given]
    inputs = [replace(port, refusal="is one value for all rows") if port.scalar else port for port in inputs]
    if unfit := [port for port in inputs if port.refusal]:
        raise ConfigError(
            f"{path}: input {unfit[0].name!r} {unfit[0].refusal}; optinfer feeds numbers and texts by row"
        )
    makers = {name: node for node in graph.node for name in node.output}
    known, axes = _inferred(model), [_axes(value) for value in given]
    told = set(known) if _converted(model) else {value.name for value in graph.output}
    outputs = [replace(_output(v, makers, known), declared=v.name not in told) for v in graph.output]
    return Signature(tuple(inputs), tuple(_by_row(port, _axes(known.get(port.name)), axes) for port in outputs))


def _output(value: Any, makers: Mapping[str, Any], known: Mapping[str, Any]) -> Port:
    node = makers.get(value.name)
    if node is not None and node.op_type == "ZipMap":
        return _scores(value.name, node, known)
    port = _port(known.get(value.name, value))
    if found := _found(value.name, makers):
        return replace(port, refusal=f"comes from {found}, so it has as many rows as that finds, not one for each")
    if not port.refusal and port.scalar:
        return replace(port, refusal="is one value for all rows")
    return replace(port, activation=_activation(value.name, makers))


def _by_row(port: Port, axes: list[int | str], given: list[list[int | str]]) -> Port:
    """Refuse an output whose first axis the file says to be another than the rows.

    A name of its own says nothing: some exporters name every axis anew. Nor does a 1, which many leave of an example.
    """
    first, rows = axes[0] if axes else "", {one[0] for one in given if one}
    if port.refusal or first in (*rows, "", 1):
        return port
    if isinstance(first, int):
        return replace(port, refusal=f"always has {first} rows, however many it is given")
    if first in {name for one in given for name in one[1:]}:
        return replace(port, refusal=f"has {first!r} as its first axis, not the rows")
    return port


def _axes(value: Any) -> list[int | str]:
    """Return an axis's size, or its name; "" for one that has neither."""
    if value is None:
        return []
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param
        for d in value.type.tensor_type.shape.dim
    ]


def _scores(name: str, node: Any, known: Mapping[str, Any]) -> Port:
    """Return the array that a ZipMap makes dictionaries of: a column for each class, in the order of its node."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "classlabels_strings" in attributes:
        classes: tuple[Any, ...] = tuple(text.decode() for text in attributes["classlabels_strings"].strings)
    else:
        classes = tuple(attributes["classlabels_int64s"].ints)
    port = Port(name, "float32", (len(classes),), classes=classes)
    made = _port(known[node.input[0]]) if node.input[0] in known else port
    if made.dims is not None and (len(made.dims) != 1 or made.dims[0] not in (None, len(classes))):
        return replace(
            port,
            refusal=f"makes dictionaries of {len(classes)} scores of {made.dims} numbers a row, which no runtime does: "
            "convert with zipmap off",
        )
    return port


def _inferred(model: Any) -> dict[str, Any]:
    """Return name -> what its operators say of its shape, for converters' files."""
    import onnx

    if not _converted(model):
        return {}
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for value in bare.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(bare).graph
    except Exception:  # an operator it does not know: what was declared is all there is
        return {}
    values = [*graph.value_info, *graph.output]
    return {value.name: value for value in values if value.type.tensor_type.HasField("shape")}


def _converted(model: Any) -> bool:
    return model.producer_name in _CONVERTERS or any(opset.domain == _ML_DOMAIN for opset in model.opset_import)


def _activation(name: str, makers: Mapping[str, Any]) -> str:
    while (node := makers.get(name)) is not None and node.op_type in _SAME_VALUES:
        name = node.input[0]
    return node.op_type if node is not None and node.op_type in _ACTIVATIONS else ""


def _found(name: str, makers: Mapping[str, Any]) -> str:
    while (node := makers.get(name)) is not None and node.op_type in _FOUND_ROWS:
        # The rows of what Gather gives are those of its indices.
        name = node.input[1] if node.op_type == "Gather" else node.input[0]
    return node.op_type if node is not None and node.op_type in _FINDS else ""


def _port(value: Any) -> Port:
    from onnx import TensorProto, helper

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type" or not value.type.tensor_type.elem_type:
        return Port(value.name, refusal=f"is a {(kind or 'value of no type').removesuffix('_type')}, not a tensor")
    tensor = value.type.tensor_type
    if tensor.elem_type == TensorProto.STRING:
        dtype = TEXT
    else:
        numbers = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if numbers.kind not in "fiub":
            return Port(value.name, refusal=f"holds {TensorProto.DataType.Name(tensor.elem_type).lower()}")
        dtype = numbers.name
    if not tensor.HasField("shape"):
        return Port(value.name, dtype)
    sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim]
    return Port(value.name, dtype, tuple(sizes[1:]), sizes[0] if sizes else None, scalar=not sizes)
