"""Convert a table's model to ONNX: skl2onnx for scikit-learn, onnxmltools for XGBoost and LightGBM.

ONNX's trees compare and add in fp32 where these libraries compare doubles: a value that lies on a threshold to seven
digits may go the other way. So a model is converted in doubles, too, where its converter and ONNX Runtime can, and what
agrees with the library on more of the calibration rows is kept; what still differs there is noted, and on rows that
nobody chose the gate measures it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from optinfer.errors import ConfigError, NoVariantError
from optinfer.families import Arrays
from optinfer.models.artifact import Artifact
from optinfer.optimization.gate import agreement
from optinfer.optimization.techniques import BuildContext, Change, Technique
from optinfer.optimization.techniques._lightgbm import in_doubles

_ROWS = 256
_MATRIX = "X"
# The latest that skl2onnx and onnxmltools write alike.
_OPSETS = {"": 18, "ai.onnx.ml": 3}
# Its name in a converted model -> ours.
_NAMES = {"variable": "prediction", "output_label": "label", "output_probability": "probabilities"}


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    model, rows = context.family.load_module(), _together(context)
    expected = model(rows)
    failures, best = [], None
    for precision in options["precisions"]:
        try:
            content = _converted(model, rows, precision)
            share = float(agreement(expected, _answers(content, rows, tuple(expected))).mean())
        except Exception as error:
            failures.append(f"in {precision}: {type(error).__name__}: {error}"[:250])
            continue
        if best is None or share > best[1]:
            best = (content, share, precision)
    if best is None:
        versions = ", ".join(f"{name} {version}" for name, version in model.library.items())
        raise NoVariantError(
            f"{type(model.fitted).__name__} of {versions} cannot be converted to ONNX ({'; '.join(failures)}); score "
            "it with its own library: variant: pyfunc, or as gate.fallback"
        )
    content, share, precision = best
    (out / "model.onnx").write_bytes(content)
    count = len(next(iter(rows.values())))
    notes = (
        () if share == 1 else (f"{round((1 - share) * count)} of {count} calibration rows leave a tree another way",)
    )
    return Change(format="onnx", precision=precision, notes=notes)


def _together(context: BuildContext) -> Arrays:
    """Return calibration rows as one micro-batch."""
    batches = list(context.calibration_batches(_ROWS))
    if not batches:
        raise ConfigError(
            "converting a model needs a row besides those that judge it, the sample has none; score a table with more "
            "rows, or with variant: pyfunc"
        )
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _answers(content: bytes, rows: Arrays, outputs: tuple[str, ...]) -> Arrays:
    """Return what ONNX Runtime says, a row at a time as in no batch that it was converted for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(list(outputs), rows), strict=True))


def _converted(model: Any, rows: Arrays, precision: str) -> bytes:
    """Return the model as ONNX, with an input for each of the family's and its outputs."""
    if model.features.categorical:
        raise ValueError(
            f"its categorical columns ({', '.join(model.features.categorical)}) have no counterpart in ONNX"
        )
    texts = {name for name, values in rows.items() if values.dtype == object}
    first = None
    for names in _ways(model, texts):
        try:
            made = _of_library(model, names, rows, precision)
            return _finished(made, names, rows, precision, model).SerializeToString()
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


def _ways(model: Any, texts: set[str]) -> Iterator[tuple[str, ...]]:
    """Yield the inputs to convert with: one matrix where all are numbers, then a column each."""
    if not texts:
        yield (_MATRIX,)
    if model.features.names and not hasattr(model.fitted, "booster_") and not hasattr(model.fitted, "get_booster"):
        yield model.features.names


def _of_library(model: Any, names: tuple[str, ...], rows: Arrays, precision: str) -> Any:
    fitted = model.fitted
    if "booster" in type(fitted).__name__.lower() or hasattr(fitted, "booster_") or hasattr(fitted, "get_booster"):
        return _boosted(fitted, model.features.width, precision)
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    _register_boosters()
    numbers = DoubleTensorType if precision == "fp64" else FloatTensorType
    width = model.features.width if names == (_MATRIX,) else 1
    kinds = [
        (name, (StringTensorType if name in rows and rows[name].dtype == object else numbers)([None, width]))
        for name in names
    ]
    scores = any(column.name == "probabilities" for column in model.outputs)
    return convert_sklearn(
        fitted,
        initial_types=kinds,
        options={id(fitted): {"zipmap": False}} if scores else None,
        target_opset=_OPSETS,
    )


def _boosted(fitted: Any, width: int, precision: str) -> Any:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    kinds = [(_MATRIX, FloatTensorType([None, width]))]
    if not hasattr(fitted, "get_booster"):
        made = onnxmltools.convert_lightgbm(fitted, initial_types=kinds, zipmap=False)
        return in_doubles(made, getattr(fitted, "booster_", fitted)) if precision == "fp64" else made
    if precision == "fp64":
        raise ValueError("XGBoost itself compares in fp32")
    plain = copy.deepcopy(fitted)
    plain.get_booster().feature_names = None  # it takes no names but its own
    return onnxmltools.convert_xgboost(plain, initial_types=kinds)


def _register_boosters() -> None:
    """Let skl2onnx meet LightGBM's and XGBoost's classes inside of a pipeline."""
    from importlib.util import find_spec

    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    for library, shape, names in (
        ("lightgbm", "lightgbm", ("LGBMClassifier", "LGBMRegressor")),
        ("xgboost", "xgboost", ("XGBClassifier", "XGBRegressor")),
    ):
        if find_spec(library) is None or find_spec("onnxmltools") is None:
            continue
        import importlib

        module = importlib.import_module(library)
        where = {"lightgbm": "LightGbm", "xgboost": "XGBoost"}[shape]
        converters = importlib.import_module(f"onnxmltools.convert.{shape}.operator_converters.{where}")
        convert = getattr(converters, f"convert_{shape}")
        for name in names:
            classifies = name.endswith("Classifier")
            shapes = (
                calculate_linear_classifier_output_shapes if classifies else calculate_linear_regressor_output_shapes
            )
            options = {"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifies else {}
            if library == "lightgbm":
                options["split"] = [None, -1]
            update_registered_converter(getattr(module, name), f"Optinfer{name}", shapes, convert, options=options)


def _finished(made: Any, names: tuple[str, ...], rows: Arrays, precision: str, model: Any) -> Any:
    """Return a converted model that takes the family's inputs as they come, and gives its outputs by name."""
    import onnx

    graph = made.graph
    first, given = [], []
    for name, values in rows.items():
        text = values.dtype == object
        kind = onnx.TensorProto.STRING if text else onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        given.append(onnx.helper.make_tensor_value_info(name, kind, [None, values.shape[1]]))
    wanted = onnx.TensorProto.DOUBLE if precision == "fp64" else onnx.TensorProto.FLOAT
    if names == (_MATRIX,):
        inner = _renamed(graph, graph.input[0].name)
        first.append(onnx.helper.make_node("Concat", list(rows), ["optinfer_all"], axis=1))
        first.append(onnx.helper.make_node("Cast", ["optinfer_all"], [inner], to=wanted))
    else:
        for name, own in zip(names, [value.name for value in graph.input], strict=True):
            kind = onnx.TensorProto.STRING if rows[name].dtype == object else wanted
            first.append(onnx.helper.make_node("Cast", [name], [_renamed(graph, own)], to=kind))
    del graph.input[:]
    graph.input.extend(given)
    for node in reversed(first):
        graph.node.insert(0, node)
    _name_outputs(graph, model)
    return made


def _renamed(graph: Any, name: str) -> str:
    """Give another name to what the graph's nodes take by this one."""
    inner = f"optinfer_{name}"
    for node in graph.node:
        for i, taken in enumerate(node.input):
            if taken == name:
                node.input[i] = inner
    return inner


def _name_outputs(graph: Any, model: Any) -> None:
    """Give the family's outputs, in their own shapes and types: converters leave axes of one, and bools as numbers."""
    import onnx

    found = [output.name for output in graph.output]
    by_ours = {_NAMES.get(name, name): name for name in found}
    if model.classes is not None:
        by_ours = {"label": found[0], **({"probabilities": found[1]} if len(found) > 1 else {})}
    elif len(found) == 1:
        by_ours = {"prediction": found[0]}
    del graph.output[:]
    for column in model.outputs:
        taken = by_ours[column.name]
        shape = [-1, column.size] if column.size else [-1]
        graph.initializer.append(
            onnx.helper.make_tensor(f"optinfer_shape_{column.name}", onnx.TensorProto.INT64, [len(shape)], shape)
        )
        flat, kind = f"optinfer_{column.name}_flat", _ONNX.get(column.kind, onnx.TensorProto.FLOAT)
        if taken == column.name:
            inner = f"optinfer_{taken}"
            for node in graph.node:
                for names in (node.input, node.output):
                    for i, name in enumerate(names):
                        if name == taken:
                            names[i] = inner
            taken = inner
        graph.node.append(onnx.helper.make_node("Reshape", [taken, f"optinfer_shape_{column.name}"], [flat]))
        if column.kind == "string":
            graph.node.append(onnx.helper.make_node("Identity", [flat], [column.name]))
        else:
            graph.node.append(onnx.helper.make_node("Cast", [flat], [column.name], to=kind))
        graph.output.append(onnx.helper.make_tensor_value_info(column.name, kind, [None, *shape[1:]]))


# onnx.TensorProto's numbers.
_ONNX = {"double": 11, "long": 7, "boolean": 9, "string": 8}

technique = Technique(
    inputs=("pyfunc",),
    output="onnx",
    requires=("onnx", "onnxruntime", "skl2onnx", "onnxmltools"),
    extra="trees",
    defaults={"precisions": ("fp64", "fp32")},
    run=run,
)
