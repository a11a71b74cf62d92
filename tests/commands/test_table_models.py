"""Jobs over models of tables: by default the fastest that is proved, what could not be converted said, flips measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import optinfer
from optinfer.config import JobConfig
from optinfer.job_file import parse_job
from tests.conftest import read_rows
from tests.families.test_tabular import MODELS, Trained


def table(made: Trained, path: Path) -> Path:
    made.rows.assign(id=[f"r{i}" for i in range(len(made.rows))]).to_parquet(path)
    return path


def job(made: Trained, folder: Path, **changes: Any) -> JobConfig:
    """Return a job that says no more than whose model it is: columns are found by name."""
    made.save(folder / made.file)
    model = {"path": str(folder / made.file), "family": "tabular", "allow_pickle": True, **made.settings}
    raw = {
        "name": "tables",
        "source": {"path": str(table(made, folder / "t.parquet"))},
        "model": model,
        "variant": "auto",
        "gate": {"sample_rows": 64},
        "sink": {"path": str(folder / "out"), "columns": ["id"]},
        "tracking": {"experiment": "tests"},
    }
    return parse_job(raw | changes)


def require_labels(folder: Path, made: Trained) -> None:
    rows = read_rows(folder / "out")
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(len(made.rows))]
    assert [row["label"] for row in rows] == made.expected["label"].tolist()
    best = np.take_along_axis(
        made.expected["probabilities"], np.argmax(made.expected["probabilities"], axis=1)[:, None], axis=1
    )
    np.testing.assert_allclose([row["score"] for row in rows], best[:, 0], atol=1e-5)


_CLIENT = """
import sys, mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
mlflow.pyfunc.load_model(sys.argv[2]).predict(pd.read_parquet("given.parquet")).to_parquet("answers.parquet")
"""


def loaded(store: str, model: str, folder: Path) -> pd.DataFrame:
    """Return what a registered model answers a process that finds no other optinfer than the one it carries."""
    command = [sys.executable, "-P", "-c", _CLIENT, store, model]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, env=environment)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return pd.read_parquet(folder / "answers.parquet")


@pytest.mark.usefixtures("without_ray", "trials_here")
class TestJob:
    def test_texts_and_numbers_with_nulls_score_as_onnx_and_answer_as_the_library(self, tmp_path: Path) -> None:
        made = MODELS["one_hot"]()
        record = optinfer.run(job(made, tmp_path, variant="onnx-tabular"))
        assert (record.rows_out, record.rows_quarantined, record.variant) == (100, 0, "onnx-tabular")
        require_labels(tmp_path, made)

    def test_what_cannot_be_converted_is_scored_by_its_library_and_the_reason_kept(self, tmp_path: Path) -> None:
        made = MODELS["lightgbm_categories"]()
        said: list[str] = []
        record = optinfer.run(job(made, tmp_path), say=said.append)
        assert record.variant == "pyfunc"
        assert any("not onnx-tabular" in line and "categorical columns (plan, city)" in line for line in said)
        require_labels(tmp_path, made)

    @pytest.mark.parametrize("name", ["missing_texts", "xgboost_numbers", "unnamed"])
    def test_the_registered_winner_answers_as_the_library_where_no_optinfer_is(
        self, tmp_path: Path, own_store: str, name: str
    ) -> None:
        made = MODELS[name]()
        config = job(made, tmp_path, tracking={"uri": own_store, "experiment": "tests"})
        if name == "unnamed":
            raw = config.model_dump(mode="json", exclude_unset=True)
            raw["source"]["columns"] = {"features": [*made.rows.columns]}
            config = parse_job(raw)
        registered = optinfer.optimize(config, ["pyfunc", "onnx-tabular"], register="people").registered
        assert registered is not None
        assert (registered.error, registered.version) == (None, 1)
        given = made.rows if name != "unnamed" else pd.DataFrame({"features": made.rows.to_dict("records")})
        given.to_parquet(tmp_path / "given.parquet")
        answers = loaded(own_store, registered.uri, tmp_path)
        if "label" in made.expected:
            assert answers["label"].tolist() == made.expected["label"].tolist()
        else:
            np.testing.assert_allclose(answers["prediction"], made.expected["prediction"], rtol=1e-5)

    def test_rows_with_nulls_are_in_the_sample_that_judges(self, tmp_path: Path) -> None:
        """Every row lacks something; without them there would be no sample."""
        made = MODELS["xgboost_numbers"]()
        rows = made.rows.copy()
        for i in range(len(rows)):
            rows.iloc[i, i % rows.shape[1]] = np.nan
        lacking = Trained(made.file, made.save, rows, {})
        record = optinfer.run(job(lacking, tmp_path, variant="onnx-tabular"))
        assert (record.rows_out, record.rows_quarantined) == (len(rows), 0)
        assert record.gate is not None
        assert record.gate.sample_rows == 64

    def test_one_row_is_scored_by_the_library(self, tmp_path: Path) -> None:
        made = MODELS["logistic"]()
        one = Trained(made.file, made.save, made.rows[:1], {k: v[:1] for k, v in made.expected.items()})
        assert optinfer.run(job(one, tmp_path)).variant == "pyfunc"
        require_labels(tmp_path, one)

    def test_trees_that_go_another_way_in_fp32_are_counted_and_fail_the_gate(self, tmp_path: Path) -> None:
        """LightGBM splits diabetes between values that are one in fp32; in doubles none goes another way."""
        made = MODELS["lightgbm_numbers"]()
        narrow = {"steps": [{"onnx_tabular": {"precisions": ["fp32"]}}], "backend": "onnxruntime"}
        said: list[str] = []
        with pytest.raises(optinfer.OptinferError, match=r"agreement 0\.9"):
            optinfer.run(
                job(made, tmp_path, variant="narrow", variants={"narrow": narrow}, gate={"sample_rows": 512}),
                say=said.append,
            )
        record = optinfer.run(job(made, tmp_path, variant="onnx-tabular"))
        assert record.variant == "onnx-tabular"
        np.testing.assert_allclose(
            [row["prediction"] for row in read_rows(tmp_path / "out")], made.expected["prediction"], rtol=1e-6
        )

    def test_columns_under_other_names_are_mapped_and_classes_listed(self, tmp_path: Path) -> None:
        made = MODELS["logistic"]()
        first = made.rows.columns[0]
        renamed = Trained(made.file, made.save, made.rows.rename(columns={first: "r"}), made.expected)
        config = job(renamed, tmp_path, variant="pyfunc")
        raw = config.model_dump(mode="json")
        raw["source"]["columns"] = {first: "r"}
        optinfer.run(parse_job(raw | {"model": {**raw["model"], "top_k": 2, "probabilities": True}}))
        rows = read_rows(tmp_path / "out")
        np.testing.assert_allclose([row["probabilities"] for row in rows], made.expected["probabilities"], atol=1e-6)
        assert [row["labels"][0] for row in rows] == made.expected["label"].tolist()
        assert [row["scores"] for row in rows] == [sorted(row["probabilities"], reverse=True) for row in rows]
