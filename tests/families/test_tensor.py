"""Numbers in, numbers out: what kind of file it is (Google's Magika), tables of measurements, rows of any length."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import optinfer
from optinfer import plugins
from optinfer.errors import ConfigError
from optinfer.families import FAMILIES
from optinfer.families._numbers import read_numbers
from tests.conftest import MakeJob, RunCli, WriteTable, located, read_rows
from tests.families.conftest import WriteModule, quarantined, shipped

pytestmark = pytest.mark.usefixtures("in_this_process")

Model = Callable[..., dict[str, Any]]


class TestMagika:
    """Files of this environment, as Magika's own features; its own answers are the truth."""

    @pytest.fixture(scope="class")
    def model(self) -> Path:
        return shipped("magika", "models", "standard_v3_3", "model.onnx")

    @pytest.fixture(scope="class")
    def files(self) -> list[Path]:
        """Return up to four files of each of many kinds."""
        site = shipped("magika").parent
        kinds = "c cpp css h html js json md pdf png jpg py svg txt ttf yaml xml"
        found: list[Path] = []
        for kind in kinds.split():
            several = (
                f
                for package in ("sklearn", "matplotlib", "skimage", "numpy", "torch", "mlflow")
                for f in (site / package).rglob(f"*.{kind}")
            )
            fit = (f for f in several if f.stat().st_size >= 64 and f.is_file())
            found += [f for f, _ in zip(fit, range(4), strict=False)]
        return found

    @pytest.fixture(scope="class")
    def theirs(self, files: list[Path]) -> list[str]:
        from magika import Magika

        return [str(result.dl.label) for result in Magika().identify_paths(files)]

    @pytest.fixture
    def source(self, tmp_path: Path, write_table: WriteTable, files: list[Path], theirs: list[str]) -> Path:
        features = pa.array([magika_features(f) for f in files], pa.list_(pa.int32()))
        columns = {
            "id": [str(f) for f in files],
            "listed": features,
            "fixed": features.cast(pa.list_(pa.int32(), 2048)),
            "label": [labels_of(shipped("magika")).index(label) for label in theirs],
        }
        return write_table(tmp_path / "files.parquet", columns=columns)

    @pytest.mark.parametrize(
        ("variant", "column"),
        [
            ("onnx-fp32", "listed"),
            ("onnx-int8-dynamic", "fixed"),
            ("openvino-fp32", "fixed"),
            ("openvino-int8-weights", "listed"),
        ],
    )
    def test_files_are_what_magika_says(
        self, make_job: MakeJob, source: Path, sink: Path, model: Path, theirs: list[str], variant: str, column: str
    ) -> None:
        job = make_job(
            source,
            sink,
            source__columns={"bytes": column},
            model={"path": str(model), "family": "tensor"},
            variant=variant,
            gate={"metric": "top1_agreement", "min": 0.9, "sample_rows": 32},
        )
        record = optinfer.run(job)
        assert record.rows_out == len(theirs)
        table = pa.Table.from_pylist(read_rows(sink))
        scores = np.stack(table["target_label"].to_numpy())
        assert scores.shape == (len(theirs), 214)
        names = np.array(labels_of(shipped("magika")))[scores.argmax(axis=1)]
        assert (names == theirs).mean() >= (1.0 if variant.endswith("fp32") else 0.95)
        kinds = {Path(name).suffix: label for name, label in zip(table["id"].to_pylist(), names, strict=True)}
        assert (kinds[".py"], kinds[".png"], kinds[".pdf"], kinds[".css"]) == ("python", "png", "pdf", "css")

    def test_a_label_column_is_held_against_the_largest_number(
        self, make_job: MakeJob, source: Path, sink: Path, model: Path
    ) -> None:
        job = make_job(
            source,
            sink,
            source__columns={"bytes": "fixed"},
            model={"path": str(model), "family": "tensor"},
            variant="onnx-int8-dynamic",
            gate={"label": "label", "max_drop": 0.1, "sample_rows": 32},
        )
        fidelity = optinfer.run(job).certificate.fidelity
        assert (fidelity.metric, fidelity.baseline) == ("accuracy", 1.0)

    def test_what_the_model_cannot_take_is_refused_or_rejected(
        self, make_job: MakeJob, write_table: WriteTable, files: list[Path], tmp_path: Path, sink: Path, model: Path
    ) -> None:
        good = [magika_features(f) for f in files[:24]]
        bad = {"null": None, "hole": [None, *good[0][1:]], "short": good[0][:-1], "large": [2**31, *good[0][1:]]}
        columns = {
            "id": [*map(str, range(12)), *bad, *map(str, range(12, 24))],
            "listed": pa.array([*good[:12], *bad.values(), *good[12:]], pa.list_(pa.int64())),
        }
        source = write_table(tmp_path / "odd.parquet", columns=columns)
        job = make_job(
            source,
            sink,
            source__columns={"bytes": "listed"},
            model={"path": str(model), "family": "tensor"},
            variant="onnx-fp32",
            sink__error_threshold=4,
        )
        assert optinfer.run(job).rows_out == 24
        assert quarantined(sink) == {
            "null": "a value is null",
            "hole": "a value is null",
            "short": "bytes takes 2048 numbers, the row has 2047",
            "large": "a value does not fit int32",
        }

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (pa.array([[0.5] * 2048], pa.list_(pa.float32())), "input 'bytes' takes int32; cast it"),
            (
                pa.array([[1] * 2000], pa.list_(pa.int32(), 2000)),
                "takes 2048 numbers a row, source.columns gives it 2000",
            ),
            (pa.array([7]), "takes 2048 numbers a row, source.columns gives it 1"),
            (pa.array(["text"]), "holds string, input 'bytes' needs numbers"),
        ],
    )
    def test_columns_that_cannot_fit_end_with_exit_code_2(
        self,
        run_cli: RunCli,
        write_job: Any,
        write_table: WriteTable,
        tmp_path: Path,
        sink: Path,
        model: Path,
        column: pa.Array,
        message: str,
    ) -> None:
        source = write_table(tmp_path / "wrong.parquet", columns={"id": ["a"], "numbers": column})
        job = write_job(
            source,
            sink,
            source__columns={"bytes": "numbers"},
            model={"path": str(model), "family": "tensor"},
            variant="onnx-fp32",
        )
        code, _, err = run_cli("run", job)
        assert code == 2
        assert message in " ".join(err.split())


def magika_features(file: Path) -> list[int]:
    """Return the first and the last 1,024 bytes without the white space around the content, padded with 256."""
    content = file.read_bytes()
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    return [*first, *[256] * (1024 - len(first)), *[256] * (1024 - len(last)), *last]


def labels_of(magika: Path) -> list[str]:
    config = json.loads((magika / "models" / "standard_v3_3" / "config.min.json").read_text())
    labels: list[str] = config["target_labels_space"]
    return labels


NETWORK = """
import torch


class Network(torch.nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(30, width), torch.nn.ReLU(), torch.nn.Linear(width, classes))

    def forward(self, measured, scale=None):
        return self.layers(measured).softmax(-1)


class Sums(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, radius, texture):
        return self.layer(radius[:, None] + texture[:, None])[:, 0]
"""


class TestMeasurements:
    """scikit-learn's breast cancer table: thirty columns side by side make one input of the same trained network."""

    @pytest.fixture(scope="class")
    def trained(self) -> tuple[Any, Any, Any]:
        """Return (network of one hidden layer, measurements scaled, diagnoses)."""
        from sklearn.datasets import load_breast_cancer
        from sklearn.neural_network import MLPClassifier
        from sklearn.preprocessing import StandardScaler

        table = load_breast_cancer(as_frame=True)
        measured = StandardScaler().set_output(transform="pandas").fit_transform(table.data)
        network = MLPClassifier((16,), max_iter=500, random_state=0).fit(measured.values, table.target)
        return network, measured, table.target.to_numpy()

    @pytest.fixture(scope="class")
    def state(self, trained: tuple[Any, Any, Any]) -> dict[str, Any]:
        """Return the weights for `Network`: its two outputs are minus and plus half of scikit-learn's one logit."""
        import torch

        (first, last), (bias, final) = trained[0].coefs_, trained[0].intercepts_
        halves = [-0.5, 0.5]
        arrays = {
            "layers.0.weight": first.T,
            "layers.0.bias": bias,
            "layers.2.weight": np.outer(halves, last[:, 0]),
            "layers.2.bias": np.array(halves) * final[0],
        }
        return {name: torch.tensor(array, dtype=torch.float32).contiguous() for name, array in arrays.items()}

    @pytest.fixture
    def source(self, tmp_path: Path, write_table: WriteTable, trained: tuple[Any, Any, Any]) -> Path:
        _, measured, diagnosis = trained
        ids = [f"r{i}" for i in range(len(measured))]
        columns = {"id": ids, **{name: measured[name].to_numpy() for name in measured}, "diagnosis": diagnosis}
        return write_table(tmp_path / "cancer.parquet", columns=columns)

    @pytest.fixture
    def model(self, tmp_path: Path, write_module: WriteModule, state: dict[str, Any]) -> Model:
        """Return a function from a format to the model settings of a job."""
        write_module("networks_of_this_job", NETWORK)

        def make(kind: str) -> dict[str, Any]:
            if kind == "onnx":
                return {"path": str(as_onnx(state, tmp_path / "network.onnx")), "family": "tensor"}
            if kind == "pt2":
                return {
                    "path": str(as_pt2(state, tmp_path / "network.pt2")),
                    "family": "tensor",
                    "outputs": {"benign": 2},
                }
            from safetensors.torch import save_file

            save_file(state, tmp_path / "network.safetensors")
            return {
                "path": str(tmp_path / "network.safetensors"),
                "family": "tensor",
                "class": "networks_of_this_job:Network",
                "arguments": {"width": 16, "classes": 2},
                "outputs": {"benign": 2},
            }

        return make

    @pytest.mark.parametrize(
        ("kind", "variant"),
        [
            ("onnx", "onnx-fp32"),
            ("onnx", "onnx-int8-dynamic"),
            ("onnx", "openvino-int8-static"),
            ("pt2", "torch-fp32"),
            ("pt2", "onnx-fp32"),
            ("pt2", "openvino-fp32"),
            ("safetensors", "torch-fp32"),
            ("safetensors", "onnx-int8-qdq"),
            ("safetensors", "torchao-int8-weights"),
        ],
    )
    def test_every_format_and_variant_predicts_what_scikit_learn_does(
        self,
        make_job: MakeJob,
        source: Path,
        sink: Path,
        model: Model,
        trained: tuple[Any, Any, Any],
        kind: str,
        variant: str,
    ) -> None:
        network, measured, diagnosis = trained
        job = make_job(
            source,
            sink,
            source__columns={"measured": list(measured)},
            source__fragment_rows=256,
            model=model(kind),
            variant=variant,
            gate={"label": "diagnosis", "max_drop": 0.05, "sample_rows": 256},
        )
        record = optinfer.run(job)
        assert record.certificate.fidelity.metric == "accuracy"
        assert record.certificate.fidelity.baseline > 0.95
        found = np.stack([row["benign"] for row in read_rows(sink)])
        assert found.shape == (len(diagnosis), 2)
        expected = network.predict_proba(measured.values)
        if variant.endswith("fp32"):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98

    def test_one_number_a_row_is_compared_by_its_variance(
        self, make_job: MakeJob, source: Path, sink: Path, tmp_path: Path, write_module: WriteModule
    ) -> None:
        import torch
        from safetensors.torch import save_file

        write_module("networks_of_this_job", NETWORK)
        save_file(
            {"layer.weight": torch.tensor([[2.0]]), "layer.bias": torch.tensor([1.0])}, tmp_path / "sums.safetensors"
        )
        model = {
            "path": str(tmp_path / "sums.safetensors"),
            "family": "tensor",
            "class": "networks_of_this_job:Sums",
            "outputs": {"total": 0},
        }
        columns = {"radius": "mean radius", "texture": "mean texture"}
        carried = ["id", *columns.values()]
        job = make_job(
            source,
            sink,
            source__columns=columns,
            source__fragment_rows=256,
            sink__columns=carried,
            model=model,
            variant="onnx-fp32",
            gate={"sample_rows": 64},
        )
        record = optinfer.run(job)
        assert record.gate.metric == "r2"
        rows = read_rows(sink)
        expected = [2 * (row["mean radius"] + row["mean texture"]) + 1 for row in rows]
        np.testing.assert_allclose([row["total"] for row in rows], expected, atol=1e-5)

    def test_weights_of_another_class_are_refused(
        self, make_job: MakeJob, source: Path, sink: Path, model: Model, trained: tuple[Any, Any, Any]
    ) -> None:
        wrong = {**model("safetensors"), "arguments": {"width": 8, "classes": 2}}
        job = make_job(source, sink, source__columns={"measured": list(trained[1])}, model=wrong, variant="torch-fp32")
        with pytest.raises(ConfigError, match=r"(?s)do not fit Network.*check model\.class and model\.arguments"):
            optinfer.run(job)

    @pytest.mark.parametrize(
        ("kind", "changes", "message"),
        [
            ("onnx", {"outputs": {"malign": 2}}, "has no output 'malign'"),
            ("onnx", {"outputs": {"benign": 3}}, "benign has 3 numbers a row, the model gives 2"),
            ("pt2", {"outputs": {"a": 1, "b": 1}}, "names 2 outputs, the model has 1"),
            ("safetensors", {"outputs": {}}, r"does not say what it takes and gives; add model\.class"),
            ("safetensors", {"class": "networks_of_this_job:Netwerk"}, "did you mean 'Network'"),
        ],
    )
    def test_outputs_that_do_not_fit_are_refused(
        self, model: Model, kind: str, changes: dict[str, Any], message: str
    ) -> None:
        settings = {**model(kind), **changes}
        path = settings.pop("path")
        with pytest.raises(ConfigError, match=message):
            FAMILIES.get("tensor").load(located(path, settings.pop("family")), settings)

    def test_an_output_of_another_size_than_the_job_says_is_named(self, model: Model) -> None:
        settings = {**model("safetensors"), "outputs": {"benign": 3}}
        path = settings.pop("path")
        family = FAMILIES.get(settings.pop("family")).load(located(path, "tensor"), settings)
        with pytest.raises(ConfigError, match=r"'benign' has 2 numbers a row, not 3; correct model\.outputs"):
            family.postprocess({"benign": np.zeros((3, 2), np.float32)})


def as_onnx(state: dict[str, Any], path: Path) -> Path:
    """Write the network by hand, as a converter of other libraries' models would."""
    import onnx
    from onnx import helper, numpy_helper

    weights = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in state.items()]
    nodes = [
        helper.make_node("Gemm", ["measured", "layers.0.weight", "layers.0.bias"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "layers.2.weight", "layers.2.bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["benign"], axis=-1),
    ]
    inputs = [helper.make_tensor_value_info("measured", onnx.TensorProto.FLOAT, ["rows", 30])]
    outputs = [helper.make_tensor_value_info("benign", onnx.TensorProto.FLOAT, ["rows", 2])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def as_pt2(state: dict[str, Any], path: Path) -> Path:
    import torch

    network = plugins.load_class("networks_of_this_job:Network")(16, 2).eval()
    network.load_state_dict(state)
    rows = {"measured": {0: torch.export.Dim("rows")}}
    torch.export.save(torch.export.export(network, (torch.zeros(2, 30),), dynamic_shapes=rows), path)
    return path


class TestRowsOfAnyLength:
    """Byte histories of real texts, read by a recurrent network: nothing may be padded."""

    @pytest.fixture(scope="class")
    def archive(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        import torch

        class Reader(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding = torch.nn.Embedding(256, 8)
                self.layer = torch.nn.Conv1d(8, 16, 3, padding=1)
                self.last = torch.nn.Linear(16, 4)

            def forward(self, letters: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
                seen = torch.tanh(self.layer(self.embedding(letters).transpose(1, 2))).transpose(1, 2)
                return self.last((seen * weights[:, :, None]).mean(dim=1))

        torch.manual_seed(0)
        rows, length = torch.export.Dim("rows", max=48), torch.export.Dim("letters")
        example = (torch.zeros(2, 9, dtype=torch.int64), torch.zeros(2, 9))
        shapes = ({0: rows, 1: length}, {0: rows, 1: length})
        path = tmp_path_factory.mktemp("reader") / "reader.pt2"
        torch.export.save(torch.export.export(Reader().eval(), example, dynamic_shapes=shapes), path)
        return path

    @pytest.fixture
    def source(self, tmp_path: Path, write_table: WriteTable, sample_table: Path) -> Path:
        """Write the beginnings of real texts: 30 to 37 letters, so that lengths repeat."""
        import pyarrow.parquet as pq

        texts = pq.read_table(sample_table)["text"].to_pylist()[:64]
        letters = [[*text.encode()][: 30 + i % 8] for i, text in enumerate(texts)]
        weights = [[1.0 + j % 3 for j, _ in enumerate(row)] for row in letters]
        weights[5] = weights[5][:-1]
        letters[6], weights[6] = [], []
        columns = {"id": [*map(str, range(64))], "letters": letters, "weights": weights}
        return write_table(tmp_path / "letters.parquet", columns=columns)

    @pytest.mark.parametrize("variant", ["torch-fp32", "onnx-fp32", "openvino-fp32"])
    def test_answers_are_those_of_each_row_alone(
        self, make_job: MakeJob, source: Path, sink: Path, archive: Path, variant: str
    ) -> None:
        import pyarrow.parquet as pq
        import torch

        job = make_job(
            source,
            sink,
            source__columns={"letters": "letters", "weights": "weights"},
            source__fragment_rows=64,
            model={"path": str(archive), "family": "tensor", "outputs": {"read": 4}},
            variant=variant,
            gate={"min": 0.999, "sample_rows": 16},
            sink__error_threshold=2,
        )
        optinfer.run(job)
        assert quarantined(sink) == {
            "5": "its inputs differ in length",
            "6": "letters takes at least one number, the row has 0",
        }
        module = torch.export.load(archive).module()
        table = {row["id"]: row for row in pq.read_table(source).to_pylist()}
        rows = read_rows(sink)
        assert len(rows) == 62
        for row in rows:
            given = table[row["id"]]
            alone = module(torch.tensor([given["letters"]]), torch.tensor([given["weights"]]))
            np.testing.assert_allclose(row["read"], alone[0].detach(), atol=1e-5)

    def test_rows_of_different_lengths_never_share_a_call(self, source: Path, archive: Path) -> None:
        import pyarrow.parquet as pq

        from optinfer.inference.batching import micro_batches

        family = FAMILIES.get("tensor").load(located(archive, "tensor"), {})
        features = family.preprocess(pq.read_table(source))
        rows = np.array([i for i in range(64) if i not in features.rejected])
        batches = [*micro_batches(rows, features.lengths, 10_000, family.max_batch_size, features.same_length)]
        assert sorted(np.concatenate(batches)) == [*rows]
        assert len(batches) == 8
        for batch in batches:
            assert len({int(n) for n in features.lengths[batch]}) == 1
            assert features.collate(batch)["letters"].shape == (len(batch), features.lengths[batch[0]])

    def test_a_call_has_no_more_rows_than_the_archive_allows(self, archive: Path) -> None:
        assert FAMILIES.get("tensor").load(located(archive, "tensor"), {}).most_rows == 48


@pytest.mark.parametrize(
    ("column", "dtype", "values", "offsets", "rejected"),
    [
        (pa.array([1, None, 3]), "float32", [1, 0, 3], [0, 1, 2, 3], {1: "a value is null"}),
        (pa.array([True, False, None]), "float32", [1, 0, 0], [0, 1, 2, 3], {2: "a value is null"}),
        (pa.array([0, 1, 2]), "bool", [0, 1, 1], [0, 1, 2, 3], {2: "a value does not fit bool"}),
        (
            pa.array([-1, 255, 256]),
            "uint8",
            [255, 255, 0],
            [0, 1, 2, 3],
            {0: "a value does not fit uint8", 2: "a value does not fit uint8"},
        ),
        (pa.array([1.5, 1e300]), "float32", [1.5, np.inf], [0, 1, 2], {1: "a value does not fit float32"}),
        (
            pa.array([[1, 2], None, [], [3, None]]),
            "int64",
            [1, 2, 3, 0],
            [0, 2, 2, 2, 4],
            {1: "a value is null", 3: "a value is null"},
        ),
        (
            pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
            "int64",
            [1, 2, 3, 4],
            [0, 2, 2, 4],
            {1: "a value is null"},
        ),
        (pa.array([[[1, 2], [3]], [], [[4]], [None]]), "int64", [1, 2, 3, 4], [0, 3, 3, 4, 4], {3: "a value is null"}),
        (pa.array([[9], [1, 2], [3]]).slice(1), "int64", [1, 2, 3], [0, 2, 3], {}),
        (
            pa.array([{"a": 1, "b": 2.5}, {"a": None, "b": 4.0}]),
            "float32",
            [1, 2.5, 0, 4],
            [0, 2, 4],
            {1: "a value is null"},
        ),
        (pa.chunked_array([[1], [2, 3]]), "int32", [1, 2, 3], [0, 1, 2, 3], {}),
        (pa.array([np.float16(0.5), None], pa.float16()), "float32", [0.5, 0], [0, 1, 2], {1: "a value is null"}),
    ],
)
def test_numbers_of_any_column_are_read_row_by_row(
    column: Any, dtype: str, values: list[float], offsets: list[int], rejected: dict[int, str]
) -> None:
    ragged, refused = read_numbers(column, dtype)
    assert ragged.values.dtype == dtype
    np.testing.assert_array_equal(ragged.values, np.array(values, dtype))
    assert (ragged.offsets.tolist(), refused) == (offsets, rejected)
