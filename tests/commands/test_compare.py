"""`compare` on real models: verdicts, slices and intervals against scikit-learn's and statsmodels' own figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar

from optinfer.commands.compare import compare
from optinfer.config import JobConfig
from optinfer.errors import ConfigError
from optinfer.job_file import parse_job
from tests.conftest import RunCli

TRAINED_ON = {"good": 600, "poor": 25}


class Digits:
    """Two classifiers of digits as ONNX files, and the rows that neither has seen."""

    def __init__(self, folder: Path) -> None:
        from skl2onnx import to_onnx

        pixels, digits = load_digits(return_X_y=True)
        pixels = pixels.astype(np.float32)
        self.models = {n: LogisticRegression(max_iter=500).fit(pixels[:k], digits[:k]) for n, k in TRAINED_ON.items()}
        for name, model in self.models.items():
            content = to_onnx(model, pixels[:1], options={"zipmap": False}).SerializeToString()
            (folder / f"{name}.onnx").write_bytes(content)
        self.folder, self.pixels, self.digits = folder, pixels[600:], digits[600:]
        self.table = folder / "held_out.parquet"
        columns = {
            "id": pa.array(np.arange(len(self.digits))),
            "X": pa.FixedSizeListArray.from_arrays(pa.array(self.pixels.ravel()), 64),
            "digit": pa.array(self.digits),
            "half": pa.array(["upper" if digit >= 5 else "lower" for digit in self.digits]),
        }
        pq.write_table(pa.table(columns), self.table)

    def predicted(self, name: str) -> np.ndarray[Any, Any]:
        return np.asarray(self.models[name].predict(self.pixels))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return Digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def settings(digits: Digits, tmp_path: Path, own_store: str) -> dict[str, Any]:
    """Return what a job for the good model says, its label included."""
    return {
        "source": {"path": str(digits.table), "columns": {"X": "X"}},
        "model": {"path": str(digits.folder / "good.onnx"), "family": "tensor"},
        "variant": "onnx-fp32",
        "gate": {"label": "digit", "sample_rows": 64},
        "tracking": {"experiment": "compared", "uri": own_store},
        "sink": {"path": str(tmp_path / "out"), "columns": ["id"]},
    }


@pytest.fixture
def job(settings: dict[str, Any]) -> Callable[..., JobConfig]:
    return lambda **changes: parse_job({"name": "digits", **settings, **changes})


@pytest.mark.usefixtures("trials_here")
class TestTwoModels:
    def test_the_worse_one_is_called_worse_with_the_figures_of_others(
        self, job: Callable[..., JobConfig], digits: Digits
    ) -> None:
        record = compare(job(), str(digits.folder / "poor.onnx"), by=["half"], rows=None)
        ours, theirs = (digits.predicted(name) == digits.digits for name in ("good", "poor"))
        assert record.rows == len(digits.digits)
        assert (record.champion.value, record.challenger.value) == (ours.mean(), theirs.mean())
        counts = [[np.sum(ours & theirs), np.sum(ours & ~theirs)], [np.sum(~ours & theirs), np.sum(~ours & ~theirs)]]
        assert record.p_value == pytest.approx(mcnemar(counts, exact=True).pvalue)
        assert record.difference is not None
        assert record.difference.low < theirs.mean() - ours.mean() < record.difference.high < -0.01
        assert record.verdict == "worse"
        for one in record.slices:
            chosen = (digits.digits >= 5) == (one.value == "upper")
            assert (one.champion, one.challenger) == (ours[chosen].mean(), theirs[chosen].mean())
            assert one.rows == chosen.sum()
        same = digits.predicted("good") == digits.predicted("poor")
        assert (record.agreement.value, record.agreement.differing) == (same.mean(), (~same).sum())

    def test_the_other_way_round_it_is_better(
        self, job: Callable[..., JobConfig], digits: Digits, settings: dict[str, Any]
    ) -> None:
        poor = {**settings["model"], "path": str(digits.folder / "poor.onnx")}
        record = compare(job(model=poor), str(digits.folder / "good.onnx"))
        assert record.verdict == "better"
        assert all(row.champion != row.challenger for row in record.differing)

    def test_few_rows_cannot_tell_and_it_says_how_many_would(
        self, job: Callable[..., JobConfig], digits: Digits
    ) -> None:
        record = compare(job(), str(digits.folder / "poor.onnx"), rows=8, margin=0.2)
        assert record.rows == 8
        assert record.verdict == "cannot tell"
        assert record.more_rows is None or record.more_rows > 0

    def test_any_scorer_has_an_interval(
        self, job: Callable[..., JobConfig], digits: Digits, settings: dict[str, Any]
    ) -> None:
        gate = {**settings["gate"], "metric": "f1_macro"}
        record = compare(job(gate=gate), str(digits.folder / "poor.onnx"), rows=None)
        assert (record.metric, record.p_value, record.verdict) == ("f1_macro", None, "worse")
        expected = [f1_score(digits.digits, digits.predicted(name), average="macro") for name in ("good", "poor")]
        assert [record.champion.value, record.challenger.value] == pytest.approx(expected)

    def test_as_many_rows_as_asked_for_are_compared(self, job: Callable[..., JobConfig], digits: Digits) -> None:
        for rows in (100, 700, len(digits.digits) - 1):
            assert compare(job(), str(digits.folder / "poor.onnx"), rows=rows).rows == rows

    def test_without_labels_agreement_is_called_no_quality(
        self, job: Callable[..., JobConfig], digits: Digits, settings: dict[str, Any]
    ) -> None:
        record = compare(job(gate={"sample_rows": 64, "min": 0.9}), str(digits.folder / "poor.onnx"))
        assert (record.verdict, record.difference, record.champion.value) == ("cannot tell", None, None)
        assert "agreement is no quality" in record.reason
        assert 0 < record.agreement.value < 1

    def test_mlflow_has_both_under_one_run_with_the_same_metrics(
        self, job: Callable[..., JobConfig], digits: Digits, own_store: str
    ) -> None:
        from mlflow import MlflowClient

        record = compare(job(), str(digits.folder / "poor.onnx"), rows=100)
        client = MlflowClient(tracking_uri=own_store)
        assert record.mlflow is not None
        parent = client.get_run(record.mlflow.run_id)
        below = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
        assert len(below) == 2
        assert len({frozenset(run.data.metrics) for run in below}) == 1
        assert {run.data.metrics["stats/quality"] for run in below} == {record.champion.value, record.challenger.value}
        assert parent.data.tags["optinfer.verdict"] == record.verdict

    def test_the_folder_of_the_job_is_not_touched(
        self, job: Callable[..., JobConfig], digits: Digits, tmp_path: Path
    ) -> None:
        compare(job(), str(digits.folder / "poor.onnx"), rows=20)
        assert not (tmp_path / "out").exists()


class TestRefused:
    def test_the_champion_itself(self, job: Callable[..., JobConfig], digits: Digits) -> None:
        for same in ("onnx-fp32", str(digits.folder / "good.onnx")):
            with pytest.raises(ConfigError, match="is the champion itself"):
                compare(job(), same)

    def test_a_name_that_is_nothing(self, job: Callable[..., JobConfig]) -> None:
        with pytest.raises(ConfigError, match=r"no variant; did you mean 'onnx-fp32'.*models:/NAME@ALIAS"):
            compare(job(), "onnx-fp23")

    def test_a_model_that_is_not_there(self, job: Callable[..., JobConfig], tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="does not exist"):
            compare(job(), str(tmp_path / "none.onnx"))

    def test_a_column_that_the_table_has_not(self, job: Callable[..., JobConfig], digits: Digits) -> None:
        with pytest.raises(ConfigError, match="--by: the table has no column 'colour'; it has id, X, digit, half"):
            compare(job(), str(digits.folder / "poor.onnx"), by=["colour"])

    def test_answers_of_another_width_without_labels(
        self, job: Callable[..., JobConfig], digits: Digits, tmp_path: Path
    ) -> None:
        from skl2onnx import to_onnx

        two = LogisticRegression(max_iter=500).fit(digits.pixels, digits.digits > 4)
        path = tmp_path / "two.onnx"
        path.write_bytes(to_onnx(two, digits.pixels[:1], options={"zipmap": False}).SerializeToString())
        with pytest.raises(ConfigError, match="different columns"):
            compare(job(gate={"sample_rows": 64}), str(path))

    def test_a_label_that_no_row_has(self, job: Callable[..., JobConfig], digits: Digits, tmp_path: Path) -> None:
        table = pq.read_table(digits.table)
        at = table.schema.get_field_index("digit")
        empty = table.set_column(at, "digit", pa.nulls(table.num_rows, pa.int64()))
        pq.write_table(empty, tmp_path / "unlabelled.parquet")
        source = {"path": str(tmp_path / "unlabelled.parquet"), "columns": {"X": "X"}}
        with pytest.raises(ConfigError, match="no sampled row has a value in 'digit'"):
            compare(job(source=source), str(digits.folder / "poor.onnx"))


def test_the_command_prints_one_object(
    run_cli: RunCli, digits: Digits, settings: dict[str, Any], tmp_path: Path, trials_here: None
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps({"name": "digits", **settings}))
    poor = str(digits.folder / "poor.onnx")
    code, out, err = run_cli("compare", str(file), "--challenger", poor, "--rows", "200", "--json")
    assert code == 0, err
    assert {"verdict", "difference", "agreement", "rows", "champion", "challenger"} <= set(json.loads(out))
    code, out, err = run_cli("compare", str(file), "--challenger", poor, "--by", "half", "--margin", "0.02")
    assert code == 0, err
    assert "WORSE" in out
    assert "half=upper" in out
