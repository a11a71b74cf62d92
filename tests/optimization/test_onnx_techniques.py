"""What the ONNX and OpenVINO techniques do to a graph, on a tiny one: MatMul, Relu, MatMul with an open batch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optinfer import plugins
from optinfer.errors import ConfigError
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import TECHNIQUES, Change, _onnx
from optinfer.system.machine import VNNI, cpu_features
from tests.conftest import REPO
from tests.other_nodes import cpu_without

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WIDTH, HIDDEN = 32, 64
EMULATOR = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(64, WIDTH)).astype(np.float32)
# One channel far above the others, as transformers have them.
OUTLIERS = ROWS * np.where(np.arange(WIDTH) == 3, 50, 1).astype(np.float32)


@dataclass
class Context:
    """The part of a BuildContext that these techniques use."""

    rows: np.ndarray[Any, Any]

    def calibration_batches(self, rows: int) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        for row in self.rows[:rows]:
            yield {"x": row[None]}


@pytest.fixture
def source(tmp_path: Path) -> Artifact:
    first = RNG.normal(size=(WIDTH, HIDDEN)).astype(np.float32) / 8
    second = RNG.normal(size=(HIDDEN, WIDTH)).astype(np.float32) / 8
    return saved(
        tmp_path / "source",
        [("MatMul", ["x", "w1"], ["a"]), ("Relu", ["a"], ["b"]), ("MatMul", ["b", "w2"], ["y"])],
        {"w1": first, "w2": second},
        ["batch", WIDTH],
        ["batch", WIDTH],
    )


def saved(folder: Path, nodes: list[Any], weights: dict[str, Any], given: list[Any], result: list[Any]) -> Artifact:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node(kind, i, o, name=f"{kind}_{o[0]}", **(rest[0] if rest else {}))
            for kind, i, o, *rest in nodes
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder.mkdir()
    onnx.save(model, str(folder / "model.onnx"))
    return Artifact(path=str(folder), format="onnx", entry="model.onnx", precision="fp32", key="model")


def changed(name: str, source: Artifact, out: Path, rows: Any = ROWS, **options: Any) -> Change:
    technique = TECHNIQUES.get(name)
    if missing := plugins.missing_modules(technique.requires):
        pytest.skip(f"not installed: {missing}")
    out.mkdir(exist_ok=True)
    return technique.run(source, Context(rows), out, {**technique.defaults, **options})


def operators(folder: Path) -> Counter[str]:
    return _onnx.operators(onnx.load(str(folder / "model.onnx")))


def answers(model: Path, rows: Any = ROWS) -> Any:
    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0]


def cosine(first: Any, second: Any) -> float:
    first, second = first.astype(np.float64), second.astype(np.float64)
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize(
    ("technique", "precision", "least"),
    [
        ("onnx_int8_static", "int8", 0.99),
        ("onnx_int8_qdq", "int8", 0.999),
        ("onnx_int4_weights", "int4", 0.98),
        ("onnx_fp16", "fp16", 0.99999),
        ("onnx_optimize", "fp32", 0.9999999),
    ],
)
def test_an_onnx_technique_keeps_answers_inputs_and_the_open_batch(
    technique: str, precision: str, least: float, source: Artifact, tmp_path: Path
) -> None:
    change = changed(technique, source, tmp_path / "out")
    given, gained = answers(source.file), answers(tmp_path / "out" / "model.onnx")
    assert (change.format, change.precision) == ("onnx", precision)
    assert gained.dtype == np.float32
    assert cosine(given, gained) > least


@pytest.mark.parametrize("technique", ["onnx_int8_static", "onnx_int8_qdq", "onnx_int4_weights"])
def test_a_row_answers_the_same_alone(technique: str, source: Artifact, tmp_path: Path) -> None:
    changed(technique, source, tmp_path / "out")
    together = answers(tmp_path / "out" / "model.onnx")
    np.testing.assert_allclose(answers(tmp_path / "out" / "model.onnx", ROWS[:1]), together[:1], atol=1e-5)


@pytest.mark.parametrize("technique", ["onnx_int8_static", "onnx_int8_qdq"])
def test_static_int8_without_rows_is_refused(technique: str, source: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the sample has none"):
        changed(technique, source, tmp_path / "out", rows=ROWS[:0])


@pytest.mark.parametrize("technique", ["onnx_int8_static", "onnx_int8_qdq", "onnx_int4_weights", "onnx_fp16"])
def test_a_model_that_is_not_fp32_any_more_is_refused(technique: str, source: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the one before it left int8"):
        changed(technique, replace(source, precision="int8"), tmp_path / "out")


def test_qdq_quantizes_what_goes_into_products_and_not_what_comes_out(source: Artifact, tmp_path: Path) -> None:
    changed("onnx_int8_qdq", source, tmp_path / "out")
    assert operators(tmp_path / "out")["QuantizeLinear"] == 2


def test_smoothing_saves_the_channels_beside_an_outlier(source: Artifact, tmp_path: Path) -> None:
    changed("onnx_int8_qdq", source, tmp_path / "smooth", rows=OUTLIERS)
    changed("onnx_int8_qdq", source, tmp_path / "plain", rows=OUTLIERS, smoothing=0)
    # Judged on rows without the outlier's channel, which would otherwise drown the others.
    rows = OUTLIERS * (np.arange(WIDTH) != 3).astype(np.float32)
    given = answers(source.file, rows)
    smooth, plain = (cosine(given, answers(tmp_path / kind / "model.onnx", rows)) for kind in ("smooth", "plain"))
    assert 1 - smooth < (1 - plain) / 4


def test_smoothing_treats_transposed_weights_and_channels_that_never_move(tmp_path: Path) -> None:
    weight = RNG.normal(size=(HIDDEN, WIDTH)).astype(np.float32)
    nodes = [("Gemm", ["x", "w", "bias"], ["y"], {"transB": 1})]
    given = saved(tmp_path / "gemm", nodes, {"w": weight, "bias": weight[:, 0]}, ["batch", WIDTH], ["batch", HIDDEN])
    rows = ROWS.copy()
    rows[:, 5] = 0
    changed("onnx_int8_qdq", given, tmp_path / "out", rows=rows)
    assert cosine(answers(given.file, rows), answers(tmp_path / "out" / "model.onnx", rows)) > 0.999


def test_weights_that_are_transposed_at_run_time_are_quantized_too(source: Artifact, tmp_path: Path) -> None:
    weight = RNG.normal(size=(HIDDEN, WIDTH)).astype(np.float32)
    nodes = [("Transpose", ["w"], ["t"], {"perm": [1, 0]}), ("MatMul", ["x", "t"], ["y"])]
    given = saved(tmp_path / "transposed", nodes, {"w": weight}, ["batch", WIDTH], ["batch", HIDDEN])
    changed("onnx_int4_weights", given, tmp_path / "out")
    assert operators(tmp_path / "out")["MatMulNBits"] == 1


@pytest.mark.parametrize("technique", ["onnx_int8_static", "onnx_int8_qdq"])
def test_convolutions_are_quantized(technique: str, tmp_path: Path) -> None:
    kernel = RNG.normal(size=(8, 3, 3, 3)).astype(np.float32)
    nodes = [("Conv", ["x", "w"], ["a"], {"pads": [1, 1, 1, 1]}), ("Relu", ["a"], ["b"])]
    nodes += [("Conv", ["b", "v"], ["y"])]
    weights = {"w": kernel, "v": RNG.normal(size=(4, 8, 3, 3)).astype(np.float32)}
    given = saved(tmp_path / "cnn", nodes, weights, ["batch", 3, 16, 16], ["batch", 4, 14, 14])
    images = RNG.normal(size=(8, 3, 16, 16)).astype(np.float32)
    changed(technique, given, tmp_path / "out", rows=images)
    assert operators(tmp_path / "out")["QuantizeLinear"] >= 2
    assert cosine(answers(given.file, images), answers(tmp_path / "out" / "model.onnx", images)) > 0.999


INT8 = ("onnx_int8_dynamic", "onnx_int8_qdq", "onnx_int8_static", "openvino_int8_static")


@pytest.mark.parametrize(("reduced", "bits"), [(True, 7), (False, 8)])
@pytest.mark.parametrize("technique", INT8)
def test_int8_weights_stay_within_seven_bits_where_sums_may_saturate(
    technique: str, reduced: bool, bits: int, source: Artifact, tmp_path: Path
) -> None:
    change = changed(technique, source, tmp_path / "out", reduce_range=reduced)
    largest = largest_weight(tmp_path / "out", tmp_path / "folded")
    assert 2 ** (bits - 2) < largest <= 2 ** (bits - 1)
    if change.format == "onnx":
        assert change.load_options.get("full_range", False) is not reduced, "what tells the session to sum exactly"


def largest_weight(made: Path, folder: Path) -> int:
    """Return the largest of a model's 8-bit weights, once what is constant in it is folded."""
    from onnx import TensorProto, numpy_helper

    if (made / "model.xml").exists():
        openvino = pytest.importorskip("openvino")
        found = openvino.Core().read_model(str(made / "model.xml")).get_ops()
        constants = [op for op in found if op.get_type_name() == "Constant"]
        return max(int(np.abs(op.data.astype(int)).max()) for op in constants if op.data.dtype == np.int8)
    folder.mkdir()
    _onnx.optimize(made / "model.onnx", folder, "basic")
    weights = onnx.load(str(folder / "model.onnx")).graph.initializer
    arrays = [
        numpy_helper.to_array(w).astype(int) for w in weights if w.data_type == TensorProto.INT8 and len(w.dims) > 1
    ]
    return max(int(np.abs(array).max()) for array in arrays)


@pytest.mark.parametrize(("features", "reduced"), [(VNNI, True), ((), not set(VNNI) & set(cpu_features()))])
def test_whether_they_must_is_read_from_the_cpu(features: tuple[str, ...], reduced: bool, tmp_path: Path) -> None:
    code = "from optinfer.optimization.techniques._saturation import reduce_range; print(reduce_range('x', 'auto'))"
    before = cpu_without(tmp_path, *features)
    told = subprocess.run([*before, sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(reduced)


@pytest.mark.skipif(not EMULATOR, reason="needs qemu-user, which emulates a CPU without VNNI")
@pytest.mark.parametrize("technique", [name for name in INT8 if name.startswith("onnx")])
@pytest.mark.parametrize("reduced", [True, False])
def test_sums_that_would_saturate_do_not_on_avx2(technique: str, reduced: bool, tmp_path: Path) -> None:
    """Run on an emulated Haswell: in a plain session, weights of full range are wrong by 40% there."""
    rows = RNG.uniform(0.8, 1, (32, HIDDEN)).astype(np.float32)
    weight = (RNG.uniform(0.8, 1, (HIDDEN, HIDDEN)) * np.where(np.arange(HIDDEN) % 2, 1, -1)).astype(np.float32)
    given = saved(
        tmp_path / "large", [("MatMul", ["x", "w"], ["y"])], {"w": weight}, ["batch", HIDDEN], ["batch", HIDDEN]
    )
    options = {"smoothing": 0} if technique == "onnx_int8_qdq" else {}
    change = changed(technique, given, tmp_path / "out", rows=rows, reduce_range=reduced, **options)
    np.save(tmp_path / "rows.npy", rows)
    code = f"""
import numpy as np
from optinfer.backends import BACKENDS, Execution
from optinfer.models.artifact import Artifact
made = Artifact(path={str(tmp_path / "out")!r}, entry="model.onnx", format="onnx", precision="int8", key="k",
                load_options={change.load_options!r})
session = BACKENDS.get("onnxruntime").load(made, Execution("cpu", 1, ("y",)), None)
np.save({str(tmp_path / "answers.npy")!r}, session({{"x": np.load({str(tmp_path / "rows.npy")!r})}})["y"])
"""
    command = [str(EMULATOR), "-cpu", "Haswell", os.path.realpath(sys.executable), "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, cwd=REPO, env=environment, capture_output=True, check=True)
    exact = rows @ weight
    assert np.abs(np.load(tmp_path / "answers.npy") - exact).max() < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize("algorithm", ["hqq", "rtn"])
def test_int4_packs_every_weight_and_names_how_it_computes(algorithm: str, source: Artifact, tmp_path: Path) -> None:
    changed("onnx_int4_weights", source, tmp_path / "out", algorithm=algorithm)
    products = onnx.load(str(tmp_path / "out" / "model.onnx")).graph.node
    options = [{a.name: a.i for a in node.attribute} for node in products if node.op_type == "MatMulNBits"]
    assert [(o["bits"], o["accuracy_level"]) for o in options] == [(4, 4), (4, 4)]


def test_a_model_without_weights_has_nothing_to_quantize(tmp_path: Path) -> None:
    given = saved(tmp_path / "relu", [("Relu", ["x"], ["y"])], {}, ["batch", WIDTH], ["batch", WIDTH])
    with pytest.raises(ConfigError, match="no MatMul with constant weights"):
        changed("onnx_int4_weights", given, tmp_path / "out")


@pytest.mark.parametrize(
    ("technique", "options"),
    [
        ("onnx_int8_static", {"model_type": "transfomer"}),
        ("onnx_int8_qdq", {"reduce_range": "maybe"}),
        ("onnx_int8_dynamic", {"reduce_range": "maybe"}),
        ("onnx_int8_static", {"reduce_range": "maybe"}),
        ("openvino_int8_static", {"reduce_range": "maybe"}),
        ("onnx_int4_weights", {"algorithm": "gptq"}),
        ("onnx_int4_weights", {"symmetric": True}),
        ("onnx_optimize", {"level": "all"}),
        ("openvino_convert", {"inference_precision": "fp16"}),
        ("openvino_weights", {"mode": "int2"}),
    ],
)
def test_an_option_that_does_not_exist_is_refused(
    technique: str, options: dict[str, Any], source: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError):
        changed(technique, source, tmp_path / "out", **options)


def test_fp16_halves_the_weights(source: Artifact, tmp_path: Path) -> None:
    changed("onnx_fp16", source, tmp_path / "out")
    types = {tensor.data_type for tensor in onnx.load(str(tmp_path / "out" / "model.onnx")).graph.initializer}
    assert types == {onnx.TensorProto.FLOAT16}


def test_an_optimized_model_brings_its_weights_along(tmp_path: Path) -> None:
    weight = RNG.normal(size=(WIDTH, HIDDEN)).astype(np.float32)
    given = saved(tmp_path / "in", [("MatMul", ["x", "w"], ["y"])], {"w": weight}, ["batch", WIDTH], ["batch", HIDDEN])
    model = onnx.load(str(given.file))
    onnx.save(model, str(given.file), save_as_external_data=True, location="elsewhere.data", size_threshold=0)
    expected = answers(given.file)
    changed("onnx_optimize", given, tmp_path / "out")
    (tmp_path / "in" / "elsewhere.data").unlink()
    np.testing.assert_array_equal(answers(tmp_path / "out" / "model.onnx"), expected)


@pytest.mark.parametrize(
    ("technique", "options", "precision", "kept"),
    [
        ("openvino_convert", {}, "fp32", "f32"),
        ("openvino_convert", {"inference_precision": "bf16"}, "bf16", "f32"),
        ("openvino_weights", {}, "int8", "u8"),
        ("openvino_weights", {"mode": "int8_sym"}, "int8", "i8"),
        ("openvino_weights", {"mode": "int4_sym", "inference_precision": "bf16"}, "int4", "i4"),
    ],
)
def test_an_openvino_technique_stores_the_weights_it_names(
    technique: str, options: dict[str, Any], precision: str, kept: str, source: Artifact, tmp_path: Path
) -> None:
    change = changed(technique, source, tmp_path / "out", **options)
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(str(tmp_path / "out" / "model.xml"))
    stored = {op.get_element_type().get_type_name() for op in model.get_ops() if op.get_type_name() == "Constant"}
    assert (change.format, change.precision) == ("openvino", precision)
    assert change.load_options == {"inference_precision": options.get("inference_precision", "f32")}
    assert kept in stored
