"""No traceback reaches a person: each fault is caused for real, and ends in one line, its exit code and a kept record."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optinfer.errors import ConfigError, OptinferError, OutputConflictError
from optinfer.execution.in_process import InProcess
from optinfer.execution.placement import Node
from optinfer.inference.answers import Scored
from optinfer.inference.replica import Replica
from optinfer.optimization.variants import VARIANTS, Variant
from optinfer.system import home
from optinfer.tracking.journal import read
from tests.conftest import MakeJob, RunCli, WriteJob, WriteTable, everything_under, read_rows
from tests.data.flaky_store import FlakyStore

# The program in a process of its own, with the shell saying what becomes of its streams.
_PROGRAM = f"{sys.executable} -m optinfer"


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable) -> Path:
    return write_table(tmp_path / "table.parquet", rows=40)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def shell(script: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=120, check=False, **options)


def one_line(err: str) -> str:
    """Return the only line of stderr, which is no traceback."""
    (line,) = err.strip().splitlines()
    assert "Traceback" not in line
    return line


@dataclass(frozen=True, kw_only=True)
class Failing(Variant):
    """A variant that raises when it is asked whether this machine can run it."""

    error: BaseException

    def unavailable(self) -> str | None:
        raise self.error


@pytest.fixture
def listing_fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Return a function that lets `optinfer variants` fail."""
    return lambda error: monkeypatch.setitem(
        VARIANTS, "failing", Failing(name="failing", backend="fake", about="", error=error)
    )


class TestTheLastResort:
    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (KeyError("x"), "something failed that optinfer did not foresee (KeyError: 'x'): please report it"),
            (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth exceeded"),
            (MemoryError(), "this process ran out of memory (MemoryError)"),
            (OSError(28, "No space left on device"), "a disk is full"),
            (PermissionError(13, "Permission denied", "/x"), "the system refused something"),
            (ValueError("first\nsecond"), "(ValueError: first)"),
            (UnicodeEncodeError("ascii", "ä", 0, 1, "ordinal"), "UnicodeEncodeError"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    def test_what_nobody_foresaw_is_one_line_and_the_traceback_a_file(
        self, run_cli: RunCli, own_home: Path, listing_fails: Callable[[BaseException], None], error: Exception,
        says: str,
    ) -> None:  # fmt: skip
        listing_fails(error)
        code, out, err = run_cli("variants", "--json")
        (kept,) = (own_home / "crashes").iterdir()
        assert code == 1
        assert says in one_line(err)
        assert err.strip().endswith(f"the traceback is in {kept}")
        assert "in listing" in kept.read_text()
        failure = json.loads(out)
        assert (failure["status"], failure["error"], failure["exit_code"]) == ("failed", type(error).__name__, 1)
        assert says in failure["message"]

    def test_passwords_and_tokens_in_urls_are_kept_nowhere(
        self, run_cli: RunCli, own_home: Path, listing_fails: Callable[[BaseException], None]
    ) -> None:
        listing_fails(RuntimeError("GET https://me:secret@host/a/b?X-Amz-Signature=hidden failed"))
        _, _, err = run_cli("variants")
        (kept,) = (own_home / "crashes").iterdir()
        for text in (err, kept.read_text().rpartition("RuntimeError")[2]):
            assert "GET https://...@host/a/b?... failed" in text
            assert "secret" not in text
            assert "hidden" not in text

    def test_it_works_without_a_place_to_keep_anything(
        self, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        listing_fails: Callable[[BaseException], None],
    ) -> None:  # fmt: skip
        (tmp_path / "file").touch()
        monkeypatch.setenv("OPTINFER_HOME", str(tmp_path / "file"))
        listing_fails(ZeroDivisionError("division by zero"))
        code, _, err = run_cli("variants")
        assert code == 1
        assert "ZeroDivisionError" in one_line(err)
        assert "no traceback is kept (cannot write" in err

    @pytest.mark.usefixtures("fake_variant")
    def test_a_runs_traceback_is_in_its_journal(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path, last_journal: Callable[[], Path]
    ) -> None:
        class Strange(InProcess):
            def start(self) -> None:
                raise KeyError("gone")

        code, out, err = run_cli("run", write_job(source, sink), "--json", executor=Strange([Node(cpus=2)]))
        (event,) = (e for e in read(last_journal()) if e["event"] == "error")
        assert code == 1
        assert "Traceback" not in err + out
        assert f"KeyError: 'gone'): please report it; the traceback is in {last_journal()}" in err
        assert "in start" in event["traceback"]
        assert not (home.home() / "crashes").exists()

    @pytest.mark.usefixtures("fake_variant")
    def test_a_replicas_traceback_is_in_the_journal_and_its_message_is_one_line(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path, last_journal: Callable[[], Path]
    ) -> None:
        class Strange(Replica):
            def score(self, table: pa.Table) -> Scored:
                raise LookupError("nobody thought of this")

        code, _, err = run_cli("run", write_job(source, sink), executor=InProcess([Node(cpus=2)], Strange))
        (event,) = (e for e in read(last_journal()) if e["event"] == "error")
        assert code == 1
        assert "Traceback" not in err
        assert "failed: something failed that optinfer did not foresee (LookupError: nobody thought of this)" in err
        assert "in score" in event["traceback"]

    def test_usage_errors_and_interrupts_are_objects_too(
        self, run_cli: RunCli, listing_fails: Callable[[BaseException], None]
    ) -> None:
        code, out, _ = run_cli("run", "--json")
        assert (code, json.loads(out)["exit_code"], json.loads(out)["error"]) == (2, 2, "MissingParameter")
        listing_fails(KeyboardInterrupt())
        code, out, _ = run_cli("variants", "--json")
        assert (code, json.loads(out)["status"], json.loads(out)["exit_code"]) == (130, "interrupted", 130)


class TestStreams:
    def test_an_answer_that_cannot_be_written_is_said(self) -> None:
        ended = shell(f"{_PROGRAM} variants > /dev/full")
        assert ended.returncode == 1
        assert one_line(ended.stderr).startswith("error: cannot write to stdout: No space left on device; what the")

    def test_a_help_that_cannot_be_written_is_no_traceback(self) -> None:
        ended = shell(f"{_PROGRAM} --help > /dev/full")
        assert ended.returncode == 1
        assert "a disk is full" in one_line(ended.stderr)

    @pytest.mark.parametrize("command", ["variants", "--help"])
    def test_a_reader_that_has_gone_ends_it_without_a_word(self, command: str) -> None:
        theirs, ours = os.pipe()
        os.close(theirs)
        ended = subprocess.run(
            [sys.executable, "-m", "optinfer", command], stdout=ours, stderr=subprocess.PIPE, text=True
        )
        os.close(ours)
        assert (ended.returncode, ended.stderr) == (1, "")

    @pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
    def test_closed_streams_change_nothing(self, closed: str) -> None:
        assert shell(f"{_PROGRAM} variants {closed}").returncode == 0

    def test_no_file_takes_the_number_of_a_closed_stream(self, tmp_path: Path) -> None:
        script = (
            "import os; from optinfer.__main__ import _fill_standard_streams as fill; fill()\n"
            f"number = os.open({str(tmp_path / 'journal')!r}, os.O_WRONLY | os.O_CREAT)\n"
            "os.write(2, b'chatter of a library'); os._exit(number)"
        )
        ended = shell(f'exec {sys.executable} -c "$SCRIPT" >&- 2>&-', env={**os.environ, "SCRIPT": script})
        assert ended.returncode > 2
        assert (tmp_path / "journal").read_bytes() == b""

    def test_a_terminal_that_is_gone_ends_no_job(self) -> None:
        from optinfer.cli import say
        from optinfer.tracking.progress import Progress

        full = io.TextIOWrapper(open("/dev/full", "wb", buffering=0))  # noqa: SIM115
        with contextlib.redirect_stderr(full):
            say("x")
            with Progress(10, stream=full, pause=lambda _: True) as progress:
                progress.say("x")
                progress.advance(1, 0)
        with contextlib.redirect_stderr(None):
            say("x")
            with Progress(10) as progress:
                progress.advance(1, 0)

    def test_characters_that_stdout_lacks_are_shown_otherwise(self, tmp_path: Path) -> None:
        (tmp_path / "jöb.yaml").write_text("[]")
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
        ended = shell(f"{_PROGRAM} plan {tmp_path}/jöb.yaml", env=environment)
        assert ended.returncode == 2
        assert "a job is a mapping" in ended.stderr
        script = "from optinfer.__main__ import _fill_standard_streams as fill; fill(); print('ä', chr(0xdcff))"
        ended = shell(f'{sys.executable} -c "{script}"', env=environment)
        assert (ended.returncode, ended.stdout) == (0, "\\xe4 \\udcff\n")


class TestPlaces:
    def test_a_working_directory_that_is_gone(
        self, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        code, _, err = run_cli("variants")
        assert code == 2
        assert one_line(err) == "error: the folder that this command was started in is gone; cd to one that exists"

    @pytest.mark.parametrize("place", ["/proc/nowhere", "~no-such-user-here/x", "file"])
    @pytest.mark.usefixtures("fake_variant", "without_ray")
    def test_a_home_that_cannot_be_used_is_refused_before_anything_is_scored(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, place: str,
    ) -> None:  # fmt: skip
        (tmp_path / "file").touch()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OPTINFER_HOME", place)
        for command in (["run"], ["optimize", "--variants", "fake"], ["tune"]):
            code, _, err = run_cli(command[0], write_job(source, sink), *command[1:])
            assert code in (1, 2)
            assert "OPTINFER_HOME" in one_line(err)
        assert not sink.exists()

    def test_no_temporary_folder_at_all(self) -> None:
        script = "from optinfer.commands.readiness import require_temporary as require; require()"
        ended = shell(f'ulimit -f 0; exec {sys.executable} -c "{script}"')  # no file may grow
        assert ended.returncode == 1
        last = ended.stderr.splitlines()[-1]
        assert "OptinferError: No usable temporary" in last
        assert "set TMPDIR to" in last

    @pytest.fixture
    def unreadable(self, source: Path) -> Path:
        """Return a table that can be planned and not read: whoever draws a sample of it says so."""
        table = pq.read_table(source)
        pq.write_table(table, source, write_page_checksum=True, compression="none", use_dictionary=False)
        meta = pq.read_metadata(source)
        columns = [meta.row_group(0).column(i) for i in range(meta.num_columns)]
        data = bytearray(source.read_bytes())
        for column in columns:
            data[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
        source.write_bytes(data)
        return source

    def test_an_unreadable_table_is_found_out_by_the_sample(
        self, write_job: WriteJob, unreadable: Path, sink: Path
    ) -> None:
        ended = shell(f"{_PROGRAM} run {write_job(unreadable, sink, variant='torch-fp32')}")
        assert ended.returncode == 1
        assert "is not a readable Parquet file" in ended.stderr.splitlines()[-1]

    def test_a_placement_that_never_fits_is_refused_before_a_sample_is_read(
        self, write_job: WriteJob, unreadable: Path, sink: Path
    ) -> None:
        job = write_job(unreadable, sink, variant="torch-fp32")
        ended = shell(f"{_PROGRAM} run {job} --set placement.replicas=4000")
        assert ended.returncode == 2
        assert "set placement.replicas to" in one_line(ended.stderr)
        assert not sink.exists()

    def test_a_ray_that_is_not_there_is_refused_before_a_sample_is_read(
        self, write_job: WriteJob, unreadable: Path, sink: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
        ended = shell(f"{_PROGRAM} run {write_job(unreadable, sink, variant='torch-fp32')}")
        assert ended.returncode == 1
        assert one_line(ended.stderr).endswith("check RAY_ADDRESS (HOST:6379 or auto), or leave it out to run here")
        assert not sink.exists()

    def test_a_store_that_overwrites_is_no_sink(self, bucket: str, flaky: FlakyStore) -> None:
        from optinfer.commands.readiness import require_conditional

        require_conditional(f"{bucket}/out")
        flaky.ignored = {"if-none-match"}
        with pytest.raises(ConfigError, match="does not create files conditionally"):
            require_conditional(f"{bucket}/out")
        with pytest.raises(OptinferError, match="cannot use s3://no-such-bucket-here/out"):
            require_conditional("s3://no-such-bucket-here/out")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--variants", ","], "--variants names none"),
            (["--variants", ""], "--variants names none"),
            (["--register", "a/b"], "hold no '/' or ':'"),
            (["--register", ""], "not empty"),
            (["--plot", "p.xyz"], "is no image file"),
            (["--plot", ""], "is no image file"),
            (["--plot", "."], "is no image file"),
            (["--plot", "/proc/nowhere/p.png"], "its folder cannot be made"),
        ],
    )
    def test_what_optimize_could_not_do_at_its_end_it_refuses_at_its_start(
        self, run_cli: RunCli, write_job: WriteJob, source: Path, sink: Path, arguments: list[str], says: str
    ) -> None:
        code, _, err = run_cli("optimize", write_job(source, sink, variant="torch-fp32"), *arguments)
        assert code == 2
        assert says in one_line(err)

    def test_status_of_what_is_no_folder(self, run_cli: RunCli, source: Path, s3_endpoint: str) -> None:
        code, _, err = run_cli("status", source)
        assert code == 1
        assert "cannot use" in one_line(err)
        assert run_cli("status", "s3://no-such-bucket-here/x")[0] in (1, 2)


@pytest.mark.usefixtures("fake_variant", "without_ray")
class TestTwoThreads:
    def scored(self, make_job: MakeJob, source: Path, *sinks: Path) -> list[Any]:
        """Run a job for each sink at the same time; return their records or errors."""
        from optinfer.commands.run import run

        ended: list[Any] = [None] * len(sinks)

        def work(number: int) -> None:
            try:
                ended[number] = run(make_job(source, sinks[number], name=f"job{number}"))
            except OptinferError as error:
                ended[number] = error

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(sinks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ended

    def test_two_jobs_at_once_leave_two_whole_outputs_and_the_process_as_it_was(
        self, make_job: MakeJob, source: Path, tmp_path: Path
    ) -> None:
        before = (os.getcwd(), sys.stdout, sys.stderr)
        ended = self.scored(make_job, source, tmp_path / "a", tmp_path / "b")
        assert [record.rows_out for record in ended] == [40, 40]
        assert read_rows(tmp_path / "a") == read_rows(tmp_path / "b")
        assert (os.getcwd(), sys.stdout, sys.stderr) == before

    def test_two_jobs_with_one_output_score_it_once(self, make_job: MakeJob, source: Path, tmp_path: Path) -> None:
        ended = self.scored(make_job, source, tmp_path / "a", tmp_path / "a")
        done = [e for e in ended if not isinstance(e, Exception)]
        refused = [e for e in ended if isinstance(e, OutputConflictError)]
        assert len(done) + len(refused) == 2
        assert done
        assert len(read_rows(tmp_path / "a")) == 40

    def test_a_command_in_a_thread_needs_no_signals(self, capfd: pytest.CaptureFixture[str]) -> None:
        from optinfer.cli import main

        codes: list[Any] = []

        def command() -> None:
            try:
                main(["variants", "--json"])
            except SystemExit as ended:
                codes.append(ended.code)

        thread = threading.Thread(target=command)
        thread.start()
        thread.join()
        assert codes == [0]


def test_streams_come_back_when_two_threads_were_muted_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    from optinfer.system.quiet import muted

    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with muted():
            inside.set()
            leave.wait(10)

    before = (sys.stdout, sys.stderr)
    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    with muted():
        leave.set()
        thread.join()  # the first leaves while the second is inside
        print("not heard")
    assert (sys.stdout, sys.stderr) == before
    print("heard")
    assert capsys.readouterr().out == "heard\n"


def test_a_home_is_named_by_its_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPTINFER_HOME", "relative")
    assert home.home() == tmp_path / "relative"
    assert everything_under(tmp_path) == []
