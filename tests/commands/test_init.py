"""Job files of what tables and models say of themselves: real models, as packages ship them, and tables of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from onnx import TensorProto, helper

import optinfer
from optinfer.commands.make_table import make_table
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from tests.conftest import MODEL, REPO, RunCli, WriteTable, points, read_rows
from tests.families.conftest import shipped

PACKAGES = REPO / "jobs" / "data" / "packages.parquet"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def init(run_cli: RunCli) -> Any:
    """Return a function that writes job.yaml, sees that `plan` takes it, and returns its values."""

    def write(table: Any, model: Any, *options: str) -> Any:
        code, _, err = run_cli("init", "--table", table, "--model", model, *options)
        assert code == 0, err
        code, _, err = run_cli("plan", "job.yaml")
        assert code == 0, err
        return yaml.safe_load(Path("job.yaml").read_text())

    return write


@pytest.fixture
def refused(run_cli: RunCli) -> Any:
    """Return a function that says why no job is written, which has to be usage (exit 2)."""

    def ask(table: Any, model: Any, *options: str) -> str:
        before = Path("job.yaml").read_text() if Path("job.yaml").exists() else None
        code, out, err = run_cli("init", "--table", table, "--model", model, *options)
        assert (code, out) == (2, ""), err
        assert (Path("job.yaml").read_text() if Path("job.yaml").exists() else None) == before
        return err

    return ask


def test_texts_and_a_sentence_encoder(init: Any) -> None:
    job = init(PACKAGES, MODEL)
    assert job["model"]["family"] == "text-embedding"
    assert job["source"]["columns"] == {"text": "text"}
    assert job["sink"] == {"path": "outputs/packages", "columns": ["id"]}
    assert (job["name"], job["variant"]) == ("packages", "auto")
    assert "# sink.columns: named as ids, and different in each of the first 1,024 rows" in Path("job.yaml").read_text()


@pytest.mark.slow
def test_the_job_scores_the_table(init: Any, write_table: WriteTable, sink: Path, fake_variant: str) -> None:
    init(write_table(Path("t.parquet"), rows=40), MODEL)
    changes = (f"variant={fake_variant}", "gate.min=-1", "gate.sample_rows=8", f"sink.path={sink}")
    optinfer.run(optinfer.load_job("job.yaml", changes), executor=InProcess([Node(cpus=1)]))
    assert [row["id"] for row in read_rows(sink)] == pq.read_table("t.parquet")["id"].to_pylist()


def test_bytes_of_files_and_magika(init: Any) -> None:
    model = shipped("magika", "models", "standard_v3_3", "model.onnx")
    (port,) = onnx.load(str(model), load_external_data=False).graph.input
    width = port.type.tensor_type.shape.dim[1].dim_value
    heads = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(20 * width, dtype=np.int32)), width)
    pq.write_table(pa.table({"file_id": [f"f{i}" for i in range(20)], "head": heads}), "files.parquet")
    job = init("files.parquet", model)
    assert job["model"]["family"] == "tensor"
    assert (job["source"]["columns"], job["sink"]["columns"]) == ({port.name: "head"}, ["file_id"])


def test_flowers_of_a_csv_file_side_by_side(init: Any) -> None:
    text = shipped("sklearn", "datasets", "data", "iris.csv").read_text().splitlines()[1:]
    Path("iris.csv").write_text("\n".join(["sl,sw,pl,pw", *(line.rpartition(",")[0] for line in text)]) + "\n")
    make_table("iris.csv", "iris.parquet")
    job = init("iris.parquet", points(Path("m.onnx"), 4))
    assert job["source"]["columns"] == {"x": ["sl", "sw", "pl", "pw"]}
    assert "as many as the model takes; see to the order" in Path("job.yaml").read_text()
    assert job["sink"]["columns"] == ["id"]


def taken(path: Path, kinds: dict[str, int]) -> None:
    """Write an ONNX model that takes one number a row for each name, and gives them back."""
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"same_{name}"]) for name in kinds],
        "people",
        [helper.make_tensor_value_info(name, kind, ["rows", 1]) for name, kind in kinds.items()],
        [helper.make_tensor_value_info(f"same_{name}", kind, ["rows", 1]) for name, kind in kinds.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_inputs_of_a_model_are_columns_of_their_names(init: Any, write_table: WriteTable) -> None:
    taken(Path("m.onnx"), {"height": TensorProto.FLOAT, "age": TensorProto.INT64})
    columns = {"paid": range(9), "age": range(9), "height": np.arange(9.0), "userId": range(9)}
    job = init(write_table(Path("t.parquet"), columns=columns), "m.onnx")
    assert job["source"]["columns"] == {"height": "height", "age": "age"}
    assert job["sink"]["columns"] == ["userId"], "and paid is no id"


def test_the_truth_and_the_row_numbers_of_pandas_are_no_input(init: Any) -> None:
    frame = pd.DataFrame({"b": np.arange(9.0), "a": np.arange(9.0), "target": np.arange(9) % 2, "userId": range(9)})
    frame[frame["a"] != 4].to_parquet("t.parquet")
    assert "__index_level_0__" in pq.read_schema("t.parquet").names
    assert init("t.parquet", points(Path("m.onnx"), 2))["source"]["columns"] == {"x": ["b", "a"]}
    assert "(target, __index_level_0__ left out)" in Path("job.yaml").read_text()
    Path("job.yaml").unlink()
    assert init("t.parquet", points(Path("m.onnx"), 4))["source"]["columns"]["x"][2:] == ["target", "__index_level_0__"]


def test_a_column_that_is_named_alike_is_an_inputs_where_there_is_one(init: Any, refused: Any) -> None:
    """LightGBM writes `sepal_length_(cm)` of the column `sepal length (cm)`."""
    with_signs, without = (
        {"sepal length (cm)": np.arange(9.0), "x": np.arange(9.0)},
        {"Sepal Length cm": np.arange(9.0)},
    )
    taken(Path("m.onnx"), {"sepal_length_(cm)": TensorProto.FLOAT, "y": TensorProto.FLOAT})
    pq.write_table(pa.table({**with_signs, "y": np.arange(9.0)}), "t.parquet")
    assert init("t.parquet", "m.onnx")["source"]["columns"] == {"sepal_length_(cm)": "sepal length (cm)", "y": "y"}
    assert "by that name, but for spaces, signs and case" in Path("job.yaml").read_text()
    pq.write_table(pa.table({**with_signs, **without, "y": np.arange(9.0)}), "t.parquet")
    assert "any of sepal length (cm), x, Sepal Length cm, y could be it" in refused(
        "t.parquet", "m.onnx", "-o", "k.yaml"
    )


def test_numbers_that_are_too_many_are_asked_for(refused: Any, write_table: WriteTable) -> None:
    table = write_table(Path("t.parquet"), columns={name: np.arange(9.0) for name in "abc"})
    said = refused(table, points(Path("m.onnx"), 2))
    assert "the model's 'x' cannot be told: no column suits: the table has a (double), b (double), c (double)" in said
    assert "say --set source.columns.x=COLUMN" in said


TEXTS = {
    "title": [f"title {i}" for i in range(9)], "body": ["a long text " * 20] * 9, "summary": ["a long text " * 18] * 9,
}  # fmt: skip


def test_of_two_texts_the_longer_one_is_taken_only_if_it_is_by_far(
    init: Any, refused: Any, write_table: WriteTable
) -> None:
    said = refused(write_table(Path("t.parquet"), columns=TEXTS), MODEL)
    assert "any of title, body, summary could be it; say --set source.columns.text=title" in said
    job = init("t.parquet", MODEL, "--set", "source.columns.text=body")
    assert (job["source"]["columns"], job["sink"]["columns"]) == ({"text": "body"}, ["title"])
    Path("job.yaml").unlink()
    write_table(Path("two.parquet"), columns={name: TEXTS[name] for name in ("title", "body")})
    assert init("two.parquet", MODEL)["source"]["columns"] == {"text": "body"}


def test_rows_that_nothing_tells_apart_carry_nothing_and_it_says_so(init: Any, write_table: WriteTable) -> None:
    job = init(write_table(Path("t.parquet"), columns={"text": ["same"] * 9, "kind": [1] * 9}), MODEL)
    assert job["sink"]["columns"] == []
    assert "no column tells rows apart" in Path("job.yaml").read_text()


def test_two_columns_together_tell_rows_apart(init: Any, write_table: WriteTable) -> None:
    columns = {"text": ["same"] * 6, "page": [1, 1, 2, 2, 3, 3], "line": [1, 2, 1, 2, 1, 2]}
    assert init(write_table(Path("t.parquet"), columns=columns), MODEL)["sink"]["columns"] == ["page", "line"]


def test_a_file_that_is_there_is_left_alone(refused: Any) -> None:
    Path("job.yaml").write_text("mine")
    assert "job.yaml exists, and nothing is overwritten; name another file with -o" in refused(PACKAGES, MODEL)


def test_what_was_said_is_kept_and_not_asked_for(init: Any) -> None:
    answers = ("name=night", "variant=torch-fp32", "sink.columns=[section]", "gate.sample_rows=64")
    job = init(PACKAGES, MODEL, *(word for answer in answers for word in ("--set", answer)))
    assert (job["name"], job["variant"], job["sink"]["columns"]) == ("night", "torch-fp32", ["section"])
    assert job["gate"] == {"sample_rows": 64}


@pytest.mark.parametrize(
    ("table", "model", "options", "says"),
    [
        ("nowhere.parquet", MODEL, (), "nowhere.parquet does not exist"),
        (PACKAGES, "nowhere", (), "no family takes nowhere; say --set model.family=...\n  custom:"),
        (PACKAGES, "package:no_such_package/model", (), "pip install no-such-package"),
        (PACKAGES, MODEL, ("--set", "model.family=tensor"), "model.path"),
        (PACKAGES, MODEL, ("--set", "source.columns.text=tekst"), "did you mean 'text'?"),
        (PACKAGES, MODEL, ("--set", "sink.pth=x"), "did you mean 'path'?"),
        (PACKAGES, MODEL, ("--set", "name"), "write it as a.b=value"),
        (PACKAGES, MODEL, ("--set", "variant=torch-fp23"), "did you mean 'torch-fp32'?"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    refused: Any, table: Any, model: str, options: tuple[str, ...], says: str
) -> None:
    assert says in refused(table, model, *options)
    assert not Path("job.yaml").exists()


def test_a_pickle_is_not_opened(refused: Any) -> None:
    Path("m").mkdir()
    Path("m", "model.pkl").write_bytes(b"\x80\x04.")
    assert "allow_pickle" in refused(PACKAGES, "m")


def test_an_object_for_scripts(run_cli: RunCli) -> None:
    code, out, _ = run_cli("init", "--table", PACKAGES, "--model", MODEL, "--json")
    draft = json.loads(out)
    assert (code, draft["job"], draft["rows"]) == (0, "job.yaml", 2000)
    assert [one["key"] for one in draft["findings"]] == ["model.family", "source.columns", "sink.columns"]
