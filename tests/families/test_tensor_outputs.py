"""What a model file may take and give: each type exact or refused, nothing left out without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

import optinfer
from optinfer.errors import ConfigError
from optinfer.families import FAMILIES, as_roles
from optinfer.families._numbers import read_numbers
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conformance.converters import ROWS, models
from tests.conftest import MakeJob, RunCli, WriteTable, located, read_rows
from tests.families.conftest import WriteModule

Save = Callable[..., Path]
Tensor = tuple[str, int, list[Any] | None]


def node(kind: str, given: list[str], made: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, given, made, **attributes)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes an ONNX file of these nodes, inputs and outputs."""

    def write(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Any] | None = None) -> Path:
        given, made = (
            [p if not isinstance(p, tuple) else helper.make_tensor_value_info(*p) for p in side]
            for side in (inputs, outputs)
        )
        held = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
        graph = helper.make_graph(nodes, "g", given, made, held)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path := tmp_path / "model.onnx")
        return path

    return write


def family_of(path: Path, **settings: Any) -> Any:
    return FAMILIES.get("tensor").load(located(path, "tensor"), settings)


def answers(path: Path, table: pa.Table, **settings: Any) -> pa.Table:
    """Return the columns that a replica adds, and hold them against the runtime alone."""
    model = located(path, "tensor")
    backend = "onnxruntime" if model.format == "onnx" else "torch"
    replica = Replica(
        ReplicaSettings(
            family="tensor", family_settings=settings, model=model, backend=backend, artifact=model, threads=1
        )
    )
    found = replica.score(table).added
    reference = replica.family.reference(table, found)
    assert reference.largest_difference == 0.0, reference.note
    return found


X = ("x", TensorProto.FLOAT, ["N", 4])
FLOATS = pa.table(
    {"x": pa.array(np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32).tolist(), pa.list_(pa.float32(), 4))}
)


class TestTypes:
    @pytest.mark.parametrize(
        ("onnx_type", "column", "values"),
        [
            (TensorProto.DOUBLE, pa.float64(), [0.1, 1 / 3, 1e300]),
            (TensorProto.FLOAT, pa.float32(), [0.5, -2.25, 2.0**100]),
            (TensorProto.INT64, pa.int64(), [2**53 + 1, -(2**63), 2**63 - 1]),
            (TensorProto.UINT64, pa.uint64(), [2**53 + 1, 0, 2**64 - 1]),
            (TensorProto.INT32, pa.int32(), [2**31 - 1, -(2**31), 0]),
            (TensorProto.UINT8, pa.uint8(), [255, 0, 7]),
            (TensorProto.BOOL, pa.bool_(), [True, False, True]),
            (TensorProto.STRING, pa.string(), ["", "Łódź", "a b"]),
        ],
    )
    @pytest.mark.parametrize("wide", [False, True])
    def test_a_value_comes_out_as_it_went_in(
        self, save: Save, onnx_type: int, column: pa.DataType, values: list[Any], wide: bool
    ) -> None:
        sizes = ["N", 3] if wide else ["N"]
        path = save([node("Identity", ["x"], ["y"])], [("x", onnx_type, sizes)], [("y", onnx_type, sizes)])
        if wide and column == pa.string():
            table = as_roles(pa.table({str(i): [v] for i, v in enumerate(values)}), {"x": ("0", "1", "2")})
        else:
            table = pa.table({"x": pa.array([values], pa.list_(column)) if wide else pa.array(values, column)})
        found = answers(path, table)
        assert found.schema.field("y").type == (pa.list_(column, 3) if wide else column)
        assert found["y"].to_pylist() == ([values] if wide else values)

    def test_halves_come_out_as_float32(self, save: Save) -> None:
        half = TensorProto.FLOAT16
        path = save([node("Identity", ["x"], ["y"])], [("x", half, ["N"])], [("y", half, ["N"])])
        found = answers(path, pa.table({"x": pa.array([0.1, 2.0], pa.float32())}))
        assert found["y"].to_pylist() == [float(np.float16(0.1)), 2.0]
        assert found.schema.field("y").type == pa.float32()

    def test_doubles_of_an_archive_stay_doubles(self, tmp_path: Path) -> None:
        import torch

        class Third(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x / 3

        rows = {"x": {0: torch.export.Dim("rows")}}
        program = torch.export.export(Third(), (torch.zeros(2, dtype=torch.float64),), dynamic_shapes=rows)
        torch.export.save(program, tmp_path / "third.pt2")
        found = answers(tmp_path / "third.pt2", pa.table({"x": [1.0, 2.0]}), outputs={"y": 0})
        assert found["y"].to_pylist() == [1 / 3, 2 / 3]

    def test_metrics_suit_what_comes_out(self, save: Save) -> None:
        label, scores = ("label", TensorProto.STRING, ["N"]), ("scores", TensorProto.FLOAT, ["N", 3])
        given = [("x", TensorProto.STRING, ["N"]), ("z", TensorProto.FLOAT, ["N", 3])]
        nodes = [node("Identity", ["x"], ["label"]), node("Identity", ["z"], ["scores"])]
        path = save(nodes, given, [label, scores])
        assert family_of(path).metrics == ("cosine", "top1_agreement", "r2")
        assert family_of(path, outputs={"label": 0}).metrics == ("top1_agreement", "r2")


class TestTexts:
    def test_a_null_is_rejected_and_a_dictionary_read(self, save: Save) -> None:
        text = TensorProto.STRING
        path = save([node("Identity", ["x"], ["y"])], [("x", text, ["N", 1])], [("y", text, ["N", 1])])
        table = pa.table({"x": pa.array(["b", None, "a", "b"]).dictionary_encode()})
        family = family_of(path)
        family.check(table.schema, {"x": "x"})
        features = family.preprocess(table)
        assert features.rejected == {1: "a value is null"}
        kept = table.take([0, 2, 3])
        assert answers(path, kept)["y"].to_pylist() == [["b"], ["a"], ["b"]]

    @pytest.mark.parametrize("kind", [pa.int64(), pa.binary(), pa.list_(pa.string()), pa.null()])
    def test_another_column_is_refused(self, save: Save, kind: pa.DataType) -> None:
        text = TensorProto.STRING
        path = save([node("Identity", ["x"], ["y"])], [("x", text, ["N"])], [("y", text, ["N"])])
        with pytest.raises(ConfigError, match=r"column 'given' holds .*, input 'x' takes texts"):
            family_of(path).check(pa.schema([("given", kind)]), {"x": "given"})


class TestRefused:
    """An output without an entry for each row says so before anything runs."""

    @pytest.mark.parametrize(
        ("nodes", "output", "message"),
        [
            ([node("ReduceSum", ["x"], ["y"], keepdims=0)], ("y", TensorProto.FLOAT, []), "is one value for all rows"),
            ([node("Shape", ["x"], ["y"])], ("y", TensorProto.INT64, [2]), "always has 2 rows, however many"),
            ([node("Transpose", ["x"], ["y"], perm=[1, 0])], ("y", TensorProto.FLOAT, [4, "N"]), "always has 4 rows"),
            (
                [node("NonZero", ["x"], ["found"]), node("Transpose", ["found"], ["y"])],
                ("y", TensorProto.INT64, ["found", 2]),
                "comes from NonZero, so it has as many rows as that finds",
            ),
            (
                [
                    node("Unsqueeze", ["x", "first"], ["boxes"]),
                    node("Transpose", ["boxes"], ["scores"], perm=[0, 2, 1]),
                    node("NonMaxSuppression", ["boxes", "scores"], ["y"]),
                ],
                ("y", TensorProto.INT64, ["selected", 3]),
                "comes from NonMaxSuppression",
            ),
            (
                [node("SequenceConstruct", ["x"], ["y"])],
                helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None),
                "is a sequence, not a tensor",
            ),
        ],
    )
    def test_an_output_without_a_row_each(self, save: Save, nodes: list[Any], output: Any, message: str) -> None:
        good = ("z", TensorProto.FLOAT, ["N", 4])
        constants = {"first": np.array([0])}
        path = save([*nodes, node("Identity", ["x"], ["z"])], [X], [output, good], constants)
        fix = r"take the others only: model\.outputs: \{z: 4\}"
        with pytest.raises(ConfigError, match=f"output 'y' .*{message}.*{fix}"):
            family_of(path)
        assert answers(path, FLOATS, outputs={"z": 4})["z"].to_pylist() == FLOATS["x"].to_pylist()

    def test_an_output_whose_rows_lie_along_another_axis(self, save: Save) -> None:
        given, made = ("x", TensorProto.FLOAT, ["N", "length"]), ("y", TensorProto.FLOAT, ["length", "N"])
        path = save([node("Transpose", ["x"], ["y"], perm=[1, 0])], [given], [made])
        with pytest.raises(ConfigError, match="output 'y' has 'length' as its first axis, not the rows; export it"):
            family_of(path)

    def test_dictionaries_that_no_runtime_makes(self, tmp_path: Path) -> None:
        from skl2onnx import to_onnx
        from sklearn.neural_network import MLPClassifier

        random = np.random.default_rng(0)
        given, target = random.normal(size=(40, 4)).astype(np.float32), random.integers(0, 2, size=(40, 2))
        model = MLPClassifier((4,), max_iter=1).fit(given, target)
        (tmp_path / "model.onnx").write_bytes(to_onnx(model, given[:1]).SerializeToString())
        with pytest.raises(ConfigError, match=r"output 'output_probability' .*convert with zipmap off"):
            family_of(tmp_path / "model.onnx")

    @pytest.mark.parametrize(("kind", "outputs"), [("forest", {"variable": 2}), ("lines", {})])
    def test_where_a_converter_declares_a_wrong_size_the_operators_or_the_job_tell(
        self, tmp_path: Path, kind: str, outputs: dict[str, int]
    ) -> None:
        from skl2onnx import to_onnx
        from sklearn.cross_decomposition import PLSRegression
        from sklearn.ensemble import RandomForestRegressor

        random = np.random.default_rng(0)
        given, target = random.normal(size=(40, 4)).astype(np.float32), random.normal(size=(40, 2))
        model = RandomForestRegressor(3, random_state=0) if kind == "forest" else PLSRegression(2)
        path = tmp_path / "model.onnx"
        path.write_bytes(to_onnx(model.fit(given, target), given[:1]).SerializeToString())
        found = answers(path, pa.table({"X": pa.array(list(given), pa.list_(pa.float32(), 4))}), outputs=outputs)
        np.testing.assert_allclose(np.stack(found["variable"].to_numpy()), model.predict(given), atol=1e-5)
        if outputs:
            with pytest.raises(ConfigError, match=r"has 2 numbers a row, not 1; correct model\.outputs: {variable: 2}"):
                answers(path, pa.table({"X": pa.array(list(given), pa.list_(pa.float32(), 4))}))

    def test_a_shared_value_is_no_input_of_a_row(self, save: Save) -> None:
        shared = ("temperature", TensorProto.FLOAT, [])
        path = save([node("Mul", ["x", "temperature"], ["y"])], [X, shared], [("y", TensorProto.FLOAT, ["N", 4])])
        with pytest.raises(ConfigError, match="input 'temperature' is one value for all rows"):
            family_of(path)

    def test_an_archive_that_answers_with_more_rows(self, tmp_path: Path) -> None:
        import torch

        class Twice(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return x, torch.cat([x, x])

        rows = {"x": {0: torch.export.Dim("rows")}}
        program = torch.export.export(Twice(), (torch.zeros(2, 4),), dynamic_shapes=rows)
        torch.export.save(program, tmp_path / "twice.pt2")
        with pytest.raises(ConfigError, match="output 'cat' has another first axis than the inputs"):
            family_of(tmp_path / "twice.pt2")


class TestClassifiers:
    """As converters write them: a label that the file declares to be one, dictionaries, texts."""

    @pytest.mark.usefixtures("in_this_process")
    def test_a_job_needs_nothing_but_the_file(
        self, make_job: MakeJob, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        made = models()["LightGBM LGBMClassifier, text labels"]()
        columns = {"id": [*map(str, range(ROWS))], **{name: made.table[name] for name in made.table.column_names}}
        source = write_table(tmp_path / "rows.parquet", columns=columns)
        model = {"path": str(made.write(tmp_path)), "family": "tensor"}
        gate = {"min": 0.99, "sample_rows": 32}
        optinfer.run(make_job(source, sink, source__columns=made.columns, model=model, variant="onnx-fp32", gate=gate))
        rows = read_rows(sink)
        assert [row["label"] for row in rows] == made.expected["label"]
        np.testing.assert_allclose([row["probabilities"] for row in rows], made.expected["probabilities"], atol=1e-5)

    def test_a_file_whose_outputs_cannot_be_columns_ends_with_exit_code_2(
        self, run_cli: RunCli, write_job: Any, write_table: WriteTable, save: Save, tmp_path: Path, sink: Path
    ) -> None:
        path = save([node("Shape", ["x"], ["y"])], [X], [("y", TensorProto.INT64, [2])])
        source = write_table(tmp_path / "rows.parquet", columns={"id": ["a"], "x": FLOATS["x"][:1]})
        code, _, err = run_cli(
            "run",
            write_job(
                source,
                sink,
                source__columns={"x": "x"},
                model={"path": str(path), "family": "tensor"},
                variant="onnx-fp32",
            ),
        )
        assert code == 2
        assert "output 'y' always has 2 rows" in " ".join(err.split())


class TestReference:
    """Each answer is held against the runtime alone, a row at a time, and what differs is named."""

    @pytest.fixture
    def classifier(self, tmp_path: Path) -> tuple[Any, pa.Table, pa.Table]:
        """Return (family, rows, finished rows) of a forest with whole-number labels."""
        made = models()["scikit-learn RandomForestClassifier"]()
        model = located(made.write(tmp_path), "tensor")
        replica = Replica(ReplicaSettings(family="tensor", model=model, backend="onnxruntime", artifact=model))
        rows = as_roles(made.table, made.columns)
        return replica.family, rows, replica.score(rows).added

    def test_a_shifted_row_is_seen(self, classifier: tuple[Any, pa.Table, pa.Table]) -> None:
        family, rows, finished = classifier
        shifted = finished.take([*range(1, ROWS), 0])
        reference = family.reference(rows, shifted)
        assert not reference.agrees
        assert reference.note.startswith("most in output_")

    def test_another_label_is_seen(self, classifier: tuple[Any, pa.Table, pa.Table]) -> None:
        family, rows, finished = classifier
        other = pa.array([(label + 1) % 3 for label in finished["output_label"].to_pylist()])
        reference = family.reference(rows, finished.set_column(0, "output_label", other))
        assert reference.largest_difference == 1.0
        assert "most in output_label, row 0" in reference.note

    def test_classes_that_tie_may_change_places(self, save: Save) -> None:
        nodes = [node("ArgMax", ["x"], ["label"], axis=1, keepdims=0), node("Identity", ["x"], ["scores"])]
        path = save(nodes, [X], [("label", TensorProto.INT64, ["N"]), ("scores", TensorProto.FLOAT, ["N", 4])])
        table = pa.table({"x": pa.array([[0.0, 0.5, 0.5, 0.0], [0.0, 0.5, 0.2, 0.3]], pa.list_(pa.float32(), 4))})
        family = family_of(path)
        found = pa.table({"label": [2, 1], "scores": table["x"]})
        assert family.reference(table, found).agrees
        assert not family.reference(table, found.set_column(0, "label", pa.array([2, 3]))).agrees

    def test_a_row_that_the_library_refuses_is_no_agreement(self, save: Save) -> None:
        ids = ("x", TensorProto.INT64, ["N"])
        made = ("y", TensorProto.FLOAT, ["N"])
        path = save([node("Gather", ["held", "x"], ["y"])], [ids], [made], {"held": np.zeros(3, np.float32)})
        reference = family_of(path).reference(pa.table({"x": [1, 99]}), pa.table({"y": [0.0, 0.0]}))
        assert not reference.agrees
        assert reference.note.startswith("onnxruntime refuses row 1 of the sample")

    def test_weights_of_a_class_are_held_against_the_class(self, write_module: WriteModule, tmp_path: Path) -> None:
        import torch
        from safetensors.torch import save_file

        write_module(
            "doubling_of_this_job",
            "import torch\n\nclass Double(torch.nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.factor = torch.nn.Parameter(torch.ones(1))\n\n"
            "    def forward(self, x):\n        return x * self.factor\n",
        )
        save_file({"factor": torch.tensor([2.0])}, tmp_path / "double.safetensors")
        family = FAMILIES.get("tensor").load(
            located(tmp_path / "double.safetensors", "tensor"),
            {"class": "doubling_of_this_job:Double", "outputs": {"y": 4}},
        )
        doubled = pa.array(
            (np.array(FLOATS["x"].to_pylist()) * 2).astype(np.float32).tolist(), pa.list_(pa.float32(), 4)
        )
        reference = family.reference(FLOATS, pa.table({"y": doubled}))
        assert (reference.library, reference.largest_difference) == ("torch", 0.0)
        assert not family.reference(FLOATS, pa.table({"y": FLOATS["x"]})).agrees


BIG = 2**53 + 1


@pytest.mark.parametrize(
    ("column", "dtype", "values", "rejected"),
    [
        (pa.array([BIG, -BIG, None]), "int64", [BIG, -BIG, 0], {2: "a value is null"}),
        (pa.array([BIG, 2**63], pa.uint64()), "int64", [BIG, -(2**63)], {1: "a value does not fit int64"}),
        (pa.array([BIG, -1]), "uint64", [BIG, 2**64 - 1], {1: "a value does not fit uint64"}),
        (pa.array([2**64 - 1], pa.uint64()), "uint64", [2**64 - 1], {}),
        (pa.array([{"a": BIG, "b": True}]), "int64", [BIG, 1], {}),
        (pa.array([{"a": BIG, "b": 2}], pa.struct([("a", pa.int64()), ("b", pa.uint64())])), "int64", [BIG, 2], {}),
        (pa.array([{"a": BIG, "b": 0.5}]), "float64", [float(BIG), 0.5], {}),
        (pa.array([[BIG, None], [BIG]], pa.large_list(pa.int64())), "int64", [BIG, 0, BIG], {0: "a value is null"}),
        (pa.array([BIG, BIG, None]).dictionary_encode(), "int64", [BIG, BIG, 0], {2: "a value is null"}),
        (pa.array([70000, 1], pa.int32()), "float16", [np.inf, 1], {0: "a value does not fit float16"}),
        (pa.array([np.nan, np.inf]), "float32", [np.nan, np.inf], {}),
    ],
)
def test_a_number_is_exact_or_its_row_rejected(
    column: Any, dtype: str, values: list[Any], rejected: dict[int, str]
) -> None:
    ragged, refused = read_numbers(column, dtype)
    np.testing.assert_array_equal(ragged.values, np.array(values, dtype))
    assert refused == rejected


@pytest.mark.parametrize(
    "kind",
    [
        pa.decimal128(10, 2),
        pa.date32(),
        pa.timestamp("us"),
        pa.duration("s"),
        pa.null(),
        pa.list_view(pa.float32()),
        pa.list_(pa.string()),
        pa.map_(pa.string(), pa.float32()),
        pa.run_end_encoded(pa.int32(), pa.float32()),
        pa.fixed_shape_tensor(pa.float32(), [4]),
        pa.struct([("a", pa.list_(pa.float32()))]),
        pa.dictionary(pa.int8(), pa.string()),
    ],
)
def test_a_column_that_holds_no_plain_numbers_is_refused(save: Save, kind: pa.DataType) -> None:
    path = save([node("Identity", ["x"], ["y"])], [X], [("y", TensorProto.FLOAT, ["N", 4])])
    with pytest.raises(ConfigError, match=r"column 'given' holds .*, input 'x' needs numbers"):
        family_of(path).check(pa.schema([("given", kind)]), {"x": "given"})
