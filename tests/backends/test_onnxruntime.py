"""ONNX Runtime: what was asked for runs, or the session is refused; what ran is read back from the runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optinfer.backends import Arrays, Execution
from optinfer.backends.onnxruntime import OnnxRuntimeSession, load
from optinfer.errors import LoadError, UnavailableError
from optinfer.inference.replica import ReplicaSettings
from optinfer.models.artifact import Artifact
from optinfer.optimization.certificate import mismatch
from optinfer.optimization.techniques import TECHNIQUES
from optinfer.system.machine import lacks_nvidia_gpu
from tests.conftest import RunCli, everything_under

WIDTH, HIDDEN = 32, 64
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(16, WIDTH)).astype(np.float32)
PIXELS = RNG.normal(size=(4, 3, 16, 16)).astype(np.float32)
PRODUCTS = [("MatMul", ["x", "w1"], ["a"]), ("Tanh", ["a"], ["b"]), ("MatMul", ["b", "w2"], ["y"])]
CONVOLUTIONS = [("Conv", ["x", "w1"], ["a"]), ("Relu", ["a"], ["b"]), ("Conv", ["b", "w2"], ["y"])]


def saved(path: Path, nodes: Any, weights: Any, given: Any, result: Any, dtype: Any = np.float32) -> Artifact:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node(name, inputs, outputs) for name, inputs, outputs in nodes],
        "tiny",
        [helper.make_tensor_value_info("x", kind, given)],
        [helper.make_tensor_value_info("y", kind, result)],
        [numpy_helper.from_array(array.astype(dtype), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.mkdir(parents=True)
    onnx.save(model, str(path / "model.onnx"))
    return Artifact(path=str(path), format="onnx", entry="model.onnx", precision="fp32", key="tiny")


@pytest.fixture
def products(tmp_path: Path) -> Artifact:
    weights = {"w1": RNG.normal(size=(WIDTH, HIDDEN)), "w2": RNG.normal(size=(HIDDEN, WIDTH))}
    return saved(tmp_path / "products", PRODUCTS, weights, ["batch", WIDTH], ["batch", WIDTH])


@pytest.fixture
def convolutions(tmp_path: Path) -> Artifact:
    weights = {"w1": RNG.normal(size=(8, 3, 3, 3)), "w2": RNG.normal(size=(4, 8, 3, 3))}
    return saved(tmp_path / "conv", CONVOLUTIONS, weights, ["batch", 3, 16, 16], ["batch", 4, 12, 12])


class Context:
    """The part of a BuildContext that a technique which calibrates uses."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def calibration_batches(self, rows: int) -> Iterator[Arrays]:
        for row in self.rows[:rows]:
            yield {"x": row[None]}


def made(technique: str, source: Artifact, rows: Any, out: Path) -> Artifact:
    module = TECHNIQUES.get(technique)
    out.mkdir()
    change = module.run(source, Context(rows), out, module.defaults)
    return Artifact(path=str(out), format="onnx", entry="model.onnx", precision=change.precision, key=technique)


def executed(artifact: Artifact, rows: Any) -> dict[str, Any]:
    session = load(artifact, Execution("cpu", 1, ("y",)), lambda: None)
    session({"x": rows})
    return session.executed()


def settings(artifact: Artifact, device: str = "cpu") -> ReplicaSettings:
    return ReplicaSettings(family="tensor", model=artifact, backend="onnxruntime", artifact=artifact, device=device)


class TestWhatRan:
    def test_fp32(self, products: Artifact) -> None:
        ran = executed(products, ROWS)
        assert ran["precisions"] == {"fp32": 2}
        assert (ran["device"], ran["providers"]) == ("cpu", ["CPUExecutionProvider"])
        assert mismatch(settings(products), ran) == ""

    @pytest.mark.parametrize(
        ("technique", "precision"),
        [("onnx_int8_dynamic", "int8"), ("onnx_int8_qdq", "int8"), ("onnx_int4_weights", "int4")],
    )
    def test_quantized_products(self, technique: str, precision: str, products: Artifact, tmp_path: Path) -> None:
        artifact = made(technique, products, ROWS, tmp_path / "made")
        ran = executed(artifact, ROWS)
        assert ran["precisions"] == {precision: 2}, ran["node_types"]
        assert mismatch(settings(artifact), ran) == ""

    def test_quantized_convolutions(self, convolutions: Artifact, tmp_path: Path) -> None:
        assert executed(convolutions, PIXELS)["precisions"] == {"fp32": 2}
        artifact = made("onnx_int8_qdq", convolutions, PIXELS, tmp_path / "made")
        ran = executed(artifact, PIXELS)
        assert ran["precisions"] == {"int8": 2}, ran["node_types"]

    def test_fp16_on_a_cpu_is_fp32_between_casts(self, tmp_path: Path) -> None:
        weights = {"w1": RNG.normal(size=(WIDTH, HIDDEN)), "w2": RNG.normal(size=(HIDDEN, WIDTH))}
        half = saved(tmp_path / "half", PRODUCTS, weights, ["batch", WIDTH], ["batch", WIDTH], np.float16)
        ran = executed(half, ROWS.astype(np.float16))
        assert ran["precisions"] == {"fp32": 2}
        claimed = Artifact(path=half.path, format="onnx", entry=half.entry, precision="fp16", key="half")
        assert mismatch(settings(claimed), ran) == "asked for fp16, it ran fp32 (2)"

    def test_doubles_are_no_fp32(self, tmp_path: Path) -> None:
        weights = {"w1": RNG.normal(size=(WIDTH, HIDDEN)), "w2": RNG.normal(size=(HIDDEN, WIDTH))}
        double = saved(tmp_path / "double", PRODUCTS, weights, ["batch", WIDTH], ["batch", WIDTH], np.float64)
        assert executed(double, ROWS.astype(np.float64))["precisions"] == {"fp64": 2}

    def test_int8_that_ran_as_fp32_is_caught(self, products: Artifact) -> None:
        claimed = Artifact(path=products.path, format="onnx", entry="model.onnx", precision="int8", key="claimed")
        assert mismatch(settings(claimed), executed(claimed, ROWS)) == "asked for int8, it ran fp32 (2)"

    @pytest.mark.parametrize(("between", "precision"), [("Identity", "int8"), ("Abs", "fp32")])
    def test_8_bit_weights_may_be_multiplied_or_unpacked_first(
        self, between: str, precision: str, tmp_path: Path
    ) -> None:
        """Activations stay float: ONNX Runtime multiplies by blocks of 8 bits, or by fp32 where something is between."""
        path = tmp_path / "weights"
        path.mkdir()
        graph = helper.make_graph(
            [
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
                helper.make_node(between, ["d"], ["w"]),
                helper.make_node("MatMul", ["x", "w"], ["y"]),
            ],
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
            [
                numpy_helper.from_array(RNG.integers(-9, 9, (WIDTH, WIDTH)).astype(np.int8), "q"),
                numpy_helper.from_array(np.array(0.1, np.float32), "s"),
                numpy_helper.from_array(np.array(0, np.int8), "z"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, str(path / "model.onnx"))
        artifact = Artifact(path=str(path), format="onnx", entry="model.onnx", precision="int8", key="weights")
        ran = executed(artifact, ROWS)
        assert ran["precisions"] == {precision: 1}
        assert bool(mismatch(settings(artifact), ran)) is (precision == "fp32")

    def test_another_device_is_caught(self, products: Artifact) -> None:
        assert mismatch(settings(products, "cuda"), executed(products, ROWS)) == "asked for cuda, it ran on cpu"

    def test_what_multiplies_nothing_ran_nothing(self, tmp_path: Path) -> None:
        relu = saved(tmp_path / "relu", [("Relu", ["x"], ["y"])], {}, ["batch", WIDTH], ["batch", WIDTH])
        ran = executed(relu, ROWS)
        assert (ran["precisions"], ran["device"]) == ({}, "cpu")

    def test_profiling_leaves_nothing_behind(
        self, products: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        executed(products, ROWS)
        assert everything_under(tmp_path / "here") == []


@pytest.mark.skipif(lacks_nvidia_gpu() is None, reason="a GPU is there")
class TestWithoutAGpu:
    @pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider", "NoSuchProvider"])
    def test_a_provider_that_was_replaced_is_refused(self, provider: str, products: Artifact) -> None:
        with pytest.raises(UnavailableError, match=f"asked for {provider}"):
            OnnxRuntimeSession(products, Execution("cuda", 1, ("y",)), [(provider, {})])

    def test_the_runtime_would_have_replaced_it_silently(self, products: Artifact) -> None:
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime is built without CUDA")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(products.file), options, providers=["CUDAExecutionProvider"])
        assert session.get_providers() == ["CPUExecutionProvider"]

    @pytest.mark.parametrize("command", ["run", "plan"])
    @pytest.mark.parametrize("variant", ["torch-fp16-cuda", "own"])
    def test_a_job_ends_4_before_a_row_is_read(
        self, run_cli: RunCli, write_job: Callable[..., Path], sink: Path, variant: str, command: str
    ) -> None:
        own = {"own": {"steps": ["onnx_export"], "backend": "onnxruntime", "device": "cuda"}}
        job = write_job("/nowhere.parquet", sink, variant=variant, variants=own)
        code, out, err = run_cli(command, job)
        assert code == 4
        assert f"variant {variant} is not available here: no NVIDIA GPU on this machine" in err
        assert (out, sink.exists()) == ("", False)


def test_a_model_that_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    unknown = saved(tmp_path / "m", [("NoSuchOperator", ["x"], ["y"])], {}, ["batch", WIDTH], ["batch", WIDTH])
    with pytest.raises(LoadError, match=r"ONNX Runtime cannot load .*model\.onnx.*NoSuchOperator"):
        load(unknown, Execution("cpu", 1, ("y",)), lambda: None)
