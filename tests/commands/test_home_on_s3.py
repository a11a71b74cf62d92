"""Two nights on two machines that share a home on S3: the second builds and proves nothing, and knows the first."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.commands.asked_for import target
from optinfer.commands.history import history
from optinfer.commands.plan import plan
from optinfer.commands.resolved import resolve
from optinfer.errors import LoadError
from optinfer.execution.in_process import InProcess
from optinfer.execution.on_ray import OnRay
from optinfer.job_file import parse_job
from optinfer.records.run import RunRecord
from optinfer.system import home
from tests.commands.test_tune import Measured
from tests.conftest import RunCli, job_settings
from tests.faults.test_canaries import built
from tests.inference.test_canaries import NUMBERS, flip, tensor_model

pytestmark = pytest.mark.usefixtures("trials_here")

On = Callable[[str], None]


@pytest.fixture
def on(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> On:
    """Return what makes this process one on the machine of a name, with cache and MLflow of its own; it is on `a`."""

    def be(machine: str) -> None:
        shutil.copy(empty_store, tmp_path / f"{machine}.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/{machine}.db")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))

    monkeypatch.setenv("OPTINFER_HOME", f"{bucket}/optinfer")
    be("a")
    return be


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function from sink and changes to a job of a model of numbers, in int8, tracked in a store of its own."""
    tensor_model(tmp_path / "model")
    columns = {"id": [str(i) for i in range(len(NUMBERS))], "x": pa.array(NUMBERS.tolist(), pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")

    def make(sink: Path, **changes: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "source__columns": {"x": "x"},
            "model": {"path": str(tmp_path / "model" / "model.onnx"), "family": "tensor"},
            "variant": "onnx-int8-qdq",
            "gate": {"min": 0.9, "sample_rows": 8},
        }
        return job_settings(tmp_path / "table.parquet", sink, **{**given, **changes})

    return make


@pytest.fixture
def night(settings: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., tuple[RunRecord, list[str]]]:
    """Return a function that runs the job into a folder; what it said comes with the record."""

    def run(name: str, executor: Any = None, **changes: Any) -> tuple[RunRecord, list[str]]:
        said: list[str] = []
        job = parse_job(settings(tmp_path / name, **changes))
        return optinfer.run(job, executor=executor or InProcess(), say=said.append), said

    return run


def worked(said: list[str]) -> list[str]:
    """Return what was built or proved, by what a run says of it."""
    return [line for line in said if re.match(r"building |certifying |scoring \d+ sample rows", line)]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


Night = Callable[..., tuple[RunRecord, list[str]]]


def test_the_second_night_on_another_machine_builds_and_proves_nothing(on: On, night: Night, tmp_path: Path) -> None:
    first, said = night("one")
    assert len(worked(said)) == 3
    made = {kind: digests(home.home() / kind) for kind in ("artifacts", "certificates", "baselines")}
    on("b")
    second, said = night("two")
    assert worked(said) == []
    assert {kind: digests(home.home() / kind) for kind in made} == made
    assert all(made.values())
    assert (second.certificate, second.variant) == (first.certificate, first.variant)
    assert "start-up as in a run of it here" in second.forecast.basis, "on the other machine, of the same kind"
    rows = [pq.read_table(path).to_pylist() for path in sorted((tmp_path / "one").glob("*.parquet"))]
    assert rows == [pq.read_table(path).to_pylist() for path in sorted((tmp_path / "two").glob("*.parquet"))]


def test_plan_foretells_from_what_the_other_machine_measured(
    on: On, night: Night, settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    night("one")
    on("b")
    seen = plan(resolve(parse_job(settings(tmp_path / "two"))))
    assert seen.forecast.seconds is not None


def test_history_and_status_know_the_run_of_the_other_machine_and_say_where_the_home_is(
    on: On, night: Night, bucket: str, tmp_path: Path, run_cli: RunCli
) -> None:
    first, _ = night("one")
    on("b")
    found = history(target(str(tmp_path / "one")), 20)
    assert [(run.run_id, run.status, run.known_from) for run in found.runs] == [(first.run_id, "done", "journal")]
    again = history(target(str(tmp_path / "one")), 20)
    assert again.runs == found.runs
    assert found.home == f"{bucket}/optinfer, by way of {home.home()}"
    for command in ("history", "status"):
        code, out, _ = run_cli(command, tmp_path / "one")
        assert code == 0
        assert f"{bucket}/optinfer" in out
        assert json.loads(run_cli(command, tmp_path / "one", "--json")[1])["home"] == found.home


def test_a_journal_with_a_gap_is_named_and_left_out(on: On, night: Night, bucket: str, tmp_path: Path) -> None:
    first, _ = night("one")
    store = boto3.resource("s3").Bucket(bucket.removeprefix("s3://"))
    first_piece = f"optinfer/runs/{first.run_id}/000000000000000.jsonl"
    store.copy({"Bucket": store.name, "Key": first_piece}, first_piece.replace("0.jsonl", "7.jsonl"))
    store.delete_objects(Delete={"Objects": [{"Key": first_piece}]})
    on("b")
    found = history(target(str(tmp_path / "one")), 20)
    assert found.runs == ()
    assert f"{first.run_id}/journal.jsonl cannot be read" in found.notes[0]


def test_doctor_holds_the_store_against_what_it_must_do(on: On, run_cli: RunCli, bucket: str, monkeypatch: Any) -> None:
    _, out, _ = run_cli("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert checks["home"]["ok"]
    assert f"{bucket}/optinfer takes conditional writes" in checks["home"]["detail"]
    assert str(home.home()) in checks["home"]["detail"]
    monkeypatch.setenv("OPTINFER_HOME", "s3://no-such-bucket-here/optinfer")
    code, out, _ = run_cli("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert (code, checks["home"]["ok"]) == (1, False)
    assert "no-such-bucket-here" in checks["home"]["detail"]


def test_what_tune_found_on_one_machine_is_found_on_the_other(
    on: On, settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    job = parse_job(settings(tmp_path / "never", tuning__max_memory_mb=1e6))
    found = Measured().tune(job).winner
    on("b")
    assert resolve(job).bench().tuned == found


def test_a_home_that_is_away_costs_a_build_and_no_job(
    on: On, night: Night, free_port: int, hasty_s3: None, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    record, said = night("one")
    assert (record.rows_out, len(worked(said))) == (len(NUMBERS), 3)
    assert caplog.text.count("is done without: ") == 1
    _, said = night("two")
    assert worked(said) == []


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_replicas_on_ray_have_it_from_the_driver(on: On, night: Night) -> None:
    first, _ = night("one")
    on("b")
    second, said = night("two", executor=OnRay())
    assert worked(said) == []
    assert (second.rows_out, second.certificate) == (len(NUMBERS), first.certificate)


class TestAByteThatChanged:
    """A kept artifact that lost nothing but a bit: every verb that loads it names the file before anything scores."""

    @pytest.fixture(autouse=True)
    def own_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_store: str) -> None:
        monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", own_store)

    @pytest.fixture
    def damaged(self, night: Night) -> Path:
        """Return a file of the int8 artifact that was certified before a bit of it flipped."""
        night("before")
        flip(built(), -1)
        return built()

    def test_run_makes_it_again(self, night: Night, damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
        record, said = night("after")
        assert f"{damaged.parent} is damaged ({damaged.name} is not as it was)" in caplog.text
        assert "building onnx-int8-qdq: onnx_int8_qdq" in said
        assert record.rows_out == len(NUMBERS)

    @pytest.mark.parametrize("verb", ["plan", "optimize", "tune"])
    def test_so_do_others(
        self, settings: Callable[..., dict[str, Any]], tmp_path: Path, damaged: Path, verb: str, caplog: Any
    ) -> None:
        job = parse_job(settings(tmp_path / "after"))
        if verb == "plan":
            assert plan(resolve(job)).forecast.seconds is None  # it makes nothing, and knows nothing of what is damaged
        elif verb == "optimize":
            assert optinfer.optimize(job, ["onnx-int8-qdq"]).winner == "onnx-int8-qdq"
        else:
            assert Measured().tune(job).winner.variant == "onnx-int8-qdq"
        assert f"{damaged.parent} is damaged ({damaged.name} is not as it was)" in caplog.text

    def test_a_certificate_of_other_files_is_none_of_this_artifact(self, night: Night, caplog: Any) -> None:
        """As where it was built anew, and not to the same bytes; or its notes are of a version that had no digests."""
        night("before")
        flip(built(), -1)
        notes = built().parent.with_name(f"{built().parent.name}.files.json")
        notes.write_text(json.dumps({name: file["size"] for name, file in json.loads(notes.read_text()).items()}))
        _, said = night("after")
        assert "is of another artifact/model.onnx.data than lies here now: the variant is measured anew" in caplog.text
        assert worked(said) == ["certifying onnx-int8-qdq on 8 rows"]

    @pytest.mark.slow
    def test_a_registered_model_is_refused_when_it_is_loaded(
        self, settings: Callable[..., dict[str, Any]], tmp_path: Path, own_store: str
    ) -> None:
        import mlflow

        job = parse_job(settings(tmp_path / "never"))
        registered = optinfer.optimize(job, ["onnx-int8-qdq"], register="numbers").registered
        assert registered is not None
        mlflow.set_tracking_uri(own_store)
        copy = Path(mlflow.artifacts.download_artifacts(artifact_uri=registered.uri, dst_path=str(tmp_path / "copy")))
        rows = pd.DataFrame({"x": list(NUMBERS[:2])})
        assert len(mlflow.pyfunc.load_model(str(copy)).predict(rows)) == 2
        (weights,) = copy.rglob("model.onnx.data")
        flip(weights, -1)
        with pytest.raises(LoadError, match=r"model.onnx.data is not the file that was certified"):
            mlflow.pyfunc.load_model(str(copy))
