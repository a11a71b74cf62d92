"""Models of scikit-learn, LightGBM and XGBoost as their converters write them, with what those libraries answer.

Every classifier is written twice: as the converter does by default (scores as dictionaries), and with zipmap off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROWS = 64
FEATURES = 8
CITIES = np.array(["Berlin", "Łódź", "東京"], dtype=object)


@dataclass(frozen=True)
class Converted:
    """An ONNX model, rows with a column per input, and what the library that trained it says of each.

    Attributes:
        columns: role -> source columns, as in a job.
        expected: output -> the library's own answers, one a row.
    """

    content: bytes
    table: pa.Table
    columns: dict[str, Any]
    expected: dict[str, list[Any]]

    def write(self, folder: Path) -> Path:
        path = folder / "model.onnx"
        path.write_bytes(self.content)
        return path


@cache
def _data() -> tuple[Any, Any, Any]:
    """Return (features in fp32, so that no library sees other digits, classes 0 to 2, a number)."""
    from sklearn.datasets import make_classification

    features, classes = make_classification(600, FEATURES, n_informative=6, n_classes=3, random_state=0)
    features = features.astype(np.float32)
    return features, classes, features[:, 0] * 3 - features[:, 3] ** 2


def _cities(classes: Any) -> Any:
    return CITIES[classes]


def _features(name: str) -> tuple[pa.Table, dict[str, Any]]:
    """Return the rows that are scored, none of them seen in training."""
    columns = {f"f{i}": _data()[0][-ROWS:, i] for i in range(FEATURES)}
    return pa.table(columns), {name: [*columns]}


def _sklearn(model: Any, target: Any, zipmap: bool = True, probabilities: bool = True) -> Converted:
    from skl2onnx import to_onnx

    features = _data()[0]
    model.fit(features[:-ROWS], target[:-ROWS])
    unseen = features[-ROWS:]
    table, columns = _features("X")
    expected: dict[str, list[Any]] = {}
    options = None
    if not probabilities:
        expected["variable"] = model.predict(unseen).reshape(ROWS, -1).tolist()
    else:
        names = ("output_label", "output_probability") if zipmap else ("label", "probabilities")
        expected = {names[0]: model.predict(unseen).tolist(), names[1]: model.predict_proba(unseen).tolist()}
        options = None if zipmap else {id(model): {"zipmap": False}}
    content = to_onnx(model, features[:1], options=options).SerializeToString()
    return Converted(content, table, columns, expected)


def _linear(zipmap: bool) -> Converted:
    from sklearn.linear_model import LogisticRegression

    return _sklearn(LogisticRegression(max_iter=500), _cities(_data()[1]), zipmap)


def _forest(zipmap: bool) -> Converted:
    from sklearn.ensemble import RandomForestClassifier

    return _sklearn(RandomForestClassifier(20, max_depth=6, random_state=0), _data()[1], zipmap)


def _boosted(zipmap: bool) -> Converted:
    from sklearn.ensemble import GradientBoostingClassifier

    return _sklearn(GradientBoostingClassifier(n_estimators=10, random_state=0), _cities(_data()[1]), zipmap)


def _extra_trees(zipmap: bool) -> Converted:
    from sklearn.ensemble import ExtraTreesClassifier

    return _sklearn(ExtraTreesClassifier(10, max_depth=6, random_state=0), _data()[1] % 2, zipmap)


def _vectors(zipmap: bool) -> Converted:
    from sklearn.svm import SVC

    return _sklearn(SVC(probability=True, random_state=0), _data()[1], zipmap)


def _perceptron(zipmap: bool) -> Converted:
    from sklearn.neural_network import MLPClassifier

    return _sklearn(MLPClassifier((16,), max_iter=300, random_state=0), _cities(_data()[1]), zipmap)


def _neighbours(zipmap: bool) -> Converted:
    from sklearn.neighbors import KNeighborsClassifier

    return _sklearn(KNeighborsClassifier(), _data()[1], zipmap)


def _bayes(zipmap: bool) -> Converted:
    from sklearn.naive_bayes import GaussianNB

    return _sklearn(GaussianNB(), _data()[1], zipmap)


def _pipeline(zipmap: bool) -> Converted:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _sklearn(make_pipeline(StandardScaler(), LogisticRegression()), _data()[1], zipmap)


def _multi_label(zipmap: bool) -> Converted:
    """Its dictionaries are of no use to anyone: ONNX Runtime refuses to make them (tests/families/test_tensor.py)."""
    from sklearn.neural_network import MLPClassifier

    target = np.stack([_data()[1] > 0, _data()[1] > 1], axis=1).astype(int)
    made = _sklearn(MLPClassifier((16,), max_iter=300, random_state=0), target, zipmap)
    if zipmap:
        return made
    # The converter writes the share of those without each label, then of those with it.
    both = [[*(1 - share for share in row), *row] for row in made.expected["probabilities"]]
    return Converted(made.content, made.table, made.columns, {**made.expected, "probabilities": both})


def _regression() -> Converted:
    from sklearn.linear_model import LinearRegression

    return _sklearn(LinearRegression(), _data()[2], probabilities=False)


def _forest_regression() -> Converted:
    from sklearn.ensemble import RandomForestRegressor

    return _sklearn(RandomForestRegressor(10, random_state=0), _data()[2], probabilities=False)


def _doubles() -> Converted:
    """All of its digits count: in fp32 it would be off by 4e-7 of its size."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LinearRegression

    features, _, number = _data()
    model = LinearRegression().fit(features[:-ROWS].astype(np.float64), number[:-ROWS].astype(np.float64))
    unseen = features[-ROWS:].astype(np.float64)
    table, columns = _features("X")
    content = to_onnx(model, unseen[:1]).SerializeToString()
    return Converted(content, table, columns, {"variable": model.predict(unseen).reshape(ROWS, 1).tolist()})


def _two_numbers() -> Converted:
    from sklearn.linear_model import LinearRegression

    target = np.stack([_data()[2], _data()[2] ** 2], axis=1)
    return _sklearn(LinearRegression(), target, probabilities=False)


def _table(zipmap: bool) -> Converted:
    """A column each for two numbers and two texts: scikit-learn's ColumnTransformer on a data frame."""
    import pandas as pd
    from skl2onnx import to_onnx
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    features, classes, _ = _data()
    frame = pd.DataFrame(
        {
            "age": features[:, 0],
            "spend": features[:, 1],
            "city": _cities((classes + np.arange(len(classes)) % 2) % 3),
            "plan": np.array(["free", "paid"], dtype=object)[np.arange(len(classes)) % 2],
        }
    )
    numbers, texts = ("numbers", StandardScaler(), ["age", "spend"]), ("texts", OneHotEncoder(), ["city", "plan"])
    model = make_pipeline(ColumnTransformer([numbers, texts]), LogisticRegression())
    model.fit(frame[:-ROWS], classes[:-ROWS])
    options = None if zipmap else {id(model): {"zipmap": False}}
    content = to_onnx(model, frame[:1], options=options).SerializeToString()
    unseen = frame[-ROWS:]
    names = ("output_label", "output_probability") if zipmap else ("label", "probabilities")
    expected = {names[0]: model.predict(unseen).tolist(), names[1]: model.predict_proba(unseen).tolist()}
    table = pa.table({name: pa.array(unseen[name].tolist()) for name in frame})
    return Converted(content, table, {name: name for name in frame}, expected)


def _boosters(convert: str, model: Any, target: Any, classifies: bool = True, **options: Any) -> Converted:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    features = _data()[0]
    model.fit(features[:-ROWS], target[:-ROWS])
    unseen = features[-ROWS:]
    made = getattr(onnxmltools, convert)(
        model, initial_types=[("input", FloatTensorType([None, FEATURES]))], target_opset=15, **options
    )
    table, columns = _features("input")
    predicted = model.predict(unseen)
    if classifies:
        expected = {"label": predicted.tolist(), "probabilities": model.predict_proba(unseen).tolist()}
    else:
        expected = {"variable": predicted.reshape(ROWS, 1).tolist()}
    return Converted(made.SerializeToString(), table, columns, expected)


def _lightgbm(zipmap: bool) -> Converted:
    import lightgbm

    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1)
    return _boosters("convert_lightgbm", model, _cities(_data()[1]), zipmap=zipmap)


def _lightgbm_regression() -> Converted:
    import lightgbm

    model = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1, n_jobs=1)
    return _boosters("convert_lightgbm", model, _data()[2], classifies=False)


def _xgboost() -> Converted:
    import xgboost

    return _boosters("convert_xgboost", xgboost.XGBClassifier(n_estimators=10, n_jobs=1), _data()[1])


def _xgboost_regression() -> Converted:
    import xgboost

    return _boosters("convert_xgboost", xgboost.XGBRegressor(n_estimators=10, n_jobs=1), _data()[2], classifies=False)


_BOTH_WAYS: dict[str, Callable[[bool], Converted]] = {
    "scikit-learn LogisticRegression, text labels": _linear,
    "scikit-learn RandomForestClassifier": _forest,
    "scikit-learn GradientBoostingClassifier, text labels": _boosted,
    "scikit-learn ExtraTreesClassifier, two classes": _extra_trees,
    "scikit-learn SVC": _vectors,
    "scikit-learn MLPClassifier, text labels": _perceptron,
    "scikit-learn KNeighborsClassifier": _neighbours,
    "scikit-learn GaussianNB": _bayes,
    "scikit-learn Pipeline of StandardScaler and LogisticRegression": _pipeline,
    "scikit-learn ColumnTransformer of numbers and texts": _table,
    "LightGBM LGBMClassifier, text labels": _lightgbm,
}
_ONE_WAY: dict[str, Callable[[], Converted]] = {
    "scikit-learn MLPClassifier, several labels a row, zipmap off": lambda: _multi_label(False),
    "scikit-learn LinearRegression": _regression,
    "scikit-learn LinearRegression in doubles": _doubles,
    "scikit-learn LinearRegression of two numbers": _two_numbers,
    "scikit-learn RandomForestRegressor": _forest_regression,
    "LightGBM LGBMRegressor": _lightgbm_regression,
    "XGBoost XGBClassifier": _xgboost,
    "XGBoost XGBRegressor": _xgboost_regression,
}


def models() -> dict[str, Callable[[], Converted]]:
    """Return name -> what trains and converts a model; a classifier once with dictionaries and once without."""
    made = dict(_ONE_WAY)
    for name, build in _BOTH_WAYS.items():
        made[name] = lambda build=build: build(True)  # type: ignore[misc]
        made[f"{name}, zipmap off"] = lambda build=build: build(False)  # type: ignore[misc]
    return {name: _quietly(build) for name, build in made.items()}


def _quietly(build: Callable[[], Converted]) -> Callable[[], Converted]:
    def built() -> Converted:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build()

    return built


def rows() -> list[dict[str, Any]]:
    """Return what the table of the documentation lists: family, name, and what writes a model and its rows."""
    return [{"family": "tensor", "name": name, "write": partial(_written, build)} for name, build in models().items()]


def _written(build: Callable[[], Converted], folder: Path) -> tuple[Path, pa.Table, dict[str, Any]]:
    made = build()
    return made.write(folder), made.table, made.columns
