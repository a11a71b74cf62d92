"""What a person finds in MLflow: names, descriptions, tables, where a run came from. Read by MLflow's own client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optinfer
from optinfer.commands.sync import Where, sync
from optinfer.records.run import RunRecord
from optinfer.tracking import metrics, origin
from optinfer.tracking.events import Dataset, Finished, Resumed, Started
from optinfer.tracking.metrics import Metric
from optinfer.tracking.mlflow_store import Silence, Store
from optinfer.tracking.mlflow_tracker import MlflowTracker
from optinfer.tracking.past import Asked, from_journals
from optinfer.tracking.points import Points
from optinfer.tracking.recorder import Recorder
from tests.conftest import REPO, WriteTable, free_ports, points
from tests.tracking.mlflow_server import mlflow_server
from tests.tracking.test_mlflow_tracker import START, committed

BEFORE = REPO / "tests" / "outputs_before" / "journal" / "journal.jsonl"
NOTE, NAME = "mlflow.note.content", "mlflow.runName"
BEGUN = Started(
    run_name="nightly · auto",
    params={"job": "nightly", "data.rows": 40},
    tags={"optinfer.run_id": "r1", "mlflow.user": "ada", "mlflow.source.name": "nightly.yaml"},
    inputs=(
        Dataset(name="t", digest="d", source="s3://b/t.parquet", context="input", rows=40, columns={"id": "int64"}),
    ),
    note="`nightly` scores 40 rows",
)
ENDED = Finished(note="**40 of 40 rows** scored.", metrics={"job/rows": 40.0})


@pytest.fixture(scope="module", params=["SQLite", "a server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a real store: a file, and a server that is asked over HTTP."""
    folder = tmp_path_factory.mktemp("store")
    if request.param == "SQLite":
        yield f"sqlite:///{folder}/mlflow.db"
    else:
        with mlflow_server(folder, *free_ports(1)) as server:
            yield server.url


@pytest.fixture
def client(store: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store)


Opened = Callable[..., Recorder]


@pytest.fixture
def opened(store: str, tmp_path: Path) -> Opened:
    """Return a function that opens a recorder; what it warns of fails the test."""

    def make(experiment: str) -> Recorder:
        return Recorder(tmp_path / experiment, MlflowTracker(store, experiment), time.time, pytest.fail)

    return make


def run_of(client: Any, recorder: Recorder) -> Any:
    return client.get_run(recorder.mlflow_run().run_id)


class TestExperiments:
    def test_one_that_is_made_is_marked_as_model_training(self, store: str, client: Any) -> None:
        made = Store(store, "made", Silence()).experiment_id
        assert client.get_experiment(made).tags["mlflow.experimentKind"] == "custom_model_development"

    @pytest.mark.parametrize("tags", [{}, {"mlflow.experimentKind": "genai_development"}])
    def test_one_that_is_there_stays_as_it_is(self, store: str, client: Any, tags: dict[str, str]) -> None:
        name = f"there {len(tags)}"
        there = client.create_experiment(name, tags=tags)
        assert Store(store, name, Silence()).experiment_id == there
        assert {k: v for k, v in client.get_experiment(there).tags.items() if "Kind" in k} == tags

    def test_mlflows_own_pages_know_the_tag_and_its_value(self) -> None:
        import mlflow.server

        pages = Path(mlflow.server.__file__).parent / "js" / "build" / "static" / "js"
        text = "".join(file.read_text(errors="replace") for file in pages.glob("*.js"))
        assert 'CUSTOM_MODEL_DEVELOPMENT="custom_model_development"' in text
        assert "mlflow.experimentKind" in text


class TestRuns:
    def test_name_and_description_are_those_of_the_end(self, client: Any, opened: Opened) -> None:
        with opened("described") as record:
            record.event(BEGUN)
            record.selected("onnx-fp32", [("torch-fp32", "slower"), ("onnx-int8-qdq", "below gate.min")], [])
            record.finish(ENDED)
        run = run_of(client, record)
        assert (run.info.run_name, run.data.tags[NOTE]) == ("nightly · onnx-fp32", "**40 of 40 rows** scored.")

    def test_what_a_person_wrote_meanwhile_stays(self, client: Any, opened: Opened, store: str) -> None:
        with opened("edited") as record:
            record.event(BEGUN)
            record.selected("onnx-fp32", [])
            while not (run_id := record.mlflow_run().run_id):
                time.sleep(0.01)
            client.set_tag(run_id, NOTE, "for the audit")
            client.update_run(run_id, name="the one of March")
            record.finish(ENDED)
        run = run_of(client, record)
        assert (run.info.run_name, run.data.tags[NOTE]) == ("the one of March", "for the audit")
        assert run.data.metrics["job/rows"] == 40.0

    def test_one_that_fails_says_so(self, client: Any, store: str, tmp_path: Path) -> None:
        record = Recorder(tmp_path / "run", MlflowTracker(store, "failed"), time.time, lambda line: None)
        record.event(BEGUN)

        def end() -> None:
            with record:
                raise RuntimeError("no room left")

        with pytest.raises(RuntimeError):
            end()
        assert run_of(client, record).data.tags[NOTE] == "**failed**: RuntimeError: no room left"

    def test_why_variants_were_not_chosen_is_a_table_of_mlflows(self, client: Any, opened: Opened, store: str) -> None:
        import mlflow

        mlflow.set_tracking_uri(store)  # `load_table` asks the store of this process
        reason = "slower " * 200
        with opened("table") as record:
            record.event(BEGUN)
            record.selected(
                "onnx-fp32", [("torch-fp32", reason), ("openvino-bf16", "no bf16")], [("torch-fp32", "slower")]
            )
            record.finish(ENDED)
        run = run_of(client, record)
        assert not [tag for tag in run.data.tags if "not_chosen" in tag]
        table = client.load_table(run.info.experiment_id, "not_chosen.json", [run.info.run_id])
        assert table.to_dict("list") == {
            "variant": ["torch-fp32", "openvino-bf16"], "why": ["slower", ""], "reason": [reason, "no bf16"]
        }  # fmt: skip

    def test_what_is_below_has_the_jobs_name_and_its_origin(self, client: Any, opened: Opened) -> None:
        with opened("below") as record:
            record.event(BEGUN)
            record.child("onnx-fp32", {}, {"replica/rows_per_second": 2.0}, note="passes")
            record.finish(ENDED)
        parent = run_of(client, record)
        (child,) = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
        assert child.info.run_name == "nightly · onnx-fp32"
        assert child.data.tags[NOTE] == "passes"
        for run in (parent, child):
            assert (run.data.tags["mlflow.user"], run.data.tags["mlflow.source.name"]) == ("ada", "nightly.yaml")

    def test_a_dataset_is_one_that_mlflow_opens(self, client: Any, opened: Opened) -> None:
        import mlflow.data
        from mlflow.types import Schema

        with opened("dataset") as record:
            record.event(BEGUN)
            record.finish(ENDED)
        (given,) = run_of(client, record).inputs.dataset_inputs
        source = mlflow.data.get_source(given.dataset)
        assert (type(source).__name__, source.uri) == ("S3ArtifactDatasetSource", "s3://b/t.parquet")
        (column,) = Schema.from_json(json.dumps(json.loads(given.dataset.schema)["mlflow_colspec"])).inputs
        assert (column.name, column.type.name) == ("id", "long")
        assert json.loads(given.dataset.profile) == {"num_rows": 40}

    def test_a_model_that_mlflow_no_longer_has_costs_the_link_alone(self, client: Any, opened: Opened) -> None:
        with opened("gone") as record:
            record.event(replace(BEGUN, model_id="m-00000000000000000000000000000000"))
            where = record.finish(ENDED)
        assert where.warning == ""
        assert run_of(client, record).info.status == "FINISHED"

    def test_progress_ends_at_all_of_the_table(self, client: Any, opened: Opened) -> None:
        with opened("progress") as record:
            record.event(BEGUN)
            record.event(Resumed(20))
            record.event(committed(0))
            record.event(committed(1))
            record.finish(ENDED)
        run = run_of(client, record)
        history = client.get_metric_history(run.info.run_id, "progress/percent")
        assert [point.value for point in history] == [75.0, 100.0]
        assert (run.data.metrics["progress/percent"], run.data.metrics["progress/rows"]) == (100.0, 20.0)


class TestPoints:
    def test_one_that_fails_ends_where_it_was(self) -> None:
        at = Points(0.0, BEGUN)
        at.add(1.0, 10)
        at.add(2.0, 10)
        last = at.end(3.0, Finished(status="failed"))
        assert last is not None
        assert (last.rows, last.percent) == (20, 50.0)

    def test_rows_that_are_scored_again_count_once(self) -> None:
        at = Points(0.0, BEGUN)
        at.resume(Resumed(40))
        point = at.add(1.0, 10)
        assert point is not None
        assert point.percent == 100.0

    def test_a_search_has_none(self) -> None:
        assert Points(0.0, START).end(1.0, Finished()) is None


class TestOrigin:
    def test_it_is_what_mlflows_own_start_run_sets(self, tmp_path: Path) -> None:
        """In a script of a repository of its own, of which both are asked."""
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run([*git, "init", "--quiet", "-b", "trunk"], check=True)
        script = tmp_path / "script.py"
        script.write_text(
            "import json\n"
            "from mlflow.tracking.context.registry import resolve_tags\n"
            "from optinfer.tracking import origin\n"
            "print(json.dumps([origin.tags(), resolve_tags()]))\n"
        )
        subprocess.run([*git, "add", "script.py"], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=True, env=environment, cwd="/"
        )
        ours, theirs = json.loads(done.stdout.splitlines()[-1])
        assert ours == theirs
        assert len(ours) == 5

    def test_of_our_own_command_it_is_the_job_file(self, tmp_path: Path) -> None:
        job = tmp_path / "nightly.yaml"
        job.touch()
        found = origin.tags(["/somewhere/bin/optinfer", "run", str(job), "--set", "a.b=c.yaml"])
        assert found["mlflow.source.name"] == str(job)
        assert "mlflow.source.git.commit" not in found

    def test_git_that_is_not_there_costs_the_commit_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        assert set(origin.tags()) == {"mlflow.user", "mlflow.source.name", "mlflow.source.type"}


class TestNames:
    def test_every_metric_is_listed_once(self) -> None:
        held = [value for value in vars(metrics).values() if isinstance(value, Metric)]
        held += [one for value in vars(metrics).values() if isinstance(value, dict) for one in value.values()
                 if isinstance(one, Metric)]  # fmt: skip
        assert sorted(held, key=lambda one: one.name) == sorted(metrics.ALL, key=lambda one: one.name)
        assert len({one.name for one in metrics.ALL}) == len(metrics.ALL)

    def test_the_twelve_that_matter_come_first_as_mlflow_sorts_them(self) -> None:
        names = sorted(one.name for one in metrics.ALL if not one.name.startswith("progress/"))
        assert names[:12] == sorted(one.name for one in metrics.FIRST)
        assert all(name.startswith("stats/") for name in names[12:])


class TestRunsOfBefore:
    """A journal that the version before wrote (its paths are renamed)."""

    def test_history_reads_them_from_the_journal_and_from_mlflow(self, own_store: str) -> None:
        from optinfer.config import TrackingConfig
        from optinfer.tracking.mlflow_past import from_mlflow

        (synced,) = sync(str(BEFORE), Where(own_store, "before")).runs
        assert (synced.status, synced.reason) == ("sent", "")
        asked = Asked(job="before")
        (here,), _ = from_journals([BEFORE], asked, 5, lambda started: False)
        (there,), notes = from_mlflow(TrackingConfig(uri=own_store, experiment="before"), asked, 5, lambda _: False)
        assert notes == []
        for run in (here, there):
            assert (run.rows, run.quarantined, run.variant, run.status) == (100, 0, "onnx-fp32", "done")
            assert run.seconds > 0
            assert run.rows_per_second > 0
            assert run.forecast_seconds is not None
        assert (here.seconds, here.forecast_seconds) == (there.seconds, there.forecast_seconds)


@pytest.fixture
def job(tmp_path: Path, write_table: WriteTable, own_store: str) -> dict[str, Any]:
    columns = {"id": range(100), **{name: np.arange(100, dtype=np.float32) for name in "abcd"}}
    write_table(tmp_path / "points.parquet", columns=columns)
    points(tmp_path / "model.onnx", 4)
    return {
        "name": "points",
        "source": {"path": str(tmp_path / "points.parquet"), "columns": {"x": [*"abcd"]}, "fragment_rows": 25},
        "model": {"path": str(tmp_path / "model.onnx"), "family": "tensor"},
        "variant": "onnx-fp32",
        "gate": {"min": 0.99, "sample_rows": 16},
        "placement": {"cost_per_hour": {"cpu": 1.0}},
        "sink": {"path": str(tmp_path / "out"), "columns": ["id"]},
        "tracking": {"uri": own_store, "experiment": "jobs"},
    }


def scored(job: dict[str, Any]) -> RunRecord:
    return optinfer.run(job, executor=optinfer.InProcess())


class TestJobs:
    def test_a_job_and_a_variant_have_the_same_number_under_the_same_name(
        self, job: dict[str, Any], own_store: str
    ) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=own_store)
        run = client.get_run(scored(job).mlflow.run_id)
        compared = optinfer.optimize(job, names=["onnx-fp32"])
        (child,) = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{compared.mlflow.run_id}'")
        common = set(run.data.metrics) & set(child.data.metrics)
        assert {name: run.data.metrics[name] for name in common} == {name: child.data.metrics[name] for name in common}
        first = {one.name for one in metrics.FIRST}
        assert common >= {name for name in first if name.startswith(("replica/", "gate/"))}
        assert first - set(run.data.metrics) <= {"job/forecast_error_percent", "node/rows_per_second"}
        assert {*run.data.metrics, *child.data.metrics} <= {one.name for one in metrics.ALL}

    def test_its_page_says_in_three_lines_and_a_table_what_was_done(self, job: dict[str, Any], own_store: str) -> None:
        from mlflow import MlflowClient

        run = MlflowClient(tracking_uri=own_store).get_run(scored(job).mlflow.run_id)
        assert run.info.run_name == "points · onnx-fp32"
        text, _, table = run.data.tags[NOTE].partition("\n\n")
        assert text.startswith("**100 of 100 rows** of `points.parquet` scored, in ")
        assert len(text.splitlines()) == 3
        head, _, row = table.splitlines()
        assert [cell.strip() for cell in head.split("|")[1:-1]] == [
            "what ran", "rows", "rows/s", "gate", "against the forecast"
        ]  # fmt: skip
        assert row.count("|") == head.count("|")
        assert run.data.tags["mlflow.user"]
        assert {d.dataset.name: json.loads(d.dataset.profile)["num_rows"] for d in run.inputs.dataset_inputs} == {
            "points.parquet": 100, "out": 100
        }  # fmt: skip

    def test_a_model_of_mlflows_registry_is_linked(
        self, job: dict[str, Any], own_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import mlflow
        import onnx

        monkeypatch.chdir(tmp_path)  # where MLflow puts the files of its first experiment
        mlflow.set_tracking_uri(own_store)
        with mlflow.start_run(experiment_id="0"):  # of another test MLflow may have kept another one
            logged = mlflow.onnx.log_model(
                onnx.load(job["model"]["path"]), name="model", registered_model_name="points", pip_requirements=[]
            )
        client = mlflow.MlflowClient(tracking_uri=own_store)
        client.set_registered_model_alias("points", "champion", logged.registered_model_version)
        record = scored({**job, "model": {**job["model"], "path": "models:/points@champion"}})
        run = client.get_run(record.mlflow.run_id)
        assert run.data.params["model.version"] == "models:/points/1"
        assert [one.model_id for one in run.inputs.model_inputs] == [logged.model_id]
