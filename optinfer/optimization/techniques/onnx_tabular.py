"""Convert a table's model to ONNX: skl2onnx for scikit-learn, onnxmltools for XGBoost and LightGBM.

ONNX's trees compare and add in fp32 where these libraries compare doubles: a value that lies on a threshold to seven
digits may go the other way. So a model is converted in doubles, too, where its converter and ONNX Runtime can, and what
agrees with the library on more of the calibration rows is kept; what still differs there is noted, and on rows that
nobody chose the gate measures it.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from importlib.util import find_spec
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
# Package, how its classes begin, and the module of their converter.
_BOOSTERS = (("lightgbm", "LGBM", "LightGbm"), ("xgboost", "XGB", "XGBoost"))


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    model, rows = context.family.load_module(), _together(context)
    expected = model(rows)
    failures: list[str] = []
    best: tuple[bytes, float, str] | None = None
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
    apart = f"{round((1 - share) * count)} of {count} calibration rows are answered otherwise than by the library"
    return Change(format="onnx", precision=precision, notes=() if share == 1 else (apart,))


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
    """Return what ONNX Runtime says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(list(outputs), rows), strict=True))


def _converted(model: Any, rows: Arrays, precision: str) -> bytes:
    """Return the model as ONNX, with an input for each of the family's and its outputs."""
    if "mlflow" in model.library:
        raise ValueError("it is a Python function, of which nobody knows what it computes")
    if model.features.categorical:
        raise ValueError(
            f"its categorical columns ({', '.join(model.features.categorical)}) have no counterpart in ONNX"
        )
    texts = {name for name, values in rows.items() if values.dtype == object}
    first: Exception | None = None
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
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator

    for library, prefix, module in _BOOSTERS:
        if find_spec(library) is None:
            continue
        converters = importlib.import_module(f"onnxmltools.convert.{library}.operator_converters.{module}")
        for kind in ("classifier", "regressor"):
            options: dict[str, list[object]] = {"split": [None, -1]} if library == "lightgbm" else {}
            if kind == "classifier":
                options |= {"nocl": [True, False], "zipmap": [True, False, "columns"]}
            update_registered_converter(
                getattr(importlib.import_module(library), f"{prefix}{kind.title()}"),
                f"{prefix}{kind.title()}",
                getattr(shape_calculator, f"calculate_linear_{kind}_output_shapes"),
                getattr(converters, f"convert_{library}"),
                options=options,
            )


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
        inner = "optinfer_matrix"
        _replace(graph, graph.input[0].name, inner)
        first.append(onnx.helper.make_node("Concat", list(rows), ["optinfer_all"], axis=1))
        first.append(onnx.helper.make_node("Cast", ["optinfer_all"], [inner], to=wanted))
    else:
        for name, own in zip(names, [value.name for value in graph.input], strict=True):
            kind = onnx.TensorProto.STRING if rows[name].dtype == object else wanted
            inner = f"optinfer_{name}"
            _replace(graph, own, inner)
            first.append(onnx.helper.make_node("Cast", [name], [inner], to=kind))
    del graph.input[:]
    graph.input.extend(given)
    for node in reversed(first):
        graph.node.insert(0, node)
    _name_outputs(graph, model)
    return made


def _name_outputs(graph: Any, model: Any) -> None:
    """Give the family's outputs, in their own shapes and types: converters leave axes of one, and bools as numbers."""
    import onnx

    found = [output.name for output in graph.output]  # a classifier's label is first
    for i, name in enumerate(found):
        _replace(graph, name, f"optinfer_given_{i}")
    del graph.output[:]
    for i, column in enumerate(model.outputs):
        shape, flat = [-1, column.size] if column.size else [-1], f"optinfer_flat_{i}"
        kind = _ONNX.get(column.kind, onnx.TensorProto.FLOAT)
        graph.initializer.append(
            onnx.helper.make_tensor(f"optinfer_shape_{i}", onnx.TensorProto.INT64, [len(shape)], shape)
        )
        graph.node.append(onnx.helper.make_node("Reshape", [f"optinfer_given_{i}", f"optinfer_shape_{i}"], [flat]))
        graph.node.append(onnx.helper.make_node("Cast", [flat], [column.name], to=kind))
        graph.output.append(onnx.helper.make_tensor_value_info(column.name, kind, [None, *shape[1:]]))


def _replace(graph: Any, name: str, by: str) -> None:
    """Rename what nodes take and give."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, own in enumerate(names):
                if own == name:
                    names[i] = by


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
