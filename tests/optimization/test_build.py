"""Artifacts are named by all that shaped them, complete when they appear, and built once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optinfer_written
import pytest

from optinfer.errors import NoVariantError, OptinferError
from optinfer.models.artifact import Artifact
from optinfer.optimization import build as building
from optinfer.optimization.techniques import BuildContext
from optinfer.optimization.variants import Step, Variant

VARIANT = Variant(name="v", steps=(Step("written"),), backend="onnxruntime", about="")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
    return Artifact(path=str(tmp_path), format="torch", precision="fp32", key="model")


@pytest.fixture
def technique() -> list[Any]:
    """Return the calls of the technique `written`; an exception in the list is raised."""
    optinfer_written.calls.clear()
    return optinfer_written.calls


def context() -> BuildContext:
    return BuildContext(None, None)  # type: ignore[arg-type]


def test_the_second_build_comes_from_the_cache(model: Artifact, technique: list[Any]) -> None:
    first = building.build(VARIANT, model, "rows", context)
    assert building.build(VARIANT, model, "rows", context) == first
    assert len(technique) == 1
    assert Path(first.path, "model.onnx").is_file()


@pytest.mark.parametrize("damage", [b"", b"{g\xff", b"[]", b"{}"])
@pytest.mark.parametrize("file", ["artifact.json", "model.onnx"])
def test_an_artifact_that_was_damaged_is_built_again(
    model: Artifact, technique: list[Any], file: str, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first = building.build(VARIANT, model, "rows", context)
    whole = Path(first.path, "model.onnx").read_bytes()
    Path(first.path, file).write_bytes(damage)
    assert building.cached(VARIANT, model, "rows") is None
    again = building.build(VARIANT, model, "rows", context)
    assert (again.path, again.key) == (first.path, first.key)
    assert len(technique) == 2
    assert Path(first.path, "model.onnx").read_bytes() == whole
    assert building.cached(VARIANT, model, "rows") == again
    assert "is damaged" in caplog.text


def test_a_disk_without_room_is_said_before_a_build(model: Artifact, technique: list[Any], tmp_path: Path) -> None:
    import os

    with open(tmp_path / "weights", "wb") as sparse:
        os.truncate(sparse.fileno(), 2**43)
    Path(tmp_path, "home").mkdir()
    with pytest.raises(OptinferError, match="MB free"):
        building.build(VARIANT, model, "rows", context)
    assert technique == []


def test_a_copied_home_uses_its_own_files(
    model: Artifact, technique: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = building.build(VARIANT, model, "rows", context)
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "copy"))
    copied = building.build(VARIANT, model, "rows", context)
    assert (copied.path, copied.entry) == (first.path.replace("/home/", "/copy/"), first.entry)
    assert len(technique) == 1


def test_a_build_that_fails_leaves_nothing_that_loads(model: Artifact, technique: list[Any]) -> None:
    technique.append(RuntimeError("out of memory"))
    with pytest.raises(NoVariantError, match="written cannot treat this model: RuntimeError: out of memory"):
        building.build(VARIANT, model, "rows", context)
    technique.clear()
    assert Path(building.build(VARIANT, model, "rows", context).path, "model.onnx").is_file()
    assert len(technique) == 1


def test_options_model_and_toolchain_change_the_key_and_calibration_only_where_it_counts() -> None:
    other = Variant(name="v", steps=(Step("written", {"opset": 21}),), backend="onnxruntime", about="")
    key = building.keys(VARIANT, "model", "rows")[-1]
    assert building.keys(other, "model", "rows")[-1] != key
    assert building.keys(VARIANT, "model2", "rows")[-1] != key
    assert building.keys(VARIANT, "model", "other rows")[-1] == key
    calibrated = Variant(name="v", steps=(Step("written"), Step("openvino_int8_static")), backend="openvino", about="")
    assert building.keys(calibrated, "m", "rows")[-1] != building.keys(calibrated, "m", "other rows")[-1]
    assert building.keys(VARIANT, "model", "rows", lambda package: "another")[-1] != key
