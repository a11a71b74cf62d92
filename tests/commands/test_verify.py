"""`verify` and `explain`: rows of an output scored again, and what moved them, against numpy and pyarrow themselves."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import numpy_helper
from sklearn.datasets import load_iris

import optinfer
from optinfer.commands.explain import explain
from optinfer.commands.verify import verify
from optinfer.config import JobConfig
from optinfer.errors import ConfigError
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from optinfer.system import home
from tests.conftest import PLUGINS, REPO, MakeJob, RunCli, points

pytestmark = pytest.mark.usefixtures("trials_here")

NAMES = ["a", "b", "c", "d"]
BAD = 60  # a row that cannot be scored
OPTIMIZED = {"variant": "own", "variants": {"own": {"steps": ["onnx-optimize"], "backend": "onnxruntime"}}}

Job = Callable[..., JobConfig]


def iris() -> np.ndarray[Any, Any]:
    return np.asarray(load_iris(return_X_y=True)[0], dtype=np.float32)


@pytest.fixture
def job(tmp_path: Path, make_job: MakeJob) -> Job:
    """Return a function to a job that gives the first two of an iris's four numbers; one row has none."""
    columns = {name: pa.array(iris()[:, at]) for at, name in enumerate(NAMES)}
    columns["a"] = pa.array([None if row == BAD else float(v) for row, v in enumerate(iris()[:, 0])], pa.float32())
    columns["id"] = pa.array([f"r{row}" for row in range(len(iris()))])
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    points(tmp_path / "model.onnx", 4)

    def make(table: str = "t.parquet", **changes: Any) -> JobConfig:
        given = {
            "source__columns": {"x": NAMES},
            "model": {"path": str(tmp_path / "model.onnx"), "family": "tensor"},
            "variant": "onnx-fp32",
            "gate": {"min": 0.9, "sample_rows": 32},
        }
        return make_job(tmp_path / table, tmp_path / "out", **{**given, **changes})

    return make


def ran(config: JobConfig) -> str:
    optinfer.run(config, executor=InProcess([Node(cpus=1)]))
    return config.sink.path


def reweighted(path: Path, by: float) -> None:
    """Change one weight of a model."""
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] += by
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)


def host(node: str) -> str:
    """Return a node's machine: where Ray runs in this process, its node's id follows."""
    return node.partition("/")[0]


def rewritten(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a file of JSON as another machine would have written it."""
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


def ground_of(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["run"]["certificate"]["canaries"]["ground"]
    return found


class TestVerify:
    def test_the_same_machine_gives_the_same_bits(self, job: Job) -> None:
        record = verify(ran(job()), rows=1000)
        assert (record.status, record.rows, record.rows_bit_for_bit, record.rows_moved) == ("same", 150, 150, 0)
        assert (record.largest_difference, record.changed, record.lost) == (0.0, (), ())
        assert record.tolerance > 0

    def test_it_scores_whole_fragments_until_there_are_rows_enough(self, job: Job) -> None:
        record = verify(ran(job()), rows=20)
        assert record.rows >= 16
        assert 2 <= record.fragments < 10

    def test_one_weight_that_changed_is_named_with_how_far_it_moved_the_answers(self, job: Job, tmp_path: Path) -> None:
        out = ran(job())
        reweighted(tmp_path / "model.onnx", 0.25)
        record = verify(out, rows=1000)
        moved = 0.25 * np.delete(iris()[:, 0], BAD)  # y0 = x0 * w00
        assert record.status == "moved"
        assert record.rows_moved == (moved > record.tolerance).sum() == 149
        assert record.largest_difference == pytest.approx(moved.max(), rel=1e-5)
        assert [(one.kind, one.name) for one in record.changed] == [
            ("model", str(tmp_path / "model.onnx")),
            ("file", "artifact/model.onnx"),
        ]
        assert "file artifact/model.onnx" in record.reason
        worst = record.moved[0]
        assert iris()[worst.source_row, 0] == np.delete(iris()[:, 0], BAD).max()
        assert pq.read_table(Path(out, worst.part))["id"][worst.row].as_py() == f"r{worst.source_row}"

    def test_an_artifact_that_is_kept_scores_as_it_did_whatever_became_of_its_model(
        self, job: Job, tmp_path: Path
    ) -> None:
        out = ran(job(**OPTIMIZED))
        reweighted(tmp_path / "model.onnx", 0.25)
        record = verify(out, rows=1000)
        assert (record.status, record.rows_bit_for_bit) == ("same", 150)
        assert {one.kind for one in record.changed} <= {"model", "file"}
        assert record.changed[0].kind == "model"
        assert "what changed since moved none" in record.reason

    def test_an_artifact_that_is_not_kept_is_built_anew(self, job: Job) -> None:
        out, said = ran(job(**OPTIMIZED)), list[str]()
        artifact = verify(out, rows=1).artifact
        shutil.rmtree(home.artifacts() / artifact)
        record = verify(out, rows=1000, say=said.append)
        assert (record.status, record.changed) == ("same", ())
        assert any("is not kept here: own is built anew" in line for line in said)

    def test_a_library_of_another_version_is_named_and_that_it_moved_nothing(self, job: Job) -> None:
        out = ran(job())
        package = next(iter(ground_of(json.loads(Path(out, "_manifest.json").read_text()))["runtime"]))
        rewritten(Path(out, "_manifest.json"), lambda raw: ground_of(raw)["runtime"].update({package: "0.9"}))
        rewritten(Path(out, "_optinfer/variant.json"), lambda raw: raw["runtime"].update({package: "0.9"}))
        record = verify(out)
        assert record.status == "same"
        assert [(one.kind, one.name, one.was) for one in record.changed] == [("package", package, "0.9")]

    def test_another_cpu_is_named_by_its_features(self, job: Job) -> None:
        out = ran(job())
        here = set(ground_of(json.loads(Path(out, "_manifest.json").read_text()))["cpu_features"])

        def elsewhere(raw: dict[str, Any]) -> None:
            ground_of(raw)["cpu_features"] = sorted(here ^ {"avx2", "amx_int8"})

        rewritten(Path(out, "_manifest.json"), elsewhere)
        found = {(one.name, one.was, one.now) for one in verify(out).changed if one.kind == "cpu feature"}
        assert found == {
            (name, *(("missing", "there") if name in here else ("there", "missing"))) for name in ("avx2", "amx_int8")
        }

    def test_a_source_that_changed_is_said_and_its_rows_are_not_scored(self, job: Job, tmp_path: Path) -> None:
        out = ran(job())
        table = pq.read_table(tmp_path / "t.parquet")
        pq.write_table(table.slice(1), tmp_path / "t.parquet")
        record = verify(out)
        assert (record.status, record.rows) == ("unverified", 0)
        (lost,) = record.lost
        assert (lost.rows, "changed since" in lost.why) == (150, True)
        (tmp_path / "t.parquet").unlink()
        record = verify(out)
        assert (record.status, record.lost[0].rows) == ("unverified", 150)
        assert "does not exist" in record.reason

    def test_of_several_files_those_that_are_left_are_verified(self, job: Job, tmp_path: Path) -> None:
        table = pq.read_table(tmp_path / "t.parquet")
        (tmp_path / "in").mkdir()
        for at, name in enumerate(("one", "two", "three")):
            pq.write_table(table.slice(at * 50, 50), tmp_path / "in" / f"{name}.parquet")
        out = ran(job("in"))
        (tmp_path / "in" / "two.parquet").unlink()
        pq.write_table(table.slice(0, 40), tmp_path / "in" / "three.parquet")
        record = verify(out, rows=1000)
        assert (record.status, record.rows, record.rows_bit_for_bit) == ("same", 50, 50)
        assert {Path(one.path).stem: (one.rows, one.why.split()[0]) for one in record.lost} == {
            "two": (50, "is"),
            "three": (50, "changed"),
        }

    def test_answers_that_somebody_wrote_into_the_output_are_found(self, job: Job) -> None:
        out = Path(ran(job()))
        part = out / "part-000001.parquet"
        table, schema = pq.read_table(part), pq.read_schema(part)
        values = np.array(table["y"].to_pylist(), dtype=np.float32)
        values[3, 1] += 1
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 2).cast(schema.field("y").type)
        pq.write_table(table.set_column(1, schema.field("y"), column), part)
        record = verify(str(out), rows=1000)
        assert (record.status, record.rows_moved, record.largest_difference) == ("moved", 1, pytest.approx(1))
        assert (record.moved[0].part, record.moved[0].row) == (part.name, 3)
        assert "nothing that is recorded changed" in record.reason

    def test_rows_in_place_are_the_same_without_an_answer(self, job: Job) -> None:
        record = verify(ran(job(sink__on_error="column")), rows=1000)
        assert (record.status, record.rows, record.rows_bit_for_bit) == ("same", 150, 150)

    def test_texts_of_a_shallow_model(
        self, tmp_path: Path, make_job: MakeJob, sample_table: Path, fake_variant: str
    ) -> None:
        out = ran(make_job(sample_table, tmp_path / "out", source__limit=16))
        record = verify(out, rows=16)
        assert (record.status, record.rows, record.rows_bit_for_bit) == ("same", 16, 16)

    def test_an_output_that_is_not_finished(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is not finished"):
            verify(str(tmp_path))


def test_a_library_that_was_exchanged_is_named_with_how_far_it_moved_the_answers(job: Job, tmp_path: Path) -> None:
    """The backend is a package of its own here, and another release of it is installed before `verify`."""
    shutil.copytree(PLUGINS, tmp_path / "installed", ignore=shutil.ignore_patterns("__pycache__"))
    raw = job(variant="own", variants={"own": {"steps": [], "backend": "stand-in"}}).model_dump(mode="json")
    (tmp_path / "job.json").write_text(json.dumps({k: v for k, v in raw.items() if k != "notify"}))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "installed"), str(REPO)])}
    scored = "import sys, json, optinfer; optinfer.run(json.load(open(sys.argv[1])), executor=optinfer.InProcess())"
    command = [sys.executable, "-c", scored, str(tmp_path / "job.json")]
    subprocess.run(command, env=environ, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    code = tmp_path / "installed" / "optinfer_stand_in.py"
    code.write_text(code.read_text().replace("else 1", "else 1.5"))
    command = [sys.executable, "-m", "optinfer", "verify", str(tmp_path / "out"), "--rows", "1000", "--json"]
    ended = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1, ended.stderr
    record = json.loads(ended.stdout)
    assert record["status"] == "moved"
    assert record["largest_difference"] == pytest.approx(0.5 * np.delete(iris()[:, :2], BAD, axis=0).max(), rel=1e-5)
    (changed,) = record["changed"]
    assert changed["kind"] == "package"
    assert f"package {changed['name']}" in record["reason"]


def test_an_output_on_s3(job: Job, bucket: str) -> None:
    out = ran(job(sink__path=f"{bucket}/out"))
    record = verify(out, rows=1000)
    assert (record.status, record.rows_bit_for_bit) == ("same", 150)
    (row,) = explain(out, {"id": "r149"}).rows
    assert (row.source_row, row.stored["y"], host(row.node)) == (149, iris()[149, :2].tolist(), socket.gethostname())


def test_a_delta_table_scored_into_a_delta_table(job: Job, tmp_path: Path) -> None:
    """Rows that came into the table since are of another version, and nobody's here."""
    import deltalake

    config = job("delta", sink__format="delta")
    deltalake.write_deltalake(tmp_path / "delta", pq.read_table(tmp_path / "t.parquet"))
    out = ran(config)
    deltalake.write_deltalake(tmp_path / "delta", pq.read_table(tmp_path / "t.parquet"), mode="append")
    record = verify(out, rows=1000)
    assert (record.status, record.rows, record.rows_bit_for_bit) == ("same", 150, 150)
    assert explain(out, {"id": "r9"}).rows[0].stored["y"] == iris()[9, :2].tolist()


def test_an_experiment_is_scored_again_arm_by_arm(job: Job, tmp_path: Path) -> None:
    points(tmp_path / "new.onnx", 4)
    reweighted(tmp_path / "new.onnx", 1.0)
    arms = {"new": {"share": 0.4, "model": str(tmp_path / "new.onnx")}}
    out = ran(job(experiment={"key": "id", "arms": arms}))
    record = verify(out, rows=1000)
    assert (record.status, record.rows, record.rows_bit_for_bit, record.changed) == ("same", 150, 150, ())
    for arm, times in (("control", 1), ("new", 2)):
        for row in explain(out, {"arm": arm}, most=3).rows:
            assert row.arm == row.stored["arm"] == arm
            assert row.stored["y"] == row.again["y"] == [times * iris()[row.source_row, 0], iris()[row.source_row, 1]]
    reweighted(tmp_path / "new.onnx", 1.0)
    record = verify(out, rows=1000)
    assert (record.status, {one.kind for one in record.changed}) == ("moved", {"artifact", "file"})
    moved = {pq.read_table(Path(out, one.part))["arm"][one.row].as_py() for one in record.moved}
    assert moved == {"new"}


class TestExplain:
    def test_a_row_is_shown_with_all_that_made_it(self, job: Job, tmp_path: Path) -> None:
        out = ran(job())
        record = explain(out, {"id": "r77"})
        (row,) = record.rows
        assert (row.source, row.source_row) == (str(tmp_path / "t.parquet"), 77)
        assert pq.read_table(Path(out, row.part))["id"][row.row].as_py() == "r77"
        assert row.stored["id"] == "r77"
        assert row.stored["y"] == row.again["y"] == iris()[77, :2].tolist()
        assert (row.same, row.difference, row.arm, row.no_answer) == (True, 0.0, None, "")
        assert (row.variant, host(row.node)) == ("onnx-fp32", socket.gethostname())
        (certificate,) = record.certificates
        assert (certificate.artifact, certificate.batch_invariant) == (row.artifact, True)
        assert record.changed == ()

    def test_a_row_that_was_set_aside_is_found_with_its_reason(self, job: Job) -> None:
        (row,) = explain(ran(job()), {"id": f"r{BAD}"}).rows
        assert (row.row, row.source_row, row.same) == (None, BAD, True)
        assert row.no_answer
        assert row.not_again == row.no_answer
        assert row.stored["b"] == iris()[BAD, 1]

    def test_after_a_weight_changed_both_answers_stand_beside_each_other(self, job: Job, tmp_path: Path) -> None:
        out = ran(job())
        reweighted(tmp_path / "model.onnx", 1.0)
        record = explain(out, {"id": "r3"})
        (row,) = record.rows
        assert (row.stored["y"][0], row.again["y"][0]) == pytest.approx((iris()[3, 0], 2 * iris()[3, 0]))
        assert (row.same, row.difference) == (False, pytest.approx(iris()[3, 0]))
        assert "artifact/model.onnx" in {one.name for one in record.changed}

    def test_a_source_that_is_gone_leaves_what_is_stored(self, job: Job, tmp_path: Path) -> None:
        out = ran(job())
        (tmp_path / "t.parquet").unlink()
        (row,) = explain(out, {"id": "r7"}).rows
        assert (row.source_row, row.again, row.same) == (7, {}, None)
        assert "cannot be read" in row.not_again

    def test_several_conditions_and_more_rows_than_are_shown(self, job: Job) -> None:
        out = ran(job(sink__columns=["id", "c", "d"]))
        wanted = np.flatnonzero((iris()[:, 3] == iris()[0, 3]) & (iris()[:, 2] == iris()[0, 2]))
        where = {"c": str(iris()[0, 2]), "d": str(iris()[0, 3])}
        record = explain(out, where, most=100)
        assert [row.source_row for row in record.rows] == wanted.tolist()
        assert not record.more
        record = explain(out, where, most=2)
        assert (len(record.rows), record.more) == (2, True)

    @pytest.mark.parametrize(
        ("where", "says"),
        [
            ({"di": "r1"}, "no column 'di'; did you mean 'id'"),
            ({"id": "nobody"}, "has no row with id=nobody"),
            ({"y": "1"}, "that is no value of it"),
        ],
    )
    def test_what_cannot_be_looked_for(self, job: Job, where: dict[str, str], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            explain(ran(job()), where)


def test_the_commands_print_text_and_one_object(job: Job, tmp_path: Path, run_cli: RunCli) -> None:
    out = ran(job())
    code, printed, err = run_cli("verify", out)
    assert (code, "SAME" in printed, "bit for bit" in printed) == (0, True, True), err
    code, printed, err = run_cli("explain", out, "--where", "id=r5")
    assert code == 0, err
    assert f"row 5 of {tmp_path / 't.parquet'}" in printed
    assert "again [" in printed
    code, printed, err = run_cli("explain", out, "--where", "id=r5", "--json")
    assert (code, json.loads(printed)["rows"][0]["source_row"]) == (0, 5), err
    reweighted(tmp_path / "model.onnx", 0.5)
    code, printed, err = run_cli("verify", out)
    assert (code, "MOVED" in printed) == (1, True), err
    assert "file artifact/model.onnx: SHA-256" in printed
