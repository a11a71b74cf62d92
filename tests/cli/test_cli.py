"""The command line: exit codes, what goes to stdout and what to stderr, and what is never imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from optinfer.records.receipt import Receipt
from tests.conftest import REPO, RunCli, WriteJob, WriteTable, everything_under, read_rows

HEAVY = ("torch", "ray", "mlflow", "onnxruntime", "openvino", "nncf", "transformers", "pandas")


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable) -> Path:
    return write_table(tmp_path / "table.parquet", rows=40)


@pytest.mark.usefixtures("fake_variant", "without_ray")
class TestNights:
    """`{date}` in a job's paths, and the night it is run for."""

    @pytest.fixture
    def job(self, tmp_path: Path, write_job: WriteJob, write_table: WriteTable) -> Path:
        for day, rows in (("2026-11-24", 20), ("2026-11-25", 30)):
            write_table(tmp_path / "in" / f"{day}.parquet", rows=rows)
        return write_job(tmp_path / "in" / "{previous}.parquet", tmp_path / "out" / "{date}")

    def test_a_past_night_is_run_with_its_own_rows(self, run_cli: RunCli, job: Path, tmp_path: Path) -> None:
        for night, rows in (("2026-11-26", 30), ("2026-11-25", 20)):
            code, out, _ = run_cli("run", job, "--logical-date", night, "--json")
            assert (code, json.loads(out)["rows_out"]) == (0, rows)
            assert len(read_rows(tmp_path / "out" / night)) == rows
        status = run_cli("status", tmp_path / "out" / "{date}", "--logical-date", "2026-11-25", "--json")[1]
        assert (json.loads(status)["state"], json.loads(status)["rows"]) == ("done", 20)

    def test_the_same_night_again_has_nothing_to_do(self, run_cli: RunCli, job: Path, tmp_path: Path) -> None:
        run_cli("run", job, "--logical-date", "2026-11-25")
        before = everything_under(tmp_path / "out")
        code, out, _ = run_cli("run", job, "--logical-date", "2026-11-25")
        assert (code, "nothing to do" in out) == (0, True)
        assert everything_under(tmp_path / "out") == before

    def test_two_nights_are_two_jobs(self, run_cli: RunCli, job: Path) -> None:
        plans = [
            json.loads(run_cli("plan", job, "--logical-date", night, "--json")[1])
            for night in ("2026-11-25", "2026-11-26", "2026-11-25")
        ]
        assert plans[0]["fingerprint"] == plans[2]["fingerprint"] != plans[1]["fingerprint"]

    @pytest.mark.parametrize("day", ["2026-11-31", "26-11-25", "20261125", "yesterday", "0001-01-01", ""])
    def test_what_is_no_day_is_refused(self, run_cli: RunCli, job: Path, day: str) -> None:
        code, _, err = run_cli("plan", job, "--logical-date", day)
        assert code == 2
        assert "is no day; write it as 2026-11-25" in err

    def test_a_second_tick_while_the_night_runs_ends_with_5_and_says_who(
        self, run_cli: RunCli, job: Path, tmp_path: Path
    ) -> None:
        from optinfer.data.lock import RunLock
        from optinfer.data.storage import Folder

        with RunLock(Folder(str(tmp_path / "out" / "2026-11-25"))):
            code, _, err = run_cli("run", job, "--logical-date", "2026-11-25")
        assert code == 5
        assert re.search(rf"live run \(process {os.getpid()} on \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)", err)


@pytest.mark.usefixtures("fake_variant", "without_ray")
class TestRun:
    def test_json_is_all_that_stdout_holds(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path
    ) -> None:
        code, out, err = run_cli("run", write_job(source, sink), "--json")
        assert code == 0
        assert json.loads(out)["rows_out"] == 40
        assert "scoring with fake" in err

    def test_people_are_told_what_was_done_and_where_it_is(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path
    ) -> None:
        code, out, _ = run_cli("run", write_job(source, sink))
        assert code == 0
        assert "40 of 40 rows scored, 0 quarantined" in out
        assert str(sink) in out

    def test_a_finished_job_ends_0_with_nothing_done(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path
    ) -> None:
        run_cli("run", write_job(source, sink))
        code, out, _ = run_cli("run", write_job(source, sink))
        assert code == 0
        assert out.startswith("nothing to do")

    def test_set_changes_the_job(self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path) -> None:
        code, out, _ = run_cli("run", write_job(source, sink), "--json", "--set", "source.limit=10")
        assert code == 0
        assert json.loads(out)["rows_in"] == 10

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["--set", "source.path=/nowhere.parquet"], 2, "error: /nowhere.parquet does not exist; check source.path"),
            (["--set", "source.path=/nowhere/*.parquet"], 2, "no file matches"),
            (["--set", "source.columns={text: tekst}"], 2, "did you mean 'text'?"),
            (["--set", "variant=torch-fp23"], 2, "did you mean 'torch-fp32'?"),
            (["--set", "sink.treshold=1"], 2, "unknown key 'sink.treshold'; did you mean 'error_threshold'?"),
            (["--set", "gate.min=1.1"], 4, "no variant passes the gate, nothing was scored"),
            (["--set", "placement.threads_per_replica=64"], 2, "lower placement.threads_per_replica"),
            (["--sett", "a=b"], 2, "No such option"),
        ],
        ids=["no path", "no match", "no column", "variant", "key", "gate", "placement", "option"],
    )
    def test_a_mistake_has_its_exit_code_and_names_the_fix(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path,
        arguments: list[str], code: int, message: str,
    ) -> None:  # fmt: skip
        ended, out, err = run_cli("run", write_job(source, sink), *arguments)
        assert ended == code
        assert message in err
        assert out == ""
        assert "Traceback" not in err
        assert list(sink.glob("*")) == [] or code == 4 or "placement" in message

    def test_too_many_quarantined_rows_end_3(
        self, run_cli: RunCli, write_job: WriteJob, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        nulls = write_table(tmp_path / "nulls.parquet", columns={"id": ["a", "b"], "text": ["x", None]})
        code, _, err = run_cli("run", write_job(nulls, sink))
        assert code == 3
        assert "1 rows: text is null" in err

    def test_a_row_that_must_not_fail_ends_1(
        self, run_cli: RunCli, write_job: WriteJob, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        nulls = write_table(tmp_path / "nulls.parquet", columns={"id": ["a", "b"], "text": ["x", None]})
        code, _, err = run_cli("run", write_job(nulls, sink, sink__on_error="raise"))
        assert code == 1
        assert "set sink.on_error: quarantine" in err

    def test_an_unreadable_file_ends_1(self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path) -> None:
        source.write_bytes(source.read_bytes()[:-100])
        code, _, err = run_cli("run", write_job(source, sink))
        assert code == 1
        assert "table.parquet is not a readable Parquet file" in err
        assert everything_under(sink) == []

    def test_an_output_of_another_job_ends_5(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path
    ) -> None:
        run_cli("run", write_job(source, sink))
        code, _, err = run_cli("run", write_job(source, sink), "--set", "source.limit=10")
        assert code == 5
        assert "source.rows: 40 there, 10 here" in err

    def test_an_interrupted_job_ends_130_and_says_how_to_go_on(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path
    ) -> None:
        class Interrupted(InProcess):
            def stream(self, *arguments: Any) -> Generator[Receipt, None, None]:  # type: ignore[override]
                yield next(super().stream(*arguments))
                raise KeyboardInterrupt

        code, _, err = run_cli("run", write_job(source, sink), executor=Interrupted([Node(cpus=2)]))
        assert len(list(sink.glob("part-*"))) > 0
        assert code == 130
        assert "the same command goes on" in err
        assert not (sink / "_optinfer" / "lock.json").exists()


@pytest.mark.usefixtures("fake_variant", "without_ray")
class TestStatus:
    def test_a_finished_job_is_done(self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path) -> None:
        run_cli("run", write_job(source, sink))
        code, out, _ = run_cli("status", sink, "--json")
        status = json.loads(out)
        assert code == 0
        assert (status["state"], status["fragments"], status["fragments_committed"], status["rows"]) == (
            "done",
            3,
            3,
            40,
        )

    def test_a_job_that_stopped_half_way_is_interrupted(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path
    ) -> None:
        run_cli("run", write_job(source, sink))
        (sink / "_SUCCESS").unlink()
        (sink / "part-000001.parquet").unlink()
        _, out, _ = run_cli("status", sink)
        assert "interrupted" in out
        assert json.loads(run_cli("status", sink, "--json")[1])["fragments_committed"] == 2

    def test_a_job_whose_holder_lives_is_running(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path
    ) -> None:
        from optinfer.data.lock import RunLock
        from optinfer.data.storage import Folder

        run_cli("run", write_job(source, sink))
        (sink / "_SUCCESS").unlink()
        with RunLock(Folder(str(sink))):
            status = json.loads(run_cli("status", sink, "--json")[1])
        assert status["state"] == "running"
        assert f"process {os.getpid()}" in status["holder"]

    def test_a_folder_of_nobody_is_refused(self, run_cli: RunCli, tmp_path: Path) -> None:
        code, _, err = run_cli("status", tmp_path)
        assert code == 2
        assert "give the job's sink.path" in err


@pytest.mark.usefixtures("fake_variant")
class TestPlan:
    def test_a_plan_says_what_would_run(self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path) -> None:
        code, out, _ = run_cli("plan", write_job(source, sink), "--json")
        plan = json.loads(out)
        assert code == 0
        assert (plan["rows"], plan["files"], plan["fragments"], plan["to_score"]) == (40, 1, 3, 3)
        assert "embedding fixed_size_list<item: float>[384]" in plan["output"]

    def test_a_plan_writes_nothing(
        self,
        run_cli: RunCli,
        write_job: WriteJob,
        source: Path,
        sink: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        job = write_job(source, sink)
        before = everything_under(tmp_path)
        assert run_cli("plan", job)[0] == 0
        assert everything_under(tmp_path) == before
        assert not sink.exists()

    @pytest.mark.usefixtures("without_ray")
    def test_a_plan_counts_what_is_committed_and_warns_of_a_conflict(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path
    ) -> None:
        run_cli("run", write_job(source, sink))
        assert json.loads(run_cli("plan", write_job(source, sink), "--json")[1])["to_score"] == 0
        _, out, _ = run_cli("plan", write_job(source, sink), "--set", "source.limit=10")
        assert "`run` would refuse (exit 5)" in out

    def test_a_plan_refuses_what_run_would_refuse(self, run_cli: RunCli, write_job: WriteJob, sink: Path) -> None:
        code, _, err = run_cli("plan", write_job("/nowhere.parquet", sink))
        assert code == 2
        assert "does not exist" in err


def test_variants_are_listed_with_the_reason_they_are_missing(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    from optinfer.optimization.variants import VARIANTS, Variant

    monkeypatch.setitem(VARIANTS, "gpu", Variant(name="gpu", backend="fake", device="cuda", about="for tests"))
    code, out, _ = run_cli("variants", "--json")
    listed = {v["name"]: v for v in json.loads(out)}
    assert code == 0
    assert listed["torch-fp32"]["available"]
    assert not listed["gpu"]["available"]
    assert listed["gpu"]["reason"] == "backend fake runs on cpu, not cuda"
    assert "torch-fp32" in run_cli("variants")[1]


def imported_by(*arguments: str) -> set[str]:
    """Return the heavy libraries that a command imports, in a process of its own."""
    script = (
        "import sys; sys.argv = ['optinfer', *sys.argv[1:]]\n"
        "from optinfer.cli import main\n"
        "try: main()\n"
        f"finally: print('heavy:', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=REPO, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(eval(done.stderr.rpartition("heavy:")[2]))


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["variants"]], ids=" ".join)
def test_what_only_tells_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported_by(*arguments) == set()


def test_plan_imports_nothing_heavy(
    write_job: WriteJob, source: Path, sink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))  # nothing was measured: a new job
    assert imported_by("plan", str(write_job(source, sink, variant="openvino-int8-static"))) == set()


def test_the_package_itself_imports_nothing_heavy() -> None:
    code = f"import optinfer, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


LOSES = """
import os, signal, sys, weakref
from optinfer.cli import _end_when_asked
_end_when_asked()
class Thing: pass
thing = Thing()
kept = weakref.ref(thing, lambda _: [os.kill(os.getpid(), signal.SIGTERM), *range(1000)])
try:
    del thing
    for _ in range(10**7):
        pass
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_that_comes_in_a_weak_references_callback_is_not_lost() -> None:
    ended = subprocess.run([sys.executable, "-c", LOSES], capture_output=True, text=True, timeout=120, cwd=REPO)
    assert (ended.stdout, ended.stderr) == ("interrupted\n", "")
