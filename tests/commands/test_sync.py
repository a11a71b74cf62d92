"""Journals brought to MLflow afterwards: what is there then is what the run itself would have sent, once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import optinfer
from optinfer.commands.sync import Where, sync
from optinfer.errors import ConfigError
from optinfer.records.sync import Synced
from optinfer.system import home
from optinfer.tracking.mlflow_tracker import MlflowTracker
from optinfer.tracking.recorder import Recorder
from tests.conftest import MakeJob, RunCli, WriteTable, everything_under, wait_until
from tests.tracking.mlflow_server import runs_at
from tests.tracking.test_mlflow_tracker import FINISH, START, Clock, committed

AWAY = "sqlite:////proc/mlflow.db"


@pytest.fixture
def uri(own_store: str) -> str:
    return own_store


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def recorded(uri: str, clock: Callable[[], float] = time.time) -> Path:
    """Record a run with all that a run may have; return its journal."""
    drawn = home.home() / "pareto.png"
    drawn.parent.mkdir(parents=True, exist_ok=True)
    drawn.write_bytes(b"\x89PNG")
    with Recorder(home.runs() / "r1", MlflowTracker(uri, "tests"), clock, lambda line: None) as record:
        record.event(START)
        record.params({"variant": "fake", "shape": (1, 2), "none": None, "share": 0.1 + 0.2})
        record.selected("fake", [("onnx-fp32", "slower")])
        for fragment in range(5):
            if isinstance(clock, Clock):
                clock.now += 3.3
            record.event(committed(fragment))
        record.child("fake", {"backend": "fake"}, {"rows_per_second": 2.0}, {"certificate.json": "{}"})
        record.child("1 fake", {"replicas": 2}, {})
        record.warn("odd")
        record.finish(FINISH, [drawn])
    return record.journal.path


def one(target: object, uri: str | None = None, experiment: str | None = None) -> Synced:
    (synced,) = sync(str(target), Where(uri, experiment)).runs
    return synced


def content(uri: str) -> list[str]:
    """Return all rows of a store."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as store:
        return list(store.iterdump())


def test_what_is_replayed_is_what_the_run_itself_would_have_sent(tmp_path: Path, uri: str, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "other.db")
    journal = recorded(uri, Clock())
    synced = one(journal, f"sqlite:///{tmp_path}/other.db")
    assert (synced.status, synced.experiment) == ("sent", "tests")
    sent, replayed = runs_at(uri), runs_at(f"sqlite:///{tmp_path}/other.db")
    for run in replayed:
        run["tags"].pop("optinfer.mlflow_run_id", None)
    assert len(sent) == 3
    assert replayed == sent


def test_a_second_time_changes_nothing(uri: str) -> None:
    journal = recorded(AWAY)
    first = one(journal, uri)
    before = content(uri)
    second = one(journal, uri)
    assert (first.status, second.status) == ("sent", "complete")
    assert first.mlflow_run_id == second.mlflow_run_id
    assert content(uri) == before


def test_a_run_that_mlflow_has_in_part_is_completed_where_it_is(uri: str) -> None:
    """As where MLflow went away in the middle: the journal names its run."""
    record = Recorder(home.runs() / "r1", MlflowTracker(uri, "tests"), time.time, lambda line: None)
    with record:
        record.event(START)
        record.event(committed(0))
        with sqlite3.connect(uri.removeprefix("sqlite:///")) as other:
            begun(record)
            other.execute("BEGIN EXCLUSIVE")
            where = record.finish(FINISH)
            other.rollback()
    assert where.warning
    synced = one(record.journal.path)
    assert (synced.status, synced.mlflow_run_id) == ("sent", where.run_id)
    (run,) = runs_at(uri)
    assert (run["status"], set(run["artifacts"])) == ("FINISHED", {"manifest.json"})
    assert one(record.journal.path).status == "complete"


def begun(record: Recorder) -> None:
    wait_until(lambda: record.mlflow_run().run_id, "the run")


def test_a_run_that_mlflow_has_whole_is_left_as_it_is(uri: str) -> None:
    journal = recorded(uri)
    before = content(uri)
    assert one(journal).status == "complete"
    assert content(uri) == before


class TestFromAnotherMachine:
    """All that is left of the driver's machine is what lies with the output."""

    pytestmark = pytest.mark.usefixtures("fake_variant", "without_ray")
    Scored = Callable[[object], str]

    @pytest.fixture
    def own_home(self) -> None:
        """Score in the home of all tests, where everything is built."""

    @pytest.fixture
    def scored(
        self, tmp_path: Path, write_table: WriteTable, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
    ) -> Scored:
        """Return a function that scores a table into a sink without MLflow, forgets its home, and returns the run's id."""
        source = write_table(tmp_path / "table.parquet")

        def score(sink: object) -> str:
            record = optinfer.run(make_job(source, sink, tracking={"uri": AWAY, "experiment": "tests"}))
            assert record.status == "done"
            shutil.rmtree(home.runs() / record.run_id)
            monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
            return record.run_id

        return score

    def test_an_output_brings_its_run(self, tmp_path: Path, scored: Scored, uri: str) -> None:
        run_id = scored(tmp_path / "out")
        assert everything_under(tmp_path / "out/_optinfer/staging") == []  # as clean as the end of the job left it
        moved = shutil.move(tmp_path / "out", tmp_path / "elsewhere")
        assert one(moved, uri).status == "sent"
        assert one(f"{moved}/_optinfer/journals/{run_id}", uri).status == "complete"
        (run,) = runs_at(uri)
        assert (run["status"], run["tags"]["optinfer.run_id"]) == ("FINISHED", run_id)
        assert run["metrics"]["stats/rows_out"][0][2] == 40
        assert json.loads(run["artifacts"]["manifest.json"])["run"]["run_id"] == run_id

    def test_so_does_one_on_s3(self, scored: Scored, uri: str, bucket: str) -> None:
        run_id = scored(f"{bucket}/out")
        assert [one(f"{bucket}/out", uri).status for _ in range(2)] == ["sent", "complete"]
        (run,) = runs_at(uri)
        assert (run["status"], run["tags"]["optinfer.run_id"]) == ("FINISHED", run_id)

    def test_a_piece_that_is_missing_is_said(self, tmp_path: Path, scored: Scored, uri: str) -> None:
        run_id = scored(tmp_path / "out")
        folder = tmp_path / "out/_optinfer/journals" / run_id
        first, *_ = sorted(folder.iterdir())
        first.rename(folder / "000000000000007.jsonl")
        synced = one(tmp_path / "out", uri)
        assert synced.status == "failed"
        assert "what should begin at byte 0 begins with 000000000000007.jsonl" in synced.reason

    def test_a_file_of_the_machine_that_is_gone_is_not_made_anew_here(self, uri: str) -> None:
        journal = recorded(AWAY)
        text = journal.read_text().replace(f'"host": "{os.uname().nodename}"', '"host": "driver-1"')
        journal.write_text(text)
        synced = one(journal)
        assert synced.status == "failed"
        assert "its MLflow is a file of driver-1, /proc/mlflow.db; add --uri" in synced.reason


def test_a_run_that_was_killed_is_ended_as_that(tmp_path: Path, uri: str) -> None:
    script = f"""
import os, signal, time
from optinfer.config import TrackingConfig
from optinfer.tracking.recorder import recorder_of
from tests.conftest import wait_until
from tests.tracking.test_mlflow_tracker import START, committed
record = recorder_of(TrackingConfig(uri={uri!r}, experiment="tests"), "r1", print)
record.event(START)
record.event(committed(0))
wait_until(lambda: record.mlflow_run().run_id, "the run")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert one(home.runs() / "r1").status == "sent"
    (run,) = runs_at(uri)
    assert run["status"] == "FAILED"
    assert run["tags"]["optinfer.error"].startswith("cut off: ")
    assert one(home.runs() / "r1").status == "complete"


def test_a_run_that_goes_on_is_left_to_itself(uri: str) -> None:
    with Recorder(home.runs() / "r1", MlflowTracker(uri, "tests"), time.time, lambda line: None) as record:
        record.event(START)
        begun(record)
        before = content(uri)
        assert one(record.journal.path).status == "running"
        assert content(uri) == before
        record.finish(FINISH)


def test_a_run_that_was_deleted_there_stays_deleted(uri: str) -> None:
    from mlflow import MlflowClient

    journal = recorded(uri)
    client = MlflowClient(tracking_uri=uri)
    client.delete_run(one(journal).mlflow_run_id)
    synced = one(journal)
    assert (synced.status, "was deleted there" in synced.reason) == ("failed", True)


def test_an_environment_that_knows_the_password_is_asked_for_it(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal has the address without it."""
    journal = recorded(AWAY)
    secret = f"{uri}?timeout=7"
    journal.write_text(journal.read_text().replace(AWAY, uri))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    assert one(journal).status == "sent"


class TestCli:
    def test_all_of_a_machine_and_an_mlflow_that_is_away_is_asked_once(self, run_cli: RunCli) -> None:
        journal = recorded(AWAY)
        (home.runs() / "r2").mkdir()
        (home.runs() / "r2/journal.jsonl").write_text(journal.read_text().replace('"r1"', '"r2"'))
        code, out, err = run_cli("sync", "--all", "--json")
        assert code == 1
        first, second = json.loads(out)["runs"]
        assert (first["run_id"], second["run_id"]) == ("r1", "r2")
        assert second["reason"] == f"not asked again: {first['reason']}"
        assert err.strip().endswith("2 of 2 journals are not in MLflow")

    def test_a_journal_of_before_says_what_to_add(self, run_cli: RunCli, uri: str) -> None:
        journal = recorded(AWAY)
        lines = [line for line in journal.read_text().splitlines(keepends=True) if '"event": "mlflow"' not in line]
        journal.write_text("".join(lines))
        code, out, _ = run_cli("sync", journal)
        assert (code, "add --uri and --experiment" in out) == (1, True)
        code, out, _ = run_cli("sync", journal, "--uri", uri, "--experiment", "tests")
        assert (code, "sent" in out) == (0, True)

    @pytest.mark.parametrize("arguments", [[], ["out", "--all"]])
    def test_one_thing_has_to_be_named(self, run_cli: RunCli, arguments: list[str]) -> None:
        code, _, err = run_cli("sync", *arguments)
        assert (code, "give a journal, an output or a job file, or --all" in err) == (2, True)

    def test_what_has_no_journal_is_refused(self, tmp_path: Path) -> None:
        for name in ("nothing", "nothing.jsonl"):
            with pytest.raises(ConfigError, match="journal"):
                sync(str(tmp_path / name), Where())

    def test_what_is_no_journal_is_said(self, tmp_path: Path, uri: str) -> None:
        for text in ("", "{}\n", "nonsense\n", '{"event": "start", "time": 1.0}\n'):
            (tmp_path / "a.jsonl").write_text(text)
            assert one(tmp_path / "a.jsonl", uri, "tests").reason.startswith("it cannot be read")
