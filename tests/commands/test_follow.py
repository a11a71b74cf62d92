"""A run in another process, followed by its output folder until it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import optinfer
from optinfer.commands.follow import RunEnd, follow
from optinfer.data.lock import RunLock
from optinfer.data.storage import Folder
from optinfer.errors import ConfigError, OptinferError
from tests.conftest import REPO, MakeJob, RunCli, WriteJob, WriteTable, wait_until

ROWS = 40
Start = Callable[..., "Followed"]


class Followed:
    """The run, and what was said while it was followed."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.said: list[str] = []

    def go(self, lines: int = 1) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n" * lines)
        self.process.stdin.flush()

    def follow(self, at_each_look: Callable[[], None]) -> RunEnd:
        """Follow it; between two looks something is done instead of waiting long."""
        pause = threading.Event()

        def wait(seconds: float) -> None:
            assert seconds == 7.0
            if self.process.poll() is None:
                at_each_look()
            pause.wait(0.05)

        return follow(self.url, self.said.append, interval=7.0, wait=wait)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "local" else f"{request.getfixturevalue('bucket')}/out"


Started = Callable[..., AbstractContextManager[Followed]]


@pytest.fixture
def started(source: Path, write_job: WriteJob) -> Started:
    """Return what starts a run and waits until it holds its output."""

    @contextmanager
    def start(url: str, **changes: Any) -> Iterator[Followed]:
        command = [sys.executable, "-m", "tests.commands.followed", str(write_job(source, url, **changes))]
        with subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, text=True) as process:
            try:
                folder = Folder(url)
                held = lambda: folder.read("_optinfer/plan.pq") and folder.read("_optinfer/lock.json")  # noqa: E731
                wait_until(lambda: process.poll() is not None or held(), "the run holds its output")
                yield Followed(process, url)
            finally:
                process.kill()

    return start


@pytest.fixture
def source(tmp_path: Path, write_table: WriteTable) -> Path:
    return write_table(tmp_path / "table.parquet", rows=ROWS)


def test_it_is_followed_to_its_end(tmp_path: Path, started: Started, place: str) -> None:
    with started(place) as run:
        end = run.follow(run.go)
        assert (end.exit_code, run.process.wait()) == (0, 0)
    assert end.message == f"done: {ROWS} of {ROWS} rows scored"
    assert run.said[0].startswith(f"0 of {ROWS} rows")
    rows = [int(line.partition(" of ")[0]) for line in run.said]
    assert rows == sorted(rows)


def test_a_run_that_fails_ends_it_with_its_own_exit_code(tmp_path: Path, started: Started, place: str) -> None:
    with started(place, gate={"min": 0.99, "sample_rows": 8}) as run:
        end = run.follow(run.go)
        assert end.exit_code == run.process.wait() == 4
    assert "no variant passes the gate" in end.message


def test_an_interrupted_run_says_so(tmp_path: Path, started: Started) -> None:
    asked: list[int] = []

    def interrupt_once() -> None:
        if len(run.said) >= 2 and not asked:  # on a busy machine several lines come at once
            asked.append(signal.SIGINT)
            run.process.send_signal(signal.SIGINT)

    with started(str(tmp_path / "out")) as run:
        end = run.follow(interrupt_once)
        assert end.exit_code == run.process.wait() == 130
    assert end.message.startswith("interrupted")


def test_a_run_that_is_killed_ends_it_with_a_failure(tmp_path: Path, started: Started) -> None:
    with started(str(tmp_path / "out")) as run:
        end = run.follow(run.process.kill)
    assert end.exit_code == 1
    assert "ended without a word" in end.message


def test_a_run_that_goes_on_after_one_that_failed_leaves_nothing_of_its_end(tmp_path: Path, started: Started) -> None:
    out = str(tmp_path / "out")
    with started(out, gate={"min": 0.99, "sample_rows": 8}) as run:
        assert run.follow(run.go).exit_code == 4
    assert (tmp_path / "out/_optinfer/ended.json").exists()
    with started(out) as run:
        assert run.follow(run.go).exit_code == 0
    assert not (tmp_path / "out/_optinfer/ended.json").exists()


@pytest.fixture
def unfinished(source: Path, tmp_path: Path, make_job: MakeJob, fake_variant: str, without_ray: None) -> Path:
    """Return an output whose run has not ended yet."""
    optinfer.run(make_job(source, tmp_path / "out"))
    (tmp_path / "out/_SUCCESS").unlink()
    (tmp_path / "out/_manifest.json").unlink()
    return tmp_path / "out"


def test_what_cannot_be_read_for_a_moment_is_looked_at_again(unfinished: Path) -> None:
    said: list[str] = []
    strange = unfinished / "_quarantine"
    lock = RunLock(Folder(str(unfinished)))
    steps = iter([lambda: strange.write_text("no folder"), strange.unlink, lambda: lock.__exit__(None, None, None)])
    lock.__enter__()
    end = follow(str(unfinished), said.append, wait=lambda seconds: next(steps)())
    assert end.exit_code == 1
    assert said[0] == said[2] == f"{ROWS} of {ROWS} rows"
    assert said[1] == f"cannot read {unfinished} now (NotADirectoryError), and looks again"


def test_a_folder_that_stays_out_of_reach_ends_the_following(unfinished: Path) -> None:
    (unfinished / "_quarantine").write_text("no folder")
    waits: list[float] = []
    with RunLock(Folder(str(unfinished))), pytest.raises(OptinferError, match="the run may go on"):
        follow(str(unfinished), lambda line: None, wait=waits.append)
    assert waits == [5.0] * 5


def test_a_folder_of_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the output of an optinfer job"):
        follow(str(tmp_path), lambda line: None)


def test_the_command_ends_as_the_run_did(tmp_path: Path, started: Started, run_cli: RunCli) -> None:
    with started(str(tmp_path / "out")) as run:
        run.go(9)
        code, out, err = run_cli("status", tmp_path / "out", "--follow", "--every", "0.1", "--json")
    assert (code, json.loads(out)["state"]) == (0, "done")
    assert f"done: {ROWS} of {ROWS} rows scored" in err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_stops_following_only(tmp_path: Path, started: Started) -> None:
    with started(str(tmp_path / "out")) as run:
        command = [sys.executable, "-m", "optinfer", "status", str(tmp_path / "out"), "--follow"]
        with subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stderr is not None
            assert "rows" in watching.stderr.readline()
            watching.send_signal(signal.SIGINT)
            _, err = watching.communicate()
        assert (watching.returncode, err) == (130, "stopped following; the run goes on\n")
        assert run.process.poll() is None
        assert run.follow(run.go).exit_code == 0
