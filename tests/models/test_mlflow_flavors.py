"""Models of six flavors from a real MLflow server, by alias: each job's answers are those of `mlflow.pyfunc`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import optinfer
from optinfer.job_file import parse_job
from tests.conftest import read_rows
from tests.families.test_tabular import shipped
from tests.tracking.mlflow_server import mlflow_server

# (a model's answers to the rows, what a job says of it) of each flavor
Logged = tuple[Any, dict[str, Any]]
TABULAR = {"family": "tabular"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import socket

    import mlflow

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with mlflow_server(tmp_path_factory.mktemp("server"), port) as started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", started.url)  # set_tracking_uri sets it, too, for good
        mlflow.set_tracking_uri(started.url)
        yield started.url
        mlflow.set_tracking_uri(None)


def signature(rows: Any, answers: Any) -> Any:
    import mlflow

    return mlflow.models.infer_signature(rows, answers)


def logged(name: str, log: Callable[..., Any], model: Any, **more: Any) -> Any:
    """Register a model as the champion; return what MLflow itself opens."""
    import mlflow

    with mlflow.start_run():
        info = log(model, name="model", registered_model_name=name, **{"pip_requirements": [], **more})
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", "1")
    with pytest.MonkeyPatch.context() as patch:  # what reads a job's model switches this off for its process
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
        return mlflow.pyfunc.load_model(info.model_uri)


def sklearn() -> Logged:
    import mlflow
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, known, unseen = shipped("breast_cancer")
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(train, known)
    function = logged("sklearn", mlflow.sklearn.log_model, model, signature=signature(train, known))
    return function.predict(unseen), TABULAR


def xgboost() -> Logged:
    import mlflow
    from xgboost import XGBClassifier

    train, known, unseen = shipped("breast_cancer")
    model = XGBClassifier(n_estimators=10, n_jobs=1).fit(train, known)
    function = logged("xgboost", mlflow.xgboost.log_model, model, signature=signature(train, known))
    return function.predict(unseen), TABULAR


def lightgbm() -> Logged:
    import mlflow
    from lightgbm import LGBMClassifier

    train, known, unseen = shipped("breast_cancer")
    model = LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(train, known)
    function = logged("lightgbm", mlflow.lightgbm.log_model, model, signature=signature(train, known))
    return function.predict(unseen), TABULAR


def pyfunc() -> Logged:
    import mlflow

    class Ratio(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            ratio = model_input["mean radius"] / model_input["mean area"]
            return pd.DataFrame({"ratio": ratio, "large": ratio > 0.02})

    _, _, unseen = shipped("breast_cancer")
    answers = Ratio().predict(None, unseen)
    function = logged(
        "pyfunc",
        lambda model, **more: mlflow.pyfunc.log_model(python_model=model, **more),
        Ratio(),
        signature=signature(unseen, answers),
    )
    return function.predict(unseen), {**TABULAR, "allow_pickle": True}


def onnx() -> Logged:
    import mlflow
    from skl2onnx import to_onnx
    from sklearn.linear_model import LinearRegression

    train, known, unseen = shipped("breast_cancer")
    model = to_onnx(LinearRegression().fit(train, known), train[:1].to_numpy())
    function = logged("onnx", mlflow.onnx.log_model, model)
    return function.predict(unseen.to_numpy())["variable"], {"family": "tensor"}


def pytorch() -> Logged:
    import mlflow
    import torch

    _, _, unseen = shipped("breast_cancer")
    torch.manual_seed(0)
    module = torch.nn.Linear(30, 1)
    example = np.zeros((2, 30), dtype=np.float32)
    function = logged("pytorch", mlflow.pytorch.log_model, module, serialization_format="pt2", input_example=example)
    return function.predict(unseen.to_numpy().astype(np.float32)), {"family": "tensor"}


@pytest.mark.slow
@pytest.mark.usefixtures("without_ray", "trials_here")
@pytest.mark.parametrize("flavor", [sklearn, xgboost, lightgbm, pyfunc, onnx, pytorch], ids=lambda f: f.__name__)
def test_a_champion_answers_as_mlflow_does(flavor: Callable[[], Logged], server: str, tmp_path: Path) -> None:
    expected, model = flavor()
    _, _, unseen = shipped("breast_cancer")
    unseen.to_parquet(tmp_path / "t.parquet")
    uri = f"models:/{flavor.__name__}@champion"
    source: dict[str, Any] = {"path": str(tmp_path / "t.parquet")}
    if model["family"] == "tensor":
        source["columns"] = {{"onnx": "X", "pytorch": "input"}[flavor.__name__]: list(unseen.columns)}
    job = {
        "name": "champion",
        "source": source,
        "model": {"path": uri, **model},
        "variant": {"pyfunc": "pyfunc", "onnx": "onnx-fp32", "pytorch": "torch-fp32"}.get(
            flavor.__name__, "onnx-tabular"
        ),
        "gate": {"sample_rows": 64},
        "sink": {"path": str(tmp_path / "out")},
        "tracking": {"experiment": "tests", "uri": server},
    }
    record = optinfer.run(parse_job(job))
    assert record.rows_out == len(unseen)
    rows = read_rows(tmp_path / "out")
    if isinstance(expected, pd.DataFrame):
        assert [list(row.values()) for row in rows] == expected.to_numpy().tolist()
        return
    found = [row.get("label", next(iter(row.values()))) for row in rows]
    np.testing.assert_allclose(np.array(found).reshape(-1), np.asarray(expected).reshape(-1), rtol=1e-5)
