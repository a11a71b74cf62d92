"""LightGBM's trees as ONNX with its own thresholds: doubles, where onnxmltools writes fp32.

A booster compares doubles, and splits between values that may be one in fp32: of scikit-learn's diabetes table two rows
in a hundred would leave a tree another way. ONNX has attributes for doubles. Each node is found by walking LightGBM's
tree beside the converted one, and is only given a double that rounds to what stands there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_TREES = ("TreeEnsembleRegressor", "TreeEnsembleClassifier")
_WEIGHTS = ("target", "class")


def in_doubles(made: Any, booster: Any) -> Any:
    """Return a converted booster that compares and adds doubles.

    Args:
        made: what onnxmltools wrote, with one node for all trees.

    Raises:
        ValueError: it is not the same trees, node by node.
    """
    import onnx

    (node,) = [node for node in made.graph.node if node.op_type in _TREES]
    held = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    exact = _thresholds(held, booster.dump_model()["tree_info"])
    weights = next(f"{kind}_weights" for kind in _WEIGHTS if f"{kind}_weights" in held)
    doubles = {"nodes_values": exact, weights: _leaves(held, weights, booster.dump_model()["tree_info"])}
    if "base_values" in held:
        doubles["base_values"] = np.array(held["base_values"], dtype=np.float64)
    kept = [attribute for attribute in node.attribute if attribute.name not in (*doubles, "nodes_hitrates")]
    del node.attribute[:]
    node.attribute.extend(kept)
    for name, values in doubles.items():
        tensor = onnx.numpy_helper.from_array(values, f"{name}_as_tensor")
        node.attribute.append(onnx.helper.make_attribute(f"{name}_as_tensor", tensor))
    for opset in made.opset_import:
        if opset.domain == "ai.onnx.ml":
            opset.version = max(opset.version, 3)  # which brought them
    for value in made.graph.input:
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return made


def _thresholds(held: Mapping[str, Any], trees: list[Any]) -> np.ndarray[Any, Any]:
    places = _places(held)
    found = np.array(held["nodes_values"], dtype=np.float64)
    for tree, told in enumerate(trees):
        for node, split in _beside(held, places, tree, told["tree_structure"]):
            if "threshold" not in split:
                continue
            place = places[tree, node]
            same = held["nodes_featureids"][place] == split["split_feature"]
            if not same or np.float32(split["threshold"]) != np.float32(found[place]):
                raise ValueError(f"node {node} of tree {tree} was converted to another comparison than LightGBM's")
            found[place] = split["threshold"]
    return found


def _leaves(held: Mapping[str, Any], weights: str, trees: list[Any]) -> np.ndarray[Any, Any]:
    places = _places(held)
    kind = weights.partition("_")[0]
    at = {key: i for i, key in enumerate(zip(held[f"{kind}_treeids"], held[f"{kind}_nodeids"], strict=True))}
    found = np.array(held[weights], dtype=np.float64)
    for tree, told in enumerate(trees):
        for node, leaf in _beside(held, places, tree, told["tree_structure"]):
            if "leaf_value" not in leaf:
                continue
            if np.float32(leaf["leaf_value"]) != np.float32(found[at[tree, node]]):
                raise ValueError(f"leaf {node} of tree {tree} was converted to another value than LightGBM's")
            found[at[tree, node]] = leaf["leaf_value"]
    return found


def _places(held: Mapping[str, Any]) -> dict[tuple[int, int], int]:
    return {key: i for i, key in enumerate(zip(held["nodes_treeids"], held["nodes_nodeids"], strict=True))}


def _beside(
    held: Mapping[str, Any], places: Mapping[tuple[int, int], int], tree: int, root: Mapping[str, Any]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each node of a converted tree with LightGBM's, from the root on: true is its left."""
    left = [(0, root)]
    while left:
        node, told = left.pop()
        yield node, told
        if "left_child" in told:
            place = places[tree, node]
            left.append((held["nodes_truenodeids"][place], told["left_child"]))
            left.append((held["nodes_falsenodeids"][place], told["right_child"]))
