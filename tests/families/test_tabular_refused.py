"""What of tables' models is refused, and that it says why and what to do: files that run code, columns, environments."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from optinfer.errors import ConfigError
from optinfer.families import FAMILIES
from optinfer.system.machine import installed
from tests.conftest import located

NUMBERS = pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40.0) % 3})


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> Any:
        return Path.touch, (self.sprung,)


def family_of(path: Path, **settings: Any) -> Any:
    return FAMILIES.get("tabular").load(located(path, "tabular", **settings), settings)


def dumped(model: Any, path: Path) -> Path:
    import skops.io

    skops.io.dump(model, path)
    return path


def linear(path: Path, rows: pd.DataFrame = NUMBERS) -> Path:
    from sklearn.linear_model import LinearRegression

    return dumped(LinearRegression().fit(rows, np.arange(len(rows))), path)


def logged(folder: Path, model: Any, **more: Any) -> Path:
    """Return a folder as MLflow writes it."""
    import mlflow

    mlflow.sklearn.save_model(model, str(folder), pip_requirements=["scikit-learn"], **more)
    return folder


def test_opened_pickles_would_run_code_and_are_refused_by_any_name(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for name in ("m.pkl", "m.joblib", "m.json", "m.txt", "m.skops"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap(sprung)))
        with pytest.raises(ConfigError, match=r"any code when .*model\.allow_pickle: true"):
            family_of(tmp_path / name)
    assert not sprung.exists()
    with pytest.raises(ConfigError, match="has no predict"):
        FAMILIES.get("tabular").load(located(tmp_path / "m.pkl", "tabular", allow_pickle=True), {})
    assert sprung.exists(), "the trap works"


def test_flavors_that_run_code_are_refused_and_those_that_do_not_are_read(tmp_path: Path) -> None:
    import mlflow
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(NUMBERS, NUMBERS["a"])
    assert family_of(logged(tmp_path / "skops", model)).roles == ("a", "b")
    pickled = logged(tmp_path / "pickled", model, serialization_format="cloudpickle")

    class Sums(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input.sum(axis=1)

    function = tmp_path / "function"
    mlflow.pyfunc.save_model(str(function), python_model=Sums(), pip_requirements=["mlflow"])
    for folder in (pickled, function):
        with pytest.raises(ConfigError, match="can run any code when"):
            located(folder, "tabular")
    with pytest.raises(ConfigError, match=r"has no signature.*set_signature"):
        FAMILIES.get("tabular").load(located(function, "tabular", allow_pickle=True), {})


def test_types_that_skops_does_not_trust_are_named(tmp_path: Path) -> None:
    from sklearn.tree import DecisionTreeRegressor

    path = dumped(DecisionTreeRegressor().fit(NUMBERS, NUMBERS["a"]), tmp_path / "tree.skops")
    with pytest.raises(ConfigError, match=r"model\.trusted_types: \[sklearn\.tree\._tree\.Tree\]"):
        family_of(path)
    assert family_of(path, trusted_types=("sklearn.tree._tree.Tree",)).outputs == ("prediction",)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (pa.timestamp("us"), r"column 'a' holds timestamp\[us\], the model takes numbers and texts as 'a'"),
        (pa.date32(), "column 'a' holds date32"),
        (pa.list_(pa.float64()), "column 'a' holds list"),
        (pa.decimal128(9, 2), "column 'a' holds decimal128"),
    ],
)
def test_a_column_that_is_no_number_or_text_is_refused_by_name(tmp_path: Path, kind: pa.DataType, says: str) -> None:
    family = family_of(linear(tmp_path / "m.skops"))
    with pytest.raises(ConfigError, match=says):
        family.check(pa.schema([("a", kind), ("b", pa.float64())]), {"a": "a", "b": "b"})


def test_a_missing_column_is_named_with_the_way_to_map_it(tmp_path: Path) -> None:
    family = family_of(linear(tmp_path / "m.skops"))
    with pytest.raises(ConfigError, match=r"the table has no column 'a'; map it: source\.columns: \{'a': "):
        family.check(pa.schema([("A", pa.float64()), ("b", pa.float64())]), {"a": "a", "b": "b"})


def test_texts_for_a_booster_that_has_no_categories_are_refused_by_name(tmp_path: Path) -> None:
    import lightgbm

    lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(NUMBERS, NUMBERS["a"]).booster_.save_model(
        tmp_path / "m.txt"
    )
    family = family_of(tmp_path / "m.txt")
    with pytest.raises(ConfigError, match="column 'a' holds string, the model takes numbers as 'a'"):
        family.check(pa.schema([("a", pa.string()), ("b", pa.float64())]), {"a": "a", "b": "b"})


def test_features_of_one_name_are_refused_by_it(tmp_path: Path) -> None:
    """No library trains such a model; a file says what it likes."""
    import lightgbm

    path = tmp_path / "m.txt"
    lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(NUMBERS, NUMBERS["a"]).booster_.save_model(path)
    path.write_text(path.read_text().replace("feature_names=a b", "feature_names=a a"))
    with pytest.raises(ConfigError, match="several features of the name 'a'"):
        family_of(path)


def test_several_labels_a_row_are_refused(tmp_path: Path) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    labels = np.stack([NUMBERS["a"] > 20, NUMBERS["b"] > 1], axis=1)
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(KNeighborsClassifier().fit(NUMBERS, labels)))
    with pytest.raises(ConfigError, match="gives several labels a row; log it with MLflow as a python function"):
        FAMILIES.get("tabular").load(located(path, "tabular", allow_pickle=True), {})


def test_categories_that_xgboost_mixes_up_are_refused(tmp_path: Path) -> None:
    """Its own answers to its own file are wrong: it counts characters where it stores bytes."""
    import xgboost

    frame = pd.DataFrame({"c": pd.Categorical(["größer", "none", "other"] * 20)})
    model = xgboost.XGBClassifier(n_estimators=2, enable_categorical=True).fit(frame, frame["c"] == "other")
    model.save_model(tmp_path / "m.json")
    with pytest.raises(ConfigError, match="categories of 'c' with characters beyond ASCII"):
        family_of(tmp_path / "m.json")


def test_a_file_that_its_library_cannot_open_names_both(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps({"learner": 3}))
    with pytest.raises(ConfigError, match=r"xgboost cannot open .*m\.json"):
        family_of(tmp_path / "m.json")
    (tmp_path / "m.txt").write_text("no trees")
    with pytest.raises(ConfigError, match=r"lightgbm cannot open .*m\.txt"):
        family_of(tmp_path / "m.txt")


def test_a_model_of_other_versions_is_refused_with_the_command(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    folder = logged(tmp_path / "m", LinearRegression().fit(NUMBERS, NUMBERS["a"]))
    requirements = folder / "requirements.txt"
    # What else was imported when it was logged does not matter; nor what holds here, or is for another platform.
    requirements.write_text(f"mlflow==1.0\npytest==1.0\nscikit-learn=={installed('scikit-learn')}\n-r other.txt\n")
    assert family_of(folder).roles == ("a", "b")
    requirements.write_text("scikit-learn==0.24.2\nscikit-learn==1.0; sys_platform == 'win32'\n")
    with pytest.raises(ConfigError, match=rf"scikit-learn 0\.24\.2 \(here is .*pip install optinfer -r {requirements}"):
        family_of(folder)
    assert family_of(folder, any_versions=True).roles == ("a", "b")


def test_a_description_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    linear(tmp_path / "outside.skops")
    folder = tmp_path / "m"
    folder.mkdir()
    for flavors, says in (
        ({"sklearn": {"pickled_model": "../outside.skops"}}, "lies outside of the model"),
        ({"sklearn": [1]}, "is no description of an MLflow model"),
        ({"spark": {}}, "has the flavors spark, of which none scores tables"),
    ):
        (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))
        with pytest.raises(ConfigError, match=says):
            located(folder, "tabular")


def test_settings_of_classes_are_refused_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.top_k and model\.probabilities are for classes"):
        family_of(linear(tmp_path / "m.skops"), top_k=2)
