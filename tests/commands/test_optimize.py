"""`optimize`: candidates measured, compared, recorded and registered; the same again costs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optinfer
from optinfer.commands.optimize_answer import pareto
from optinfer.errors import ConfigError
from tests.conftest import MODEL, REPO, MakeJob, RunCli, WriteTable

NAMES = ["torch-fp32", "onnx-fp32", "onnx-int8-dynamic", "onnx-int4-weights"]
points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


@given(points)
def test_the_pareto_front_holds_exactly_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    named = [(str(i), float(speed), float(quality)) for i, (speed, quality) in enumerate(points)]
    front = set(pareto(named))
    for name, speed, quality in named:
        beaten = any(s >= speed and q >= quality and (s, q) != (speed, quality) for _, s, q in named)
        assert (name in front) is not beaten


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, sample_table: Path) -> Path:
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    pq.write_table(pq.read_table(sample_table).slice(100, 48), path)
    return path


@pytest.fixture
def job(make_job: MakeJob, table: Path, tmp_path: Path, tracking: str) -> Any:
    changes = {
        "gate": {"min": 0.99, "sample_rows": 16},
        "variant": "auto",
        "model__path": MODEL,
        "tracking": {"experiment": "o", "uri": tracking},
    }
    return lambda **more: make_job(table, tmp_path / "out", **{**changes, "model__max_length": 64, **more})


@pytest.mark.slow
@pytest.mark.usefixtures("trials_here")
class TestComparison:
    def test_candidates_are_ranked_and_refused_with_reasons(self, job: Callable[..., Any], tmp_path: Path) -> None:
        record = optinfer.optimize(job(), NAMES, plot=str(tmp_path / "plot.png"))
        assert [c.variant for c in record.candidates if not c.passed].sort() == NAMES[2:].sort()
        speeds = [c.certificate.rows_per_second for c in record.candidates if c.passed]
        assert speeds == sorted(speeds, reverse=True)
        assert record.winner == record.candidates[0].variant in NAMES[:2]
        assert record.winner in record.pareto
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
        assert not (tmp_path / "out").exists(), "nothing is scored"

    def test_the_same_again_measures_nothing(self, job: Callable[..., Any]) -> None:
        first = optinfer.optimize(job(), NAMES)
        said: list[str] = []
        again = optinfer.optimize(job(), NAMES, say=said.append)
        assert not [line for line in said if line.startswith(("building", "certifying", "scoring"))]
        assert [c.certificate for c in again.candidates] == [c.certificate for c in first.candidates]

    def test_again_measures_anew_what_was_measured_and_builds_nothing(self, job: Callable[..., Any]) -> None:
        optinfer.optimize(job(), ["torch-fp32", "onnx-fp32"])
        said: list[str] = []
        optinfer.optimize(job(), ["torch-fp32", "onnx-fp32"], say=said.append, again=True)
        assert {line.split()[1] for line in said if line.startswith("certifying")} == {"torch-fp32", "onnx-fp32"}
        assert not [line for line in said if line.startswith("building")]

    def test_mlflow_has_a_run_for_each_variant_with_the_same_metrics(
        self, job: Callable[..., Any], tracking: str
    ) -> None:
        from mlflow import MlflowClient

        record = optinfer.optimize(job(), NAMES)
        client = MlflowClient(tracking_uri=tracking)
        parent = client.get_run(record.mlflow.run_id)
        children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
        assert {run.info.run_name for run in children} == {f"{record.job} · {name}" for name in NAMES}
        assert len({frozenset(run.data.metrics) for run in children}) == 1
        assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
        assert parent.data.tags["optinfer.winner"] == record.winner
        assert {f.path for f in client.list_artifacts(parent.info.run_id)} == {"pareto.png", "record.json", "table.md"}
        assert client.list_artifacts(children[0].info.run_id)[0].path == "certificate.json"

    def test_an_unreachable_mlflow_is_a_warning(self, job: Callable[..., Any], free_port: int) -> None:
        said: list[str] = []
        uri = f"http://user:secret@127.0.0.1:{free_port}"
        record = optinfer.optimize(job(tracking={"uri": uri}), ["torch-fp32"], say=said.append)
        assert record.winner == "torch-fp32"
        assert "did not take everything" in record.mlflow.warning
        assert "secret" not in json.dumps(record.as_dict()) + "".join(said)

    def test_the_registered_winner_scores_in_a_process_without_optinfer(
        self, job: Callable[..., Any], tracking: str, table: Path, tmp_path: Path
    ) -> None:
        import subprocess
        import sys

        record = optinfer.optimize(job(), ["torch-fp32", "onnx-fp32"], register="encoder")
        assert record.registered.uri == f"models:/encoder/{record.registered.version}"
        code = (
            "import sys, mlflow, numpy as np, pandas as pd, pyarrow.parquet as pq\n"
            f"mlflow.set_tracking_uri({tracking!r})\n"
            f"model = mlflow.pyfunc.load_model({record.registered.uri!r})\n"
            "assert model.metadata.signature.inputs.input_names() == ['text'], model.metadata.signature\n"
            f"rows = pq.read_table({str(table)!r}, columns=['text']).slice(0, 4).to_pandas()\n"
            "answers = model.predict(pd.concat([rows, pd.DataFrame({'text': [None]})], ignore_index=True))\n"
            "assert len(answers) == 5 and answers['embedding'][4] is None or answers['embedding'].isna()[4]\n"
            "print(len(answers['embedding'][0]), 'ray' in sys.modules, sys.modules['optinfer'].__file__)\n"
        )
        # -P and another folder: the package that the model carries is the only one to be found.
        found = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=200, cwd=tmp_path
        )
        assert found.returncode == 0, found.stderr[-2000:]
        width, ray, package = found.stdout.split()[-3:]
        assert (width, ray) == ("384", "False")
        assert not package.startswith(str(REPO)), "the model brings the code that scores"


@pytest.mark.slow
def test_the_command_prints_a_table_and_ends_with_4_where_nothing_passes(
    write_job: Any, write_table: WriteTable, run_cli: RunCli, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "t.parquet", rows=40)
    path = write_job(
        table, tmp_path / "out", variant="auto", gate={"min": 0.999, "sample_rows": 16}, model__max_length=64
    )
    code, out, _ = run_cli("optimize", path, "--variants", "onnx-int4-weights", "--register", "nothing")
    assert code == 4
    assert "| `onnx-int4-weights` | no " in out
    assert "no variant passes the gate" in out
    assert "registered" not in out


def test_an_unknown_candidate_is_refused_at_once(make_job: MakeJob, write_table: WriteTable, tmp_path: Path) -> None:
    job = make_job(write_table(tmp_path / "t.parquet"), tmp_path / "out", variant="auto")
    with pytest.raises(ConfigError, match="did you mean 'onnx-fp32'"):
        optinfer.optimize(job, ["onnx-fp23"])


def test_a_table_without_rows_is_refused(make_job: MakeJob, write_table: WriteTable, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", rows=0)
    with pytest.raises(ConfigError, match="its table has none"):
        optinfer.optimize(make_job(table, tmp_path / "out", variant="auto"))
