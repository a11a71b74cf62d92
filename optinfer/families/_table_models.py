"""Tables' models, opened by the library that they came from, and called with arrays of a micro-batch.

Nothing here computes: a data frame of the columns goes to the library's own `predict` and `predict_proba`. XGBoost's
and LightGBM's files answer as their scikit-learn classes do: an objective of classes gives labels and probabilities.
"""

from __future__ import annotations

import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optinfer.errors import ConfigError
from optinfer.families import Arrays
from optinfer.models.tables import LIBRARIES, Column, Described
from optinfer.system.machine import installed

LABEL, PROBABILITIES, PREDICTION = "label", "probabilities", "prediction"
# The only input of a model that does not name its features.
FEATURES = "features"
_UNPICKLES = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
_OPENING = threading.Lock()
_CLASS_OBJECTIVES = ("binary:logistic", "multi:softprob", "multi:softmax")
_CLASS_OBJECTIVES_LIGHTGBM = ("binary", "multiclass", "multiclassova")


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a model takes.

    Attributes:
        names: of its columns, in order; empty where it knows only how many there are.
        width: how many.
        kinds: by name, MLflow's word for the type where a signature binds it.
        categorical: names of the columns that the library takes as categories.
        numeric: all but the categorical ones have to be numbers.
    """

    names: tuple[str, ...]
    width: int
    kinds: Mapping[str, str]
    categorical: tuple[str, ...] = ()
    numeric: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.names or (FEATURES,)


class TableModel(ABC):
    """A model that its library has opened; a call takes and gives arrays, rows first.

    Attributes:
        library: package -> version of what computes.
        features: what it takes.
        outputs: what it gives: `label` and `probabilities`, `prediction`, or what its signature names.
        classes: (classes,) in the order of the probabilities; None where it gives no classes.
    """

    features: Features
    outputs: tuple[Column, ...]
    classes: np.ndarray[Any, Any] | None = None

    def __init__(self, described: Described, fitted: Any) -> None:
        package = LIBRARIES[described.library]
        self.library = {package: installed(package)}
        self.fitted = fitted

    def __call__(self, inputs: Arrays) -> Arrays:
        return self.predict(self.frame(inputs))

    def frame(self, inputs: Arrays) -> Any:
        """Return the data frame, or the matrix of a model without names, that holds these columns."""
        if not self.features.names:
            return inputs[FEATURES]
        import pandas as pd

        return self.as_categories(pd.DataFrame({name: inputs[name][:, 0] for name in self.features.names}))

    def as_categories(self, frame: Any) -> Any:
        """Give columns that the library takes as categories the type that says so: it has its own codes for them."""
        for name in self.features.categorical:
            frame[name] = frame[name].astype("category")
        return frame

    @abstractmethod
    def predict(self, frame: Any) -> Arrays:
        """Return what the library says of a data frame's rows."""

    def use_threads(self, threads: int) -> None:  # noqa: B027 MLflow's models have no such word
        """Compute with so many threads at most."""


def load(described: Described, trusted: Sequence[str]) -> TableModel:
    """Open a model with its own library.

    Args:
        trusted: types of a skops file that the job trusts beside those that skops does.

    Raises:
        ConfigError: the library refuses the file, or the model is none of those that score rows of columns.
    """
    try:
        model = _loaded(described, trusted)
    except ImportError as error:
        raise ConfigError(
            f"{described.file}: {error}; install what it needs (pip install 'optinfer[trees]')"
        ) from error
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{described.library} cannot open {described.file}: {type(error).__name__}: {str(error)[:500]}; save the "
            "model again with the version that is installed here"
        ) from error
    names = model.features.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"{described.file} has several features of the name {twice[0]!r}, and a table's columns are told apart by "
            "name; train it on columns of different names"
        )
    return model


def _loaded(described: Described, trusted: Sequence[str]) -> TableModel:
    if described.library == "xgboost":
        return _xgboost(described)
    if described.library == "lightgbm" and described.file.suffix in (".txt", ".lgb"):
        return LightGbm(described, _booster(described.file))
    if described.library == "pyfunc":
        return Pyfunc(described, _opened_by_mlflow(described.file))
    return Estimator(described, _opened(described.file, trusted))


class Estimator(TableModel):
    """A fitted estimator with scikit-learn's methods; XGBoost's and LightGBM's classes have them, too."""

    def __init__(self, described: Described, fitted: Any) -> None:
        from sklearn.base import is_classifier

        super().__init__(described, fitted)
        if not hasattr(fitted, "predict"):
            raise ConfigError(
                f"{described.file} is a {type(fitted).__name__}, which has no predict; save a fitted model"
            )
        self.features = _features_of(described, fitted)
        if not is_classifier(fitted):
            self.outputs = (Column(name=PREDICTION, kind="double", size=_targets(fitted)),)
            return
        classes = fitted.classes_
        if isinstance(classes, list):
            raise ConfigError(
                f"{described.file} gives several labels a row; log it with MLflow as a python function whose signature "
                "names the columns that it gives"
            )
        self.classes = _plain(np.asarray(classes))
        labels = Column(name=LABEL, kind=_kind(self.classes))
        scores = Column(name=PROBABILITIES, kind="double", size=len(self.classes))
        self.outputs = (labels, scores) if hasattr(fitted, "predict_proba") else (labels,)

    def predict(self, frame: Any) -> Arrays:
        answers = np.asarray(self.fitted.predict(frame))
        if self.classes is None:
            return {PREDICTION: answers.astype(np.float64)}
        if len(self.outputs) == 1:
            return {LABEL: _plain(answers)}
        return {LABEL: _plain(answers), PROBABILITIES: np.asarray(self.fitted.predict_proba(frame), dtype=np.float64)}

    def use_threads(self, threads: int) -> None:
        if hasattr(self.fitted, "get_booster"):
            self.fitted.get_booster().set_param({"nthread": threads})
            return
        named = [name for name in self.fitted.get_params(deep=True) if name.rpartition("__")[2] == "n_jobs"]
        self.fitted.set_params(**dict.fromkeys(named, threads))


class LightGbm(TableModel):
    """A booster from LightGBM's own file; the file does not say what its classes were called."""

    def __init__(self, described: Described, fitted: Any) -> None:
        super().__init__(described, fitted)
        self._threads = 0
        names = tuple(fitted.feature_name())
        made_up = names == tuple(f"Column_{i}" for i in range(len(names)))
        self.features = Features(
            names=() if made_up else _as_given(names, described),
            width=len(names),
            kinds={},
            categorical=_categorical_of(fitted),
            numeric=True,
        )
        if _objective(fitted) not in _CLASS_OBJECTIVES_LIGHTGBM:
            self.outputs = (Column(name=PREDICTION, kind="double"),)
            return
        count = max(fitted.num_model_per_iteration(), 2)
        self.classes = np.arange(count)
        self.outputs = (Column(name=LABEL, kind="long"), Column(name=PROBABILITIES, kind="double", size=count))

    def predict(self, frame: Any) -> Arrays:
        answers = np.asarray(self.fitted.predict(frame, num_threads=self._threads), dtype=np.float64)
        if self.classes is None:
            return {PREDICTION: answers}
        shares = np.stack([1 - answers, answers], axis=1) if answers.ndim == 1 else answers
        return {LABEL: shares.argmax(axis=1), PROBABILITIES: shares}

    def use_threads(self, threads: int) -> None:
        self._threads = threads


class Pyfunc(TableModel):
    """What MLflow opens: its signature says what it takes and gives."""

    def __init__(self, described: Described, fitted: Any) -> None:
        super().__init__(described, fitted)
        self._matrix = len(described.inputs) == 1 and described.inputs[0].size is not None
        if not described.inputs or not described.outputs:
            raise ConfigError(
                f"{described.file} has no signature, so nobody knows its columns; log it with one "
                "(signature=mlflow.models.infer_signature(inputs, outputs), or mlflow.models.set_signature)"
            )
        self.features = Features(
            names=() if self._matrix else tuple(column.name for column in described.inputs),
            width=described.inputs[0].size or 0 if self._matrix else len(described.inputs),
            kinds={FEATURES if self._matrix else column.name: column.kind for column in described.inputs},
        )
        only = len(described.outputs) == 1
        self.outputs = tuple(
            Column(name=PREDICTION if only and c.name == "0" else c.name, kind=c.kind, size=c.size)
            for c in described.outputs
        )

    def predict(self, frame: Any) -> Arrays:
        answers = self.fitted.predict(frame)
        if len(self.outputs) == 1:
            return {self.outputs[0].name: _plain(np.asarray(answers).reshape(len(frame), -1), squeeze=True)}
        return {column.name: _plain(np.asarray(answers[column.name])) for column in self.outputs}


def _xgboost(described: Described) -> TableModel:
    """Open XGBoost's file by the class that its objective is for."""
    import xgboost

    booster = xgboost.Booster(model_file=str(described.file))
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    fitted = xgboost.XGBClassifier() if objective in _CLASS_OBJECTIVES else xgboost.XGBRegressor()
    fitted.load_model(str(described.file))
    return Estimator(described, fitted)


def _booster(file: Path) -> Any:
    import lightgbm

    return lightgbm.Booster(model_file=str(file))


def _opened(file: Path, trusted: Sequence[str]) -> Any:
    """Open skops with the types that are trusted; anything else is a pickle, which the job has allowed."""
    if file.suffix != ".skops":
        import joblib

        return joblib.load(file)
    from skops.io import get_untrusted_types, load

    libraries = [*_TRUSTED, *trusted]
    if unknown := sorted(set(get_untrusted_types(file=file)) - set(libraries)):
        raise ConfigError(
            f"{file} holds objects of types that are not trusted: {', '.join(unknown)}; a file can do harm through "
            f"them. If you trust where it comes from: model.trusted_types: [{', '.join(unknown)}]"
        )
    return load(file, trusted=libraries)


# What LightGBM's classes are made of: a booster is read from its own text.
_TRUSTED = (
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
)


def _opened_by_mlflow(folder: Path) -> Any:
    """Open what the job has allowed to run code; whatever else this process opens is not allowed to."""
    from mlflow import pyfunc

    with _OPENING:  # replicas of one process open it at the same time
        before = os.environ.get(_UNPICKLES)
        os.environ[_UNPICKLES] = "true"
        try:
            return pyfunc.load_model(str(folder), suppress_warnings=True)
        finally:
            os.environ.pop(_UNPICKLES)
            if before is not None:
                os.environ[_UNPICKLES] = before


def _features_of(described: Described, fitted: Any) -> Features:
    booster = fitted.get_booster() if hasattr(fitted, "get_booster") else None
    lightgbm = getattr(fitted, "booster_", None)
    names = tuple(map(str, getattr(fitted, "feature_names_in_", ())))
    if booster is not None:
        names = tuple(booster.feature_names or ())
    elif lightgbm is not None:
        made_up = names == tuple(f"Column_{i}" for i in range(len(names)))
        names = () if made_up else _as_given(names, described)
    categorical: tuple[str, ...] = ()
    if booster is not None:
        categorical = _categories_of(described, booster)
    elif lightgbm is not None:
        categorical = _categorical_of(lightgbm)
    width = booster.num_features() if booster is not None else int(fitted.n_features_in_)
    of_trees = booster is not None or lightgbm is not None
    return Features(names=names, width=len(names) or width, kinds={}, categorical=categorical, numeric=of_trees)


def _as_given(names: tuple[str, ...], described: Described) -> tuple[str, ...]:
    """Return the names that a signature has for LightGBM's features: it writes no spaces."""
    said = tuple(column.name for column in described.inputs)
    return said if tuple(name.replace(" ", "_") for name in said) == names else names


def _categories_of(described: Described, booster: Any) -> tuple[str, ...]:
    """Name XGBoost's categorical features, once its file is known to hold their categories, and to hold them right."""
    if "c" not in (booster.feature_types or ()):
        return ()
    held = dict(booster.get_categories(export_to_arrow=True).to_arrow() or ())
    lacking = [
        n
        for n, kind in zip(booster.feature_names, booster.feature_types, strict=True)
        if kind == "c" and not held.get(n)
    ]
    if lacking:
        raise ConfigError(
            f"{described.file} has codes of categories for {', '.join(lacking)}, and not which they stand for: "
            "XGBoost keeps those from 3.1 on; train and save it with a data frame and such a version"
        )
    for name, values in held.items():
        # 3.2 counts characters where it stores bytes: of "größer" and "e" it makes "größ" and "er".
        if values is not None and any(not text.isascii() for text in _bytes(values)):
            raise ConfigError(
                f"{described.file} has categories of {name!r} with characters beyond ASCII, which XGBoost mixes up "
                "when it stores them: its answers are wrong wherever it is opened; train it with categories in ASCII"
            )
    return tuple(name for name, values in held.items() if values is not None)


def _bytes(values: Any) -> list[bytes]:
    """Return texts as they are stored; nothing of categories that are numbers."""
    import pyarrow as pa

    texts = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    return values.cast(pa.large_binary()).to_pylist() if texts else []


def _categorical_of(booster: Any) -> tuple[str, ...]:
    """Name LightGBM's features that came as a data frame's categories: others are plain whole numbers."""
    categories = booster.pandas_categorical or []
    if not categories:
        return ()
    text = booster.model_to_string(num_iteration=1)
    infos = next(line for line in text.splitlines() if line.startswith("feature_infos="))
    told = infos.removeprefix("feature_infos=").split()
    names = booster.feature_name()
    found = tuple(name for name, info in zip(names, told, strict=True) if not info.startswith("[") and info != "none")
    if len(found) != len(categories):
        raise ConfigError(
            f"LightGBM has categories of {len(categories)} columns and uses {len(found)} of them, so which are "
            "which is not in its file; train it without the columns that have one value only"
        )
    return found


def _objective(booster: Any) -> str:
    lines = booster.model_to_string(num_iteration=1).splitlines()
    said = next((line for line in lines if line.startswith("objective=")), "")
    return str(said.removeprefix("objective=").split(" ")[0])


def _targets(fitted: Any) -> int | None:
    """Return how many numbers a regression gives a row, None for a plain one."""
    last = fitted[-1] if hasattr(fitted, "steps") else fitted
    count = int(getattr(last, "n_outputs_", 0) or 0)
    coefficients = getattr(last, "coef_", None)
    if not count and coefficients is not None and np.ndim(coefficients) == 2:
        count = len(coefficients)
    if hasattr(last, "get_booster"):
        learner = json.loads(last.get_booster().save_config())["learner"]
        count = int(learner["learner_model_param"].get("num_target", 1))
    return count if count > 1 else None


def _plain(values: np.ndarray[Any, Any], squeeze: bool = False) -> np.ndarray[Any, Any]:
    """Return labels or numbers in a type that Arrow has: texts as objects, whole numbers in 64 bits."""
    if squeeze and values.shape[1:] == (1,):
        values = values[:, 0]
    if values.dtype.kind in "US" or (values.dtype == object and all(isinstance(v, str) for v in values.ravel())):
        return np.asarray(values.astype(str).astype(object))
    if values.dtype == object:
        values = np.array(values.tolist())
    if values.dtype.kind not in "iubf":
        raise ConfigError(
            f"the model answers {values.dtype}, of which no column can be made; let it answer numbers or texts"
        )
    return values.astype(np.int64) if values.dtype.kind in "iu" else values


def _kind(values: np.ndarray[Any, Any]) -> str:
    return {"i": "long", "b": "boolean", "f": "double"}.get(values.dtype.kind, "string")
