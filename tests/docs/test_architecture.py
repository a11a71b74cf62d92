"""The packages of docs/architecture.md, installed as a third party would, score a table as the documentation says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import REPO

KINDS = ("backend", "technique", "family", "source", "sink", "target")
ROWS = 300
WEIGHTS = np.array([[1.23456], [-2.34567]], dtype=np.float32)


def written(folder: Path) -> list[Path]:
    """Write the packages of the document; return their folders."""
    text = (REPO / "docs" / "architecture.md").read_text()
    for name, content in re.findall(r"^`(\w+/[\w.]+)`\n```\w+\n(.*?)^```$", text, re.M | re.S):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    return [folder / kind for kind in KINDS]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the six packages, as pip installs them."""
    site = tmp_path_factory.mktemp("site")
    folders = map(str, written(tmp_path_factory.mktemp("packages")))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(site), *folders], check=True, capture_output=True, text=True)
    return site


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Write a table of points as CSV, a model of heights, and a job that scores one with the other."""
    rng = np.random.default_rng(0)
    points = pa.table({"id": range(ROWS), "a": rng.normal(size=ROWS), "b": rng.normal(size=ROWS)})
    pyarrow.csv.write_csv(points, tmp_path / "points.csv")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["xy", "w"], ["height"])],
        "heights",
        [helper.make_tensor_value_info("xy", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("height", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    settings = {
        "name": "heights",
        "source": {"path": str(tmp_path / "points.csv"), "columns": {"x": "a", "y": "b"}, "fragment_rows": 100},
        "model": {"path": str(tmp_path / "model.onnx"), "family": "points", "scale": 2.0},
        "variants": {"rounded": {"steps": [{"round-weights": {"decimals": 1}}], "backend": "onnx-reference"}},
        "variant": "rounded",
        "gate": {"min": 0.9, "sample_rows": 64},
        "sink": {"path": str(tmp_path / "out"), "format": "symlink", "columns": ["id"]},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "job.yaml"


def optinfer(installed: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{REPO}", "OPTINFER_HOME": str(tmp_path / "home")
    }  # fmt: skip
    command = [sys.executable, "-m", "optinfer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)


def test_every_package_is_about_thirty_lines(tmp_path: Path) -> None:
    for folder in written(tmp_path):
        (module,) = folder.glob("*.py")
        assert len([line for line in module.read_text().splitlines() if line.strip()]) <= 45, module.name


def test_a_table_is_scored_through_all_of_them(installed: Path, tmp_path: Path, job: Path) -> None:
    done = optinfer(installed, tmp_path, "run", str(job), "--json", "--address", "local")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["variant"], record["rows_out"], record["fragments"]) == ("rounded", ROWS, 3)
    assert record["certificate"]["executed"]["backend"] == "onnx-reference"
    assert record["certificate"]["notes"] == ["1 decimals kept"]
    parts = (tmp_path / "out" / "_symlink_format_manifest" / "manifest").read_text().splitlines()
    scored = pa.concat_tables(map(pq.read_table, parts)).sort_by("id")
    points = pyarrow.csv.read_csv(tmp_path / "points.csv")
    expected = 2.0 * np.stack([points["a"], points["b"]], axis=1) @ WEIGHTS.round(1)
    np.testing.assert_allclose(scored["height"], expected.reshape(-1), rtol=1e-5, atol=1e-5)


def test_a_schedule_is_rendered_for_a_third_partys_target(installed: Path, tmp_path: Path, job: Path) -> None:
    pytest.importorskip("croniter", reason="the extra `schedule` is not installed")
    options = ("--cron", "30 3 * * *", "--timezone", "UTC", "--target", "anacron", "--out", "nightly")
    dated = ("--set", f"sink.path={tmp_path}/out-{{date}}")
    done = optinfer(installed, tmp_path, "schedule", str(job), *dated, *options)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "nightly" / "optinfer-heights.anacrontab").read_text().splitlines()
    assert line.startswith("1 10 optinfer-heights optinfer run ")
    assert line.endswith(" --logical-date $(date +%F)")
    assert "append optinfer-heights.anacrontab to /etc/anacrontab" in done.stdout


def test_a_setting_of_a_third_partys_family_is_checked_like_any_other(
    installed: Path, tmp_path: Path, job: Path
) -> None:
    wrong = optinfer(installed, tmp_path, "plan", str(job), "--set", "model.scale=large")
    assert (wrong.returncode, "model.scale: Input should be a valid number" in wrong.stderr) == (2, True), wrong.stderr
    unknown = optinfer(installed, tmp_path, "plan", str(job), "--set", "model.scal=2")
    assert "unknown key 'model.scal'; did you mean 'scale'?" in unknown.stderr
