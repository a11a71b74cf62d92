"""The runs of a job, from journals that runs wrote and the MLflow that they filled."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

import optinfer
from optinfer import errors
from optinfer.commands.asked_for import Target, target
from optinfer.commands.history import history
from optinfer.config import JobConfig
from optinfer.data.lock import RunLock
from optinfer.data.storage import Folder
from optinfer.errors import GateError, QuarantineError
from optinfer.records.history import History
from optinfer.system import home
from tests.conftest import MakeJob, RunCli, WriteTable

pytestmark = pytest.mark.usefixtures("fake_variant", "without_ray")

Job = Callable[..., JobConfig]


@pytest.fixture
def job(tmp_path: Path, write_table: WriteTable, make_job: MakeJob) -> Job:
    """Return a function that makes a job of a name that no other test has; 40 rows in three fragments."""
    source, name = write_table(tmp_path / "table.parquet"), f"history-{uuid.uuid4().hex[:8]}"
    return lambda sink="out", **changes: make_job(source, tmp_path / sink, name=name, **changes)


def of(job: JobConfig, last: int = 20) -> History:
    return history(Target(job.sink.path, job), last)


def journal(run_id: str) -> Path:
    return home.runs() / run_id / "journal.jsonl"


def test_runs_are_listed_newest_first_with_what_they_did(job: Job) -> None:
    first, second = optinfer.run(job("one")), optinfer.run(job("two"))
    found = of(job())
    assert [run.run_id for run in found.runs] == [second.run_id, first.run_id]
    newest = found.runs[0]
    assert (newest.status, newest.variant, newest.rows, newest.quarantined) == ("done", "fake", 40, 0)
    assert (newest.seconds, newest.rows_per_second) == (second.seconds, second.rows_per_second)
    assert newest.forecast_seconds == second.forecast.seconds
    assert newest.known_from == "journal"
    assert found.notes == ()


def test_so_many_are_listed_as_are_asked_for(job: Job) -> None:
    records = [optinfer.run(job(name)) for name in ("one", "two", "three")]
    assert [run.run_id for run in of(job(), last=2).runs] == [records[2].run_id, records[1].run_id]


def test_a_folder_stands_for_the_runs_of_its_own_job(job: Job) -> None:
    record, _ = optinfer.run(job("one")), optinfer.run(job("two", batching__max_batch_size=3))
    found = history(target(job("one").sink.path), 20)
    assert (found.job, [run.run_id for run in found.runs]) == (job().name, [record.run_id])


def test_a_run_that_failed_says_why(job: Job) -> None:
    with pytest.raises(GateError):
        optinfer.run(job(gate__min=0.99))
    (run,) = of(job()).runs
    assert (run.status, run.rows) == ("failed", 0)
    assert "no variant passes the gate" in run.error


def test_of_a_run_that_went_on_with_another_only_its_own_rows_count(job: Job, tmp_path: Path) -> None:
    optinfer.run(job())
    for name in ("_SUCCESS", "part-000001.parquet"):
        (tmp_path / "out" / name).unlink()
    record = optinfer.run(job())
    newest, oldest = of(job()).runs
    assert record.rows_in == oldest.rows == 40
    assert newest.rows == round(record.rows_per_second * record.seconds) < 40


def test_too_many_quarantined_rows_are_counted_from_receipts(job: Job, tmp_path: Path, write_table: WriteTable) -> None:
    texts = [None if i % 2 else f"text {i}" for i in range(40)]
    write_table(tmp_path / "table.parquet", columns={"id": [str(i) for i in range(40)], "text": texts})
    with pytest.raises(QuarantineError):
        optinfer.run(job())
    (run,) = of(job()).runs
    assert run.status == "failed"
    assert 0 < run.quarantined < run.rows <= 40


class TestWithoutAnEnd:
    @pytest.fixture
    def begun(self, job: Job) -> str:
        """Run a job, and take the end of its journal away, as a kill does; return its id."""
        run_id: str = optinfer.run(job()).run_id
        lines = journal(run_id).read_text().splitlines(keepends=True)
        kept = [line for line in lines if '"event": "finish"' not in line]
        journal(run_id).write_text("".join(kept) + '{"event": "rece')
        return run_id

    def test_it_was_cut_off_where_nobody_holds_the_output(self, job: Job, begun: str) -> None:
        (run,) = of(job()).runs
        assert (run.run_id, run.status, run.rows) == (begun, "cut off", 40)

    def test_it_is_running_where_its_process_holds_the_output(self, job: Job, begun: str) -> None:
        with RunLock(Folder(job().sink.path)):
            (run,) = of(job()).runs
        assert (run.run_id, run.status) == (begun, "running")

    def test_it_was_cut_off_where_the_holder_is_younger(self, job: Job, begun: str) -> None:
        lines = journal(begun).read_text().splitlines(keepends=True)
        start = {**json.loads(lines[0]), "time": 1.0}
        journal(begun).write_text("".join([json.dumps(start) + "\n", *lines[1:]]))
        with RunLock(Folder(job().sink.path)):
            (run,) = of(job()).runs
        assert run.status == "cut off"


class TestMlflow:
    def test_runs_whose_journal_is_gone_are_read_from_mlflow(self, job: Job) -> None:
        record = optinfer.run(job())
        with_journal = of(job()).runs[0]
        journal(record.run_id).unlink()
        (run,) = of(job()).runs
        assert run.known_from == "mlflow"
        for name in ("run_id", "status", "variant", "rows", "quarantined", "seconds", "rows_per_second"):
            assert getattr(run, name) == getattr(with_journal, name), name
        assert run.started == pytest.approx(with_journal.started, abs=0.01)

    def test_a_run_that_failed_says_why_there_too(self, job: Job, last_journal: Callable[[], Path]) -> None:
        with pytest.raises(GateError):
            optinfer.run(job(gate__min=0.99))
        last_journal().unlink()
        (run,) = of(job()).runs
        assert (run.status, run.known_from) == ("failed", "mlflow")
        assert "no variant passes the gate" in run.error

    def test_one_that_does_not_answer_is_a_note(
        self, job: Job, free_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        record = optinfer.run(job())
        found = of(job(tracking__uri=f"http://reader:s3cret@127.0.0.1:{free_port}"))
        assert [run.run_id for run in found.runs] == [record.run_id]
        (note,) = found.notes
        assert note.startswith(f"MLflow at http://127.0.0.1:{free_port} was not read")
        assert "s3cret" not in note

    def test_none_is_made_by_asking(self, job: Job, tmp_path: Path) -> None:
        found = of(job(tracking__uri=f"sqlite:///{tmp_path / 'none.db'}"))
        assert (found.runs, found.notes) == ((), ())
        assert not (tmp_path / "none.db").exists()


def test_a_journal_that_is_garbage_is_named_and_the_others_are_read(job: Job) -> None:
    record = optinfer.run(job())
    broken = journal(f"99999999-000000-{uuid.uuid4().hex[:6]}")
    broken.parent.mkdir()
    broken.write_text("nothing\n")
    try:
        found = of(job())
    finally:
        broken.unlink()
    assert [run.run_id for run in found.runs] == [record.run_id]
    assert found.notes == (f"{broken} cannot be read (JSONDecodeError) and is left out",)


def test_a_folder_of_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="is not the output of an optinfer job"):
        history(target(str(tmp_path)), 20)


def test_the_command_prints_a_table_or_one_object(job: Job, run_cli: RunCli, tmp_path: Path) -> None:
    record = optinfer.run(job())
    code, out, _ = run_cli("history", tmp_path / "out")
    head, _, row = out.splitlines()
    assert code == 0
    assert head.split(" | ")[1].strip() == "status"
    assert row.split(" | ")[1:4] == ["done  ", "fake   ", "40  "]
    assert record.run_id in row
    code, out, _ = run_cli("history", tmp_path / "out", "--json")
    told = json.loads(out)
    assert (code, told["runs"][0]["run_id"], told["output"]) == (0, record.run_id, os.fspath(tmp_path / "out"))
