"""Twelve models that people have, from `optinfer init` to the rows, as a user types it: each answers as its own library.

Three that packages ship, one that a converter wrote, eight of scikit-learn, XGBoost and LightGBM, trained here on
the tables that scikit-learn ships, truth and all. No line of a job is written by hand.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.commands.make_table import make_table
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from tests.conftest import MODEL, REPO, RunCli, located, read_rows
from tests.families.conftest import efficientnet_network, shipped, write_efficientnet
from tests.families.test_tensor import labels_of, magika_features

warnings.simplefilter("ignore")
ROUNDING = 1e-5


@dataclass
class Given:
    """What a user has, and what the model's own library says of it.

    Attributes:
        model: `--model`.
        expected: column -> (rows,) or (rows, numbers) of what comes out.
        said: options that `init` is given: what no file can tell, or what is not to be trusted unasked.
        variant: what scores; by default the one that `auto` finds, which takes minutes where there are many.
        ids: the column that has to come out with each row, in the table's order.
    """

    model: Any
    expected: dict[str, Any]
    said: tuple[str, ...] = ()
    variant: str = "auto"
    ids: str = "id"


Make = Callable[[], Given]


def minilm() -> Given:
    from sentence_transformers import SentenceTransformer

    rows = pq.read_table(REPO / "jobs" / "data" / "packages.parquet").slice(0, 24)
    pq.write_table(rows, "table.parquet")
    vectors = SentenceTransformer(located().path, device="cpu").encode(rows["text"].to_pylist(), batch_size=1)
    return Given(MODEL, {"embedding": vectors}, variant="torch-fp32")


def magika() -> Given:
    """Google's, which tells what kind of content a file has."""
    from magika import Magika

    package = shipped("magika")
    files = [f for f in sorted(package.parent.glob("sklearn/**/*.*")) if f.is_file() and f.stat().st_size >= 64][::40]
    heads = pa.array([magika_features(file) for file in files], pa.list_(pa.int32()))
    pq.write_table(pa.table({"file_id": [str(file) for file in files], "head": heads}), "table.parquet")
    theirs = [result.prediction for result in Magika().identify_paths(files)]
    best = [labels_of(package).index(str(one.dl.label)) for one in theirs]
    return Given(
        shipped("magika", "models", "standard_v3_3", "model.onnx"),
        {"argmax": np.array(best), "max": np.array([one.score for one in theirs])},
        variant="onnx-fp32",
        ids="file_id",
    )


def efficientnet() -> Given:
    """A folder of photos made into a table; the network as the package that defines it makes it, fed as it says."""
    import torch
    from PIL import Image

    photos = [
        shipped("skimage", "data", f"{name}.png") for name in ("astronaut", "chelsea", "coffee", "motorcycle_left")
    ]
    photos += [shipped("sklearn", "datasets", "images", f"{name}.jpg") for name in ("china", "flower")]
    Path("photos").mkdir()
    Path("net").mkdir()
    for photo in photos:
        Path("photos", photo.name).write_bytes(photo.read_bytes())
    made = make_table("photos", "table.parquet")
    assert made.rows == len(photos)
    names = json.loads((write_efficientnet(Path("net")) / "config.json").read_text())["id2label"]
    pixels = []
    for photo in sorted(photos, key=lambda file: file.name):
        image = Image.open(photo).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels.append((np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32) - 127) / 128)
    with torch.inference_mode():
        shares = efficientnet_network()(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)).softmax(-1).numpy()
    labels = np.array([names[str(best)] for best in shares.argmax(axis=1)])
    return Given("net", {"label": labels, "score": shares.max(axis=1)}, variant="onnx-fp32")


def of_frame(rows: pd.DataFrame, target: Any) -> None:
    """Write a table as people keep it: with an id and the truth beside what the model takes."""
    rows.assign(target=np.asarray(target), id=[f"r{i}" for i in range(len(rows))]).to_parquet("table.parquet")


def of_library(
    name: str, model: Any, save: Callable[[Any, str], Any], file: str, *said: str, holes: float = 0
) -> Given:
    """Train a model on one of scikit-learn's tables, and ask it of rows that it has not seen."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    rows, target = getattr(datasets, f"load_{name}")(return_X_y=True, as_frame=True)
    rows = rows.mask(np.random.default_rng(0).random(rows.shape) < holes)
    train, unseen, known, truth = train_test_split(rows, target, test_size=0.4, random_state=0)
    model.fit(train, known)
    save(model, file)
    of_frame(unseen, truth)
    if not hasattr(model, "classes_"):
        return Given(file, {"prediction": model.predict(unseen)}, said)
    return Given(file, {"label": model.predict(unseen), "score": model.predict_proba(unseen).max(axis=1)}, said)


def skops(model: Any, file: str) -> None:
    import skops.io

    skops.io.dump(model, file)


def pickled(model: Any, file: str) -> None:
    import joblib

    joblib.dump(model, file)


def logged(model: Any, folder: str) -> None:
    import mlflow

    mlflow.sklearn.save_model(model, folder)


def logistic() -> Given:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return of_library("breast_cancer", make_pipeline(StandardScaler(), LogisticRegression()), skops, "model.skops")


def forest() -> Given:
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(30, random_state=0)
    return of_library("wine", model, pickled, "model.joblib", "model.allow_pickle=true")


def logged_by_mlflow() -> Given:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    return of_library("diabetes", make_pipeline(StandardScaler(), SVR(C=100)), logged, "model")


def numbers_without_names() -> Given:
    """Trained on an array: which column is which, only their order in the table says."""
    from sklearn import datasets
    from sklearn.linear_model import Ridge

    rows, target = datasets.load_diabetes(return_X_y=True, as_frame=True)
    model = Ridge().fit(rows[:300].to_numpy(), target[:300])
    skops(model, "model.skops")
    of_frame(rows[300:], target[300:])
    return Given("model.skops", {"prediction": model.predict(rows[300:].to_numpy())})


def xgboost_classes() -> Given:
    import xgboost

    return of_library(
        "digits",
        xgboost.XGBClassifier(n_estimators=10, n_jobs=1),
        xgboost.XGBClassifier.save_model,
        "model.ubj",
        holes=0.1,
    )


def xgboost_numbers() -> Given:
    import xgboost

    return of_library(
        "diabetes", xgboost.XGBRegressor(n_estimators=20, n_jobs=1), xgboost.XGBRegressor.save_model, "model.json"
    )


def lightgbm_classes() -> Given:
    import lightgbm

    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1)
    return of_library("iris", model, lambda m, file: m.booster_.save_model(file), "model.txt")


def lightgbm_numbers() -> Given:
    import lightgbm

    model = lightgbm.LGBMRegressor(n_estimators=20, verbose=-1, n_jobs=1)
    return of_library("diabetes", model, lambda m, file: m.booster_.save_model(file), "model.txt")


def converted() -> Given:
    """A network of scikit-learn, as ONNX: its labels and probabilities come out by the names that the file gives."""
    from skl2onnx import to_onnx
    from sklearn import datasets
    from sklearn.neural_network import MLPClassifier

    pixels, digits = datasets.load_digits(return_X_y=True)
    pixels = pixels.astype(np.float32)
    model = MLPClassifier((32,), max_iter=60, random_state=0).fit(pixels[:1200], digits[:1200])
    Path("model.onnx").write_bytes(to_onnx(model, pixels[:1], options={"zipmap": False}).SerializeToString())
    unseen = pixels[1200:]
    column = pa.FixedSizeListArray.from_arrays(pa.array(unseen.ravel()), 64)
    ids = [f"digit {i}" for i in range(len(unseen))]
    pq.write_table(pa.table({"id": ids, "pixels": column, "target": digits[1200:]}), "table.parquet")
    expected = {"label": model.predict(unseen), "probabilities": model.predict_proba(unseen)}
    return Given("model.onnx", expected, variant="onnx-fp32")


MODELS: tuple[Make, ...] = (
    minilm, magika, efficientnet, converted, logistic, forest, logged_by_mlflow, xgboost_classes, xgboost_numbers,
    lightgbm_classes, lightgbm_numbers, numbers_without_names,
)  # fmt: skip


def found(rows: list[dict[str, Any]], name: str) -> np.ndarray[Any, Any]:
    """Return a column of what came out; of Magika's scores, which are all that it gives, the best and which it is."""
    if name in ("argmax", "max"):
        scores = np.array([row["target_label"] for row in rows])
        return scores.argmax(axis=1) if name == "argmax" else scores.max(axis=1)
    return np.array([row[name] for row in rows])


def require(rows: list[dict[str, Any]], given: Given) -> None:
    """See that rows hold the answers of the model's own library."""
    for name, expected in given.expected.items():
        if np.issubdtype(np.asarray(expected).dtype, np.floating):
            scale = max(float(np.abs(expected).max()), 1.0)
            np.testing.assert_allclose(found(rows, name) / scale, expected / scale, atol=ROUNDING)
        else:
            assert found(rows, name).tolist() == expected.tolist()


@pytest.mark.slow
@pytest.mark.usefixtures("trials_here")
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_from_init_to_rows_that_are_the_librarys(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: RunCli
) -> None:
    monkeypatch.chdir(tmp_path)
    given = make()
    said = [word for one in (*given.said, f"variant={given.variant}") for word in ("--set", one)]
    code, _, err = run_cli("init", "--table", "table.parquet", "--model", given.model, *said)
    assert code == 0, err
    code, _, err = run_cli("run", "job.yaml", executor=InProcess([Node(cpus=1)]))
    assert code == 0, err
    rows = read_rows("outputs/table")
    assert [row[given.ids] for row in rows] == pq.read_table("table.parquet")[given.ids].to_pylist()
    require(rows, given)
