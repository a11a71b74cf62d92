"""Tables' models answer as their own libraries do: opened by those, and as ONNX, on rows that were not trained on.

Models are trained here on the tables that scikit-learn ships, and on rows that are hard on purpose.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from optinfer.errors import NoVariantError
from optinfer.families import FAMILIES, as_roles
from optinfer.inference.preparing import prepare
from optinfer.inference.replica import Replica, ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.optimization import build
from optinfer.optimization.gate import agreement
from optinfer.optimization.techniques import BuildContext
from optinfer.optimization.variants import VARIANTS
from tests.conftest import located

warnings.simplefilter("ignore")
LIBRARY_THREADS = 1


@dataclass
class Trained:
    """A fitted model, and rows that it has not seen; `expected` is what its library says of them.

    Attributes:
        file: the name it is saved by.
        save: writes it.
        unconvertible: why there is no ONNX of it, or nothing.
        settings: of the job's model.
    """

    file: str
    save: Callable[[Path], Any]
    rows: pd.DataFrame
    expected: dict[str, Any]
    unconvertible: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def of_sklearn(model: Any, rows: pd.DataFrame, file: str = "model.skops", given: Any = None, **more: Any) -> Trained:
    """Return a fitted estimator, and its answers to `given`, by default to the rows as they are."""
    import joblib
    import skops.io

    def save(path: Path) -> None:
        skops.io.dump(model, path) if path.suffix == ".skops" else joblib.dump(model, path)

    return Trained(file, save, rows, answers_of(model, rows if given is None else given), **more)


def answers_of(model: Any, rows: Any) -> dict[str, Any]:
    if not hasattr(model, "classes_"):
        return {"prediction": np.asarray(model.predict(rows), dtype=np.float64)}
    label = {"label": np.asarray(model.predict(rows))}
    return label | ({"probabilities": np.asarray(model.predict_proba(rows))} if hasattr(model, "predict_proba") else {})


def shipped(name: str, holes: float = 0.0) -> tuple[pd.DataFrame, Any, pd.DataFrame]:
    """Return one of scikit-learn's tables: rows to train on, their target, rows to score; with values missing."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    rows, target = getattr(datasets, f"load_{name}")(return_X_y=True, as_frame=True)
    rows = rows.mask(np.random.default_rng(0).random(rows.shape) < holes)
    train, unseen, known, _ = train_test_split(rows, target, test_size=0.4, random_state=0)
    return train, known, unseen.reset_index(drop=True)


def customers(rows: int = 400) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    """Return made-up customers, texts and numbers with what is missing, and which of them left."""
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "âge du client": rng.normal(45, 12, rows),
            "visits": rng.integers(0, 2**31, rows),
            "active": rng.random(rows) < 0.5,
            "plan": rng.choice(["free", "pro", "größer", "无"], rows),
            "city": rng.choice(["Köln", "Paris", "São Paulo"], rows),
            "constant": np.ones(rows),
        }
    )
    left = (frame["âge du client"] / 20 + (frame["plan"] == "free") + rng.normal(0, 0.5, rows) > 3).to_numpy()
    frame.loc[rng.random(rows) < 0.1, "âge du client"] = np.nan
    return frame, left


def pipeline(encoder: Any, last: Any, texts: tuple[str, ...] = ("plan", "city")) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    numbers = ["âge du client", "visits", "active", "constant"]
    columns = ColumnTransformer(
        [("n", make_pipeline(SimpleImputer(), StandardScaler()), numbers), ("t", encoder, list(texts))]
    )
    return make_pipeline(columns, last)


def logistic() -> Trained:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, known, unseen = shipped("breast_cancer")
    return of_sklearn(make_pipeline(StandardScaler(), LogisticRegression()).fit(train, known), unseen)


def one_hot() -> Trained:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    frame, left = customers()
    model = pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    unseen = frame[300:].reset_index(drop=True)
    unseen.loc[3, "city"] = "a city that nobody has seen"
    model.fit(frame[:300], np.where(left, "left", "stays")[:300])
    return of_sklearn(model, unseen, settings={"trusted_types": ("numpy.dtype",)})


def missing_texts() -> Trained:
    """A null is a category like another where training had some."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    frame, left = customers()
    frame["plan"] = frame["plan"].mask(frame["plan"] == "pro")
    model = pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    return of_sklearn(model.fit(frame[:300], left[:300]), frame[300:].reset_index(drop=True), "model.pkl")


def unknown_missing_texts() -> Trained:
    """And is one that nobody has seen where it had none."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    frame, left = customers()
    model = pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(frame[:300], left[:300])
    unseen = frame[300:].reset_index(drop=True)
    unseen.loc[::3, "city"] = None
    return of_sklearn(model, unseen, "model.pkl")


def ordinal() -> Trained:
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.preprocessing import OrdinalEncoder

    frame, left = customers()
    model = pipeline(OrdinalEncoder(), GradientBoostingClassifier(n_estimators=20))
    return of_sklearn(model.fit(frame[:300], left[:300]), frame[300:], "model.pkl")


def forest() -> Trained:
    from sklearn.ensemble import RandomForestClassifier

    train, known, unseen = shipped("wine")
    model = RandomForestClassifier(30, random_state=0).fit(train, known)
    return of_sklearn(model, unseen, settings={"trusted_types": ("sklearn.tree._tree.Tree",)})


def forest_of_numbers() -> Trained:
    from sklearn.ensemble import RandomForestRegressor

    train, known, unseen = shipped("diabetes")
    return of_sklearn(RandomForestRegressor(30, random_state=0).fit(train, known), unseen, "model.joblib")


def histograms() -> Trained:
    from sklearn.ensemble import HistGradientBoostingClassifier

    train, known, unseen = shipped("breast_cancer", holes=0.1)
    model = HistGradientBoostingClassifier(max_iter=10).fit(train, known)
    return of_sklearn(model, unseen, "model.pkl", unconvertible="Unable to create node 'TreeEnsembleClassifier'")


def unnamed() -> Trained:
    from sklearn.linear_model import Ridge

    train, known, unseen = shipped("diabetes")
    return of_sklearn(Ridge().fit(train.to_numpy(), known), unseen, given=unseen.to_numpy())


def several_numbers() -> Trained:
    from sklearn.linear_model import LinearRegression

    train, known, unseen = shipped("diabetes")
    return of_sklearn(LinearRegression().fit(train, np.stack([known, known**2], axis=1)), unseen)


def labels_only() -> Trained:
    from sklearn.svm import LinearSVC

    train, known, unseen = shipped("wine")
    model = LinearSVC().fit(train, known)
    return of_sklearn(model, unseen, "model.pkl")


def many_classes() -> Trained:
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(0)
    known = np.arange(900) % 300
    rows = pd.DataFrame({f"f{i}": known * rng.normal() + rng.normal(0, 0.1, 900) for i in range(4)})
    model = DecisionTreeClassifier(random_state=0).fit(rows, [f"class {i}" for i in known])
    return of_sklearn(model, rows[::3].reset_index(drop=True), "model.pkl")


def large_integers() -> Trained:
    """Beside 1.7e9 a second is lost in fp32; the target hangs on it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    seconds = np.random.default_rng(0).integers(0, 100, 500) + 1_700_000_000
    rows = pd.DataFrame({"seconds": seconds, "other": np.arange(500) % 7})
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows[:300], seconds[:300] % 100 > 50)
    return of_sklearn(model, rows[300:].reset_index(drop=True))


def xgboost_classes() -> Trained:
    import xgboost

    train, known, unseen = shipped("digits", holes=0.1)
    model = xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(train, known)
    return Trained("model.ubj", model.save_model, unseen, answers_of(model, unseen))


def xgboost_two_classes() -> Trained:
    import xgboost

    train, known, unseen = shipped("breast_cancer")
    model = xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(train, known)
    return Trained("model.json", model.save_model, unseen, answers_of(model, unseen))


def xgboost_numbers() -> Trained:
    import xgboost

    train, known, unseen = shipped("diabetes", holes=0.05)
    model = xgboost.XGBRegressor(n_estimators=20, n_jobs=1).fit(train, known)
    return Trained("model.json", model.save_model, unseen, answers_of(model, unseen))


def xgboost_categories() -> Trained:
    import xgboost

    frame, left = customers()
    frame = frame.replace({"größer": "greater", "无": "none", "Köln": "Cologne", "São Paulo": "Sao Paulo"}).astype(
        {"plan": "category", "city": "category"}
    )
    model = xgboost.XGBClassifier(n_estimators=5, n_jobs=1, enable_categorical=True).fit(frame[:300], left[:300])
    texts = frame[300:].astype({"plan": "str", "city": "str"}).reset_index(drop=True)
    expected = answers_of(model, frame[300:])
    expected["label"] = expected["label"].astype(int)
    return Trained("model.json", model.save_model, texts, expected, unconvertible="categorical columns")


def lightgbm_classes() -> Trained:
    import lightgbm

    train, known, unseen = shipped("digits", holes=0.1)
    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(train, known)
    return Trained("model.txt", model.booster_.save_model, unseen, answers_of(model, unseen))


def lightgbm_two_classes() -> Trained:
    import lightgbm

    train, known, unseen = shipped("breast_cancer")
    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(train, known)
    return Trained(
        "model.txt",
        model.booster_.save_model,
        unseen.rename(columns=lambda n: n.replace(" ", "_")),
        answers_of(model, unseen),
    )


def lightgbm_numbers() -> Trained:
    import lightgbm

    train, known, unseen = shipped("diabetes", holes=0.05)
    model = lightgbm.LGBMRegressor(n_estimators=20, verbose=-1, n_jobs=1).fit(train, known)
    return Trained("model.txt", model.booster_.save_model, unseen, answers_of(model, unseen))


def lightgbm_categories() -> Trained:
    import lightgbm

    frame, left = customers()
    frame = frame.rename(columns={"âge du client": "age"}).astype({"plan": "category", "city": "category"})
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(frame[:300], left[:300])
    texts = frame[300:].astype({"plan": "str", "city": "str"}).reset_index(drop=True)
    expected = answers_of(model, frame[300:])
    expected["label"] = expected["label"].astype(int)
    return Trained("model.txt", model.booster_.save_model, texts, expected, unconvertible="categorical columns")


def lightgbm_in_a_pipeline() -> Trained:
    import lightgbm
    from sklearn.preprocessing import OneHotEncoder

    frame, left = customers()
    model = pipeline(OneHotEncoder(), lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1))
    return of_sklearn(model.fit(frame[:300], left[:300].astype(int)), frame[300:], "model.pkl")


MODELS = {
    f.__name__: cache(f)
    for f in (
        logistic, one_hot, ordinal, missing_texts, unknown_missing_texts, forest, forest_of_numbers, histograms, unnamed,
        several_numbers, labels_only, many_classes,
        large_integers, xgboost_classes, xgboost_two_classes, xgboost_numbers, xgboost_categories, lightgbm_classes,
        lightgbm_two_classes, lightgbm_numbers, lightgbm_categories, lightgbm_in_a_pipeline,
    )
}  # fmt: skip


def saved(made: Trained, folder: Path) -> Artifact:
    made.save(folder / made.file)
    return located(folder / made.file, "tabular", allow_pickle=made.file.endswith((".pkl", ".joblib")), **made.settings)


def table_of(made: Trained, family: Any) -> pa.Table:
    """Return the rows as a Parquet table has them: what is missing is null."""
    table = pa.Table.from_pandas(made.rows, preserve_index=False)
    columns = {role: role for role in family.roles}
    if family.roles == ("features",):
        columns = {"features": tuple(table.column_names)}
    family.check(table.schema, columns)
    return as_roles(table, columns)


def require_answers(found: dict[str, Any], made: Trained) -> None:
    """All labels are the library's, and all numbers to rounding."""
    expected = dict(made.expected)
    if "label" in expected:
        assert found["label"].tolist() == expected.pop("label").tolist()
    for name, values in expected.items():
        given = {name: np.asarray(values, dtype=np.float64)}
        assert agreement(given, {name: found[name]}).min() == 1, np.abs(values - found[name]).max()


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_the_models_own_library(name: str, tmp_path: Path) -> None:
    made = MODELS[name]()
    model = saved(made, tmp_path)
    family = FAMILIES.get("tabular").load(model, made.settings)
    table = table_of(made, family)

    own = replica(model, model, "pyfunc", made.settings).score(table)
    assert not own.rejected
    require_answers(own.outputs, made)
    reference = family.reference(table.slice(0, 20), own.added.slice(0, 20))
    assert reference.agrees, reference.note
    assert reference.rows == 20, reference.note

    context = BuildContext(family, prepare(family, table.slice(0, 60)).features)
    if made.unconvertible:
        with pytest.raises(NoVariantError, match=made.unconvertible):
            build.build(VARIANTS["onnx-tabular"], model, name, lambda: context)
        return
    artifact = build.build(VARIANTS["onnx-tabular"], model, name, lambda: context)
    onnx = replica(model, artifact, "onnxruntime", made.settings).score(table)
    assert not onnx.rejected
    require_answers(onnx.outputs, made)
    assert onnx.added.schema == own.added.schema == family.schema
    assert artifact.notes == ()


@pytest.mark.parametrize("name", ["xgboost_categories", "lightgbm_categories"])
def test_a_categorys_code_hangs_on_no_other_row(name: str, tmp_path: Path) -> None:
    """A library that met only some of the categories, and one that it does not know, gives no row another answer."""
    made = MODELS[name]()
    model = saved(made, tmp_path)
    rows = made.rows.copy()
    rows.loc[7, "plan"] = "a plan that nobody has seen"
    table = table_of(Trained(made.file, made.save, rows, made.expected), FAMILIES.get("tabular").load(model, {}))
    loaded = replica(model, model, "pyfunc", {})
    whole = loaded.score(table).outputs["probabilities"]
    alone = [loaded.score(table.slice(i, 1)).outputs["probabilities"][0] for i in range(20)]
    np.testing.assert_array_equal(whole[:20], alone)
    np.testing.assert_allclose(np.delete(whole, 7, 0), np.delete(made.expected["probabilities"], 7, 0), atol=1e-6)


def replica(model: Artifact, artifact: Artifact, backend: str, settings: dict[str, Any]) -> Replica:
    return Replica(
        ReplicaSettings(
            family="tabular", family_settings=settings, model=model, backend=backend, artifact=artifact, threads=1
        )
    )
