"""Sizes that a file lets vary and a job fixes: pictures as numbers, through a network that takes any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from optinfer.config import ModelConfig
from optinfer.errors import ConfigError
from optinfer.families import FAMILIES
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conftest import RunCli, located

DRAWN = np.random.default_rng(3)
KERNEL = DRAWN.normal(size=(5, 3, 3, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a convolution over pictures of any height and width; a row gives the mean of each of its five channels."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["y"]),
    ]
    picture = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3, "height", "width"])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 5])
    graph = helper.make_graph(nodes, "g", [picture], [answer], [numpy_helper.from_array(KERNEL, "kernel")])
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def family_of(path: Path, **settings: Any) -> Any:
    return FAMILIES.get("tensor").load(located(path, "tensor"), settings)


def column(pictures: np.ndarray[Any, Any]) -> pa.Table:
    flat = pictures.astype(np.float32).reshape(len(pictures), -1)
    return pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])})


@pytest.mark.parametrize("size", [(12, 20), (20, 12)])
def test_rows_are_pictures_of_the_size_that_the_job_says(network: Path, size: tuple[int, int]) -> None:
    """240 numbers a channel are either; torch is asked."""
    import torch

    pictures, model = DRAWN.normal(size=(7, 3, *size)).astype(np.float32), located(network, "tensor")
    replica = Replica(
        ReplicaSettings(
            family="tensor",
            family_settings={"inputs": {"x": [3, *size]}},
            model=model,
            backend="onnxruntime",
            artifact=model,
            threads=1,
        )
    )
    found = replica.score(column(pictures)).added
    maps = torch.nn.functional.conv2d(torch.from_numpy(pictures), torch.from_numpy(KERNEL))
    np.testing.assert_allclose(found["y"].to_pylist(), maps.mean((2, 3)).numpy(), atol=1e-5)
    assert replica.family.reference(column(pictures), found).agrees


def test_a_row_of_another_size_is_rejected_by_name(network: Path) -> None:
    family = family_of(network, inputs={"x": [3, 4, 4]})
    rows = pa.table({"x": pa.array([[0.5] * 48, [0.5] * 51], pa.list_(pa.float32()))})
    assert family.preprocess(rows).rejected == {1: "x takes 48 numbers, the row has 51"}
    with pytest.raises(ConfigError, match=r"input 'x' takes 48 numbers a row, source.columns gives it 75"):
        family.check(column(np.zeros((1, 3, 5, 5))).schema, {"x": "x"})


def test_a_micro_batch_of_large_rows_is_small(network: Path) -> None:
    assert family_of(network, inputs={"x": [3, 4, 4]}).max_batch_size == 1024
    assert family_of(network, inputs={"x": [3, 224, 224]}).max_batch_size == 27
    assert family_of(network, inputs={"x": [3, 4096, 4096]}).max_batch_size == 1


def test_a_job_says_them(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: RunCli) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(column(np.zeros((9, 3, 4, 4))), "t.parquet")
    assert "model.inputs: {x: [3, ?, ?]}" in " ".join(
        run_cli("init", "--table", "t.parquet", "--model", network)[2].split()
    )
    said = ("--set", "model.inputs={x: [3, 4, 4]}")
    assert run_cli("init", "--table", "t.parquet", "--model", network, *said)[0] == 0
    code, _, err = run_cli("plan", "job.yaml")
    assert code == 0, err
    assert run_cli("plan", "job.yaml", "--set", "model.inputs={x: [3, 5, 5]}")[0] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"varies along 2 axes, and .* say those of this table: model.inputs: {x: \[3, \?, \?\]}"),
        ({"inputs": {"x": [1, 4, 4]}}, r"x is \[1, 4, 4\], the model takes \[3, any, any\] a row"),
        ({"inputs": {"x": [3, 16]}}, r"x is \[3, 16\], the model takes \[3, any, any\] a row"),
        ({"inputs": {"picture": [3, 4, 4]}}, r"no input 'picture'"),
    ],
)
def test_sizes_that_are_missing_or_wrong_are_refused_with_the_fix(
    network: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        family_of(network, **settings)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("tensor", "inputs", {"x": [3]}),
        ("text-classification", "threshold", 0.5),
        ("image-classification", "threshold", 0.5),
    ],
)
def test_a_setting_that_is_left_out_leaves_a_job_what_it_was(family: str, key: str, value: object) -> None:
    """Outputs that were begun before there was such a setting go on."""
    assert key not in ModelConfig(path="a", family=family).identity
    assert key in ModelConfig(path="a", family=family, **{key: value}).identity
