"""ZipMap, with which converters end classifiers: each row's scores as a dictionary.

Only outputs that are arrays can be cut and joined by rows, and dictionaries cost more than most of these models. The
array that the node is given holds the same numbers, in the order of the classes that the node lists.
"""

from __future__ import annotations


def without_dictionaries(path: str) -> bytes | None:
    """Return a model whose outputs are those arrays, by the same names; None for one without dictionaries."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    maps = {node.output[0]: node for node in model.graph.node if node.op_type == "ZipMap"}
    wanted = [value for value in model.graph.output if value.name in maps]
    if not wanted:
        return None
    for value in wanted:
        node = maps[value.name]
        made = onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, None)
        value.CopyFrom(made)
        model.graph.node.append(onnx.helper.make_node("Identity", [node.input[0]], [value.name]))
        model.graph.node.remove(node)
    return model.SerializeToString()
