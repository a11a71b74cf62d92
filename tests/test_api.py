"""Jobs as they come to hand, and records as notebooks show them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

import optinfer
from optinfer.api import job_of
from optinfer.config import JobConfig
from optinfer.errors import ConfigError
from optinfer.records.run import MlflowRun, RunRecord
from tests.conftest import REPO, job_settings


def test_a_mapping_a_job_and_a_file_are_the_same_job(tmp_path: Path) -> None:
    settings = job_settings("t.parquet", "out")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
    job = job_of(settings)
    assert isinstance(job, JobConfig)
    assert job_of(job) is job
    assert job_of(tmp_path / "job.yaml") == job_of(str(tmp_path / "job.yaml")) == job


def test_a_mistake_in_a_mapping_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'sink\.pth'; did you mean 'path'"):
        optinfer.plan({**job_settings("t.parquet", "out"), "sink": {"path": "out", "pth": "x"}})


def test_plan_answers_a_record(sample_table: Path, tmp_path: Path) -> None:
    settings = job_settings(sample_table, tmp_path / "out", variant="torch-fp32", gate={"min": 0.9})
    preview = optinfer.plan(settings)
    assert (preview.rows, preview.variant.partition(":")[0]) == (2000, "torch-fp32")
    assert "<strong>Preview</strong>" in preview._repr_html_()


def test_every_public_function_says_what_it_takes_and_returns() -> None:
    for name in optinfer.__all__:
        if inspect.isfunction(function := getattr(optinfer, name)):
            given = inspect.signature(function).parameters
            assert all(parameter.annotation is not parameter.empty for parameter in given.values()), name
            assert function.__annotations__["return"] not in ("Any", "object"), name
            assert inspect.getdoc(function), name
    assert set(optinfer.__all__) <= set(dir(optinfer))
    assert get_type_hints(RunRecord)


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, optinfer; optinfer.run; print([m for m in ('ray', 'torch', 'mlflow', 'pyarrow') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_record_is_shown_whole_and_nothing_in_it_is_markup_or_secret() -> None:
    record = RunRecord(
        run_id="<b>r</b>",
        fragments=3,
        rows_in=12_345,
        output="s3://KEY:hunter2secret@bucket/out",
        rows_by_node={"a": 1, "b": 2},
        mlflow=MlflowRun(uri="sqlite:///m.db", experiment="e", run_id=None),
    )
    html = record._repr_html_()
    assert "&lt;b&gt;r&lt;/b&gt;" in html
    assert "12,345" in html
    assert "sqlite:///m.db" in html
    assert "<b>" not in html
    assert "hunter2secret" not in html
    assert html.count("<table>") == html.count("</table>")
