"""Two nights on two machines that share a home on S3: the second builds and proves nothing, and knows the first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import optinfer
from optinfer.commands.asked_for import target
from optinfer.commands.history import history
from optinfer.commands.plan import plan
from optinfer.commands.resolved import resolve
from optinfer.config import JobConfig
from optinfer.execution.in_process import InProcess
from optinfer.execution.on_ray import OnRay
from optinfer.records.run import RunRecord
from optinfer.records.tuning import TuneRecord
from optinfer.system import home
from tests.commands.test_tune import Measured
from tests.conftest import MakeJob, RunCli, WriteTable, job_settings
from tests.faults.test_canaries import built
from tests.inference.test_canaries import NUMBERS, flip, tensor_model

pytestmark = pytest.mark.usefixtures("trials_here")

On = Callable[[str], None]


@pytest.fixture
def on(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> On:
    """Return what makes this process one on the machine of a name, with a cache of its own; it is on `a`."""

    def be(machine: str) -> None:
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
def night(
    settings: Callable[..., dict[str, Any]], make_job: MakeJob, tmp_path: Path
) -> Callable[..., tuple[RunRecord, list[str]]]:
    """Return a function that runs the job into a folder; what it said comes with the record."""

    def run(name: str, executor: Any = None, **changes: Any) -> tuple[RunRecord, list[str]]:
        said: list[str] = []
        job = optinfer.config.JobConfig.model_validate(settings(tmp_path / name, **changes))
        return optinfer.run(job, executor=executor or InProcess(), say=said.append), said

    return run


def worked(said: list[str]) -> list[str]:
    """Return what was built or proved, by what a run says of it."""
    return [line for line in said if line.startswith(("building ", "certifying ", "scoring "))]


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
    assert second.forecast.startup_seconds is not None
    rows = [pq.read_table(path).to_pylist() for path in sorted((tmp_path / "one").glob("*.parquet"))]
    assert rows == [pq.read_table(path).to_pylist() for path in sorted((tmp_path / "two").glob("*.parquet"))]


def test_plan_foretells_from_what_the_other_machine_measured(
    on: On, night: Night, settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    night("one")
    on("b")
    seen = plan(resolve(JobConfig.model_validate(settings(tmp_path / "two"))))
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
    (piece,) = store.objects.filter(Prefix=f"optinfer/runs/{first.run_id}/")
    store.copy({"Bucket": store.name, "Key": piece.key}, piece.key.replace("000000000000000.", "000000000000007."))
    store.delete_objects(Delete={"Objects": [{"Key": piece.key}]})
    on("b")
    found = history(target(str(tmp_path / "one")), 20)
    assert found.runs == ()
    assert f"{first.run_id}/journal.jsonl cannot be read" in found.notes[0]


def test_doctor_holds_the_store_against_what_it_must_do(on: On, run_cli: RunCli, bucket: str, monkeypatch: Any) -> None:
    _, out, _ = run_cli("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert checks["home"]["ok"]
    assert f"{bucket}/optinfer takes conditional writes" in checks["home"]["detail"]
    assert str(home.home()) in checks["home"]["detail"]
    monkeypatch.setenv("OPTINFER_HOME", "s3://no-such-bucket-here/optinfer")
    code, out, _ = run_cli("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert (code, checks["home"]["ok"]) == (1, False)
    assert "no-such-bucket-here" in checks["home"]["detail"]


@pytest.mark.usefixtures("fake_variant")
def test_what_tune_found_on_one_machine_is_used_on_the_other(
    on: On, make_job: MakeJob, write_table: WriteTable, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "t.parquet", rows=96)

    def job(sink: str) -> JobConfig:
        changes = {"source__fragment_rows": 96, "tuning__sample_rows": 64, "model__max_length": 32}
        return make_job(table, tmp_path / sink, tuning__max_memory_mb=1e6, **changes)

    tuned: TuneRecord = Measured().tune(job("never"))
    on("b")
    said: list[str] = []
    record = optinfer.run(job("out"), executor=InProcess(), say=said.append)
    assert worked(said) == []
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert record.rows_out == 96
    assert manifest["tuned"]["max_batch_tokens"] == tuned.chosen.max_batch_tokens


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
    def own_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))

    @pytest.fixture
    def damaged(self, night: Night) -> Path:
        """Return a file of the int8 artifact that was certified before a bit of it flipped, its time as it was."""
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
        job = JobConfig.model_validate(settings(tmp_path / "after"))
        if verb == "plan":
            assert plan(resolve(job)).forecast.seconds is None  # it makes nothing, and knows nothing of what is damaged
        elif verb == "optimize":
            (found, *_) = optinfer.optimize(job, ["onnx-int8-qdq"]).candidates
            assert found.name == "onnx-int8-qdq"
        else:
            assert Measured().tune(job).chosen.variant == "onnx-int8-qdq"
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
