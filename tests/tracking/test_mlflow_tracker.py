"""MLflow is fed from events; when it cannot be reached the job goes on and the journal keeps everything."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optinfer.errors import GateError, OptinferError
from optinfer.records.part import Part
from optinfer.records.receipt import Receipt
from optinfer.records.run import MlflowRun
from optinfer.records.stats import Stats
from optinfer.tracking import mlflow_store
from optinfer.tracking.events import Committed, Dataset, Finished, Started
from optinfer.tracking.journal import read
from optinfer.tracking.mlflow_tracker import MlflowTracker
from optinfer.tracking.recorder import Recorder
from tests.system.test_home import full_disk

START = Started(
    run_name="test fake",
    params={f"p{i}": i for i in range(120)},
    tags={"optinfer.run_id": "r1"},
    inputs=(Dataset(name="table", digest="d1", source="/data/table", context="input"),),
)
FINISH = Finished(
    metrics={"rows_in": 10.0},
    outputs=(Dataset(name="out", digest="d2", source="/data/out", context="output"),),
    artifacts={"manifest.json": "{}"},
)


def committed(fragment: int) -> Committed:
    return Committed(
        Receipt(
            part=f"part-{fragment:06d}.parquet", made=Part(fragment=fragment), stats=Stats(rows_in=10), reasons={},
            replica="1@here", node="here", load_started=0.0, load_seconds=0.0, committed=0.0, peak_rss_mb=0.0,
            max_batch_tokens=1, max_batch_size=1,
        )
    )  # fmt: skip


class Clock:
    """Stands still until a test moves it: the tracker's thread looks at it, too."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def said() -> list[str]:
    return []


def recorder(tmp_path: Path, uri: str, said: list[str], clock: Callable[[], float] = time.time) -> Recorder:
    return Recorder(tmp_path / "run", MlflowTracker(uri, "tests"), clock, said.append)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, free_port: int) -> str:
    """Return the address of a loopback port where nobody listens."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return f"http://127.0.0.1:{free_port}"


def fetch(uri: str, where: MlflowRun) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri).get_run(where.run_id)


def test_a_run_is_recorded_as_it_was(tmp_path: Path, uri: str, said: list[str]) -> None:
    from mlflow import MlflowClient

    clock = Clock()
    with recorder(tmp_path, uri, said, clock) as record:
        record.event(START)
        record.params({"variant": "fake"})
        for fragment in range(7):
            clock.now += 1
            record.event(committed(fragment))
        where = record.finish(FINISH)

    run = fetch(uri, where)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "test fake"
    assert run.data.params == {**{f"p{i}": str(i) for i in range(120)}, "variant": "fake"}
    assert run.data.metrics["rows_in"] == 10.0
    assert run.data.tags["optinfer.run_id"] == "r1"
    assert {(d.dataset.name, d.dataset.digest, d.tags[0].value) for d in run.inputs.dataset_inputs} == {
        ("table", "d1", "input"),
        ("out", "d2", "output"),
    }
    client = MlflowClient(tracking_uri=uri)
    assert [a.path for a in client.list_artifacts(where.run_id)] == ["manifest.json"]
    steps = client.get_metric_history(where.run_id, "progress/rows")
    assert [(m.step, m.value) for m in steps] == [(1, 10.0), (6, 60.0), (7, 70.0)]
    assert where.warning == ""
    assert said == []


@pytest.mark.parametrize(
    ("error", "status", "event_status"),
    [(GateError("too far off"), "FAILED", "failed"), (KeyboardInterrupt(), "KILLED", "interrupted")],
)
def test_a_run_that_ends_early_says_why(
    tmp_path: Path, uri: str, said: list[str], error: BaseException, status: str, event_status: str
) -> None:
    record = recorder(tmp_path, uri, said)

    def attempt() -> None:
        with record:
            record.event(START)
            raise error

    with pytest.raises(type(error)):
        attempt()
    (finish,) = (event for event in read(record.journal.path) if event["event"] == "finish")
    assert finish["status"] == event_status
    run = fetch(uri, record.mlflow_run())
    assert run.info.status == status
    assert run.data.tags["optinfer.error"] == (str(error) or "KeyboardInterrupt")
    assert said == [f"journal: {record.journal.path}"]


def test_warnings_reach_the_journal_the_run_and_the_person(tmp_path: Path, uri: str, said: list[str]) -> None:
    with recorder(tmp_path, uri, said) as record:
        record.event(START)
        record.warn("answers depend on the batch")
        where = record.finish(FINISH)
    assert fetch(uri, where).data.tags["optinfer.warnings"] == "answers depend on the batch"
    assert said == ["warning: answers depend on the batch"]
    assert "warning" in [event["event"] for event in read(record.journal.path)]


def test_an_unreachable_server_costs_a_warning_and_nothing_else(tmp_path: Path, nobody: str, said: list[str]) -> None:
    with recorder(tmp_path, nobody, said) as record:
        record.event(START)
        record.event(committed(0))
        where = record.finish(FINISH)

    assert where.run_id is None
    assert f"MLflow at {nobody} did not take everything" in where.warning
    assert where.warning.endswith(f"`optinfer sync {record.journal.path}` brings it there")
    assert said == [f"warning: {where.warning}"]
    events = list(read(record.journal.path))
    assert [event["event"] for event in events] == ["start", "mlflow", "receipt", "finish", "warning"]
    assert events[0]["params"] == START.params
    assert events[3]["metrics"] == FINISH.metrics


def test_passwords_in_the_uri_are_never_shown(nobody: str) -> None:
    tracker = MlflowTracker(nobody.replace("http://", "http://user:secret@") + "/?token=secret", "tests")
    tracker.log(0.0, START)
    assert "secret" not in str(tracker.close())


class TestDatabases:
    """A SQLite file that cannot be used is found out at once: MLflow asks it for minutes, and `optimize` would wait."""

    def warned(self, uri: str) -> str:
        tracker = MlflowTracker(uri, "tests")
        tracker.log(0.0, START)
        return tracker.close().warning

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_bytes(b"no database, surely" * 100)
        assert "file is not a database" in self.warned(f"sqlite:///{tmp_path}/mlflow.db")

    def test_a_place_where_none_can_be(self, tmp_path: Path) -> None:
        assert "unable to open database file" in self.warned("sqlite:////proc/mlflow.db")
        (tmp_path / "file").touch()
        assert "FileExistsError" in self.warned(f"sqlite:///{tmp_path}/file/mlflow.db")

    def test_one_that_another_process_keeps(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mlflow_store, "_LOCKED_SECONDS", 0.1)
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert "database is locked" in self.warned(f"sqlite:///{tmp_path}/mlflow.db")

    @pytest.mark.parametrize("uri", ["http://[::1", "garbage", "://", "nobody://x", "http://host:99999999"])
    def test_what_is_no_address(self, uri: str) -> None:
        assert "the journal did" in self.warned(uri)


def test_what_is_compared_is_a_run_of_its_own_below(tmp_path: Path, uri: str, said: list[str]) -> None:
    from mlflow import MlflowClient

    with recorder(tmp_path, uri, said) as record:
        record.event(START)
        record.child("fake", {"backend": "fake"}, {"rows_per_second": 2.0}, {"certificate.json": "{}"})
        where = record.finish(FINISH)
    client = MlflowClient(tracking_uri=uri)
    parent = client.get_run(where.run_id)
    (child,) = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{where.run_id}'")
    assert (child.info.run_name, child.info.status, child.data.metrics) == (
        "fake",
        "FINISHED",
        {"rows_per_second": 2.0},
    )


def test_a_run_whose_journal_cannot_be_written_any_more_does_not_stay_running(
    tmp_path: Path, uri: str, said: list[str]
) -> None:
    record = recorder(tmp_path, uri, said)

    def attempt() -> None:
        with record:
            record.event(START)
            with full_disk():
                record.warn("a line too much")

    with pytest.raises(OptinferError, match="cannot write"):
        attempt()
    assert fetch(uri, record.mlflow_run()).info.status == "FAILED"
