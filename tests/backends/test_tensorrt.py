"""TensorRT's parts that need no GPU: shapes, options, engine keys, and why it cannot run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from optinfer.backends import onnxruntime_tensorrt as tensorrt
from optinfer.errors import ConfigError, OptinferError
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import tensorrt_profile
from optinfer.system.machine import lacks_nvidia_gpu

AXES = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask")}
ARTIFACT = Artifact(path="/nowhere", format="onnx", entry="model.onnx", precision="fp32", key="model")


def context(lengths: list[int]) -> Any:
    rows = [{name: np.ones((1, n), dtype=np.int64) for name in AXES} for n in lengths]
    return SimpleNamespace(family=SimpleNamespace(dynamic_axes=AXES), calibration_batches=lambda count: rows[:count])


def test_a_profile_spans_the_rows_and_is_tuned_for_the_usual_one(tmp_path: Path) -> None:
    change = tensorrt_profile.run(ARTIFACT, context([5, 40, 90]), tmp_path, tensorrt_profile.technique.defaults)
    profile = change.load_options["profile"]
    assert (change.format, change.precision, change.load_options["fp16"]) == ("onnx", "fp16", True)
    assert profile["min"] == {name: [1, 1] for name in AXES}
    assert profile["opt"] == {name: [64, 40] for name in AXES}
    assert profile["max"] == {name: [64, 512] for name in AXES}
    assert not list(tmp_path.iterdir()), "the model's file stays where it is"


def test_a_longer_row_than_expected_widens_the_profile() -> None:
    shapes: list[dict[str, tuple[int, ...]]] = [{"input_ids": (1, 10)}, {"input_ids": (1, 700)}]
    assert tensorrt_profile.profile(shapes, AXES, 8, 512)["max"] == {"input_ids": [8, 700]}


def test_axes_that_do_not_vary_keep_their_size() -> None:
    shapes: list[dict[str, tuple[int, ...]]] = [{"pixel_values": (1, 3, 224, 224)}] * 2
    found = tensorrt_profile.profile(shapes, {"pixel_values": {0: "batch"}}, 32, 512)
    assert [found[bound]["pixel_values"] for bound in ("min", "opt", "max")] == [
        [1, 3, 224, 224],
        [32, 3, 224, 224],
        [32, 3, 224, 224],
    ]


def test_a_profile_needs_rows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the sample has none"):
        tensorrt_profile.run(ARTIFACT, context([]), tmp_path, tensorrt_profile.technique.defaults)


def test_options_are_written_as_tensorrt_reads_them(tmp_path: Path) -> None:
    profile = {"min": {"a": [1, 1], "b": [1, 1]}, "max": {"a": [8, 512], "b": [8, 512]}}
    found = tensorrt.provider_options(profile, True, tmp_path)
    assert found["trt_profile_min_shapes"] == "a:1x1,b:1x1"
    assert found["trt_profile_max_shapes"] == "a:8x512,b:8x512"
    assert found["trt_fp16_enable"] == "True"
    assert found["trt_engine_cache_path"] == str(tmp_path)
    assert "trt_profile_opt_shapes" not in tensorrt.provider_options({}, False, tmp_path)


def test_a_micro_batch_is_split_to_what_the_engine_takes() -> None:
    rows = {"input_ids": np.arange(20).reshape(10, 2)}
    parts = list(tensorrt.fitting(rows, {"max": {"input_ids": [4, 512]}}))
    assert [len(part["input_ids"]) for part in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([part["input_ids"] for part in parts]), rows["input_ids"])
    assert [len(part["input_ids"]) for part in tensorrt.fitting(rows, {})] == [10]


def test_a_row_too_long_for_the_engine_is_refused_with_the_fix() -> None:
    rows = {"input_ids": np.ones((2, 600), dtype=np.int64)}
    with pytest.raises(OptinferError, match=r"at most \[4, 512\].*`longest`"):
        list(tensorrt.fitting(rows, {"max": {"input_ids": [4, 512]}}))


def test_engines_are_keyed_by_all_that_shapes_them() -> None:
    parts = ("artifact", "1.31.1", "10.9", "NVIDIA H100, 580.1")
    keys = {tensorrt.engine_key(*parts[:i], "other", *parts[i + 1 :]) for i in range(4)}
    assert len(keys | {tensorrt.engine_key(*parts)}) == 5


def test_a_library_is_found_where_the_loader_is_told_to_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")
    assert tensorrt.library("libnvinfer.so.test") is None
    (tmp_path / "libnvinfer.so.test").write_text("")
    assert tensorrt.library("libnvinfer.so.test") == tmp_path / "libnvinfer.so.test"


def test_what_is_missing_is_named_with_the_fix(tmp_path: Path) -> None:
    assert tensorrt.unavailable("cpu") == "TensorRT runs on cuda, not on cpu"
    assert tensorrt.lacking("no GPU here", None) == "no GPU here"
    assert "pip install 'tensorrt-cu13<11'" in (tensorrt.lacking(None, None) or "")
    assert tensorrt.lacking(None, tmp_path / "libnvinfer.so.10") is None


def test_a_machine_without_a_gpu_says_so() -> None:
    if reason := lacks_nvidia_gpu():
        assert tensorrt.unavailable("cuda") == reason
