"""`make demo-cluster`'s script: three nodes with a token, a job on them, its exit code, and nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.manifests import CLUSTER
from tests.conftest import REPO, WriteTable, read_rows, wait_until

# Three nodes on a machine that has other work, too.
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1200)]
PATIENCE = 1000.0
ROWS = 48
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Return an empty folder with a short path: what the cluster leaves would be seen in it."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def start(ray_folder: Path, environment: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts the script on a job; it is ended with the test."""
    begun: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(REPO), os.environ["PYTHONPATH"]])
        command = [sys.executable, str(CLUSTER / "local" / "demo.py"), *arguments]
        begun.append(
            subprocess.Popen(
                command,
                env={**os.environ, "RAY_TMPDIR": str(ray_folder), "PYTHONPATH": path, **variables},
                cwd=REPO,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        process.terminate()
        process.wait()


@pytest.fixture
def job(write_job: Callable[..., Path], write_table: WriteTable, tmp_path: Path) -> Path:
    return write_job(write_table(tmp_path / "table.parquet", ROWS), tmp_path / "out", variant="torch-fp32")


def left_in(folder: Path) -> list[psutil.Process]:
    """Return the processes whose command names a folder."""
    return [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])]


def test_a_job_is_scored_on_the_workers_and_everything_ends(
    start: Start, job: Path, ray_folder: Path, tmp_path: Path
) -> None:
    demo = start(str(job), "--json")
    said, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, errors
    assert "without the token the head answers 401" in errors
    assert "free CPUs" in errors  # what `run` says of the nodes' room
    assert json.loads(said)["rows_out"] == ROWS == len({row["id"] for row in read_rows(tmp_path / "out")})
    assert not left_in(ray_folder)
    assert not list(ray_folder.iterdir())


def test_a_job_that_is_submitted_has_this_interpreter_and_its_folder_to_the_end(
    start: Start, job: Path, ray_folder: Path, tmp_path: Path
) -> None:
    demo = start(str(job), "--json", DEMO_COMMAND="submit", PATH="/usr/bin:/bin")
    said, errors = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, errors
    answered = json.loads(said)["result"]
    assert answered["rows_out"] == ROWS == len({row["id"] for row in read_rows(tmp_path / "out")})
    assert "warning" not in answered["mlflow"], "which asks for the folder that the job was started in"
    assert not left_in(ray_folder)


def test_the_exit_code_is_the_job_s(start: Start, job: Path, ray_folder: Path) -> None:
    demo = start(str(job), "--set", "sink.colour=red")
    _, errors = demo.communicate(timeout=PATIENCE)
    assert (demo.returncode, "unknown key 'sink.colour'" in errors) == (2, True), errors
    assert not left_in(ray_folder)


def test_a_stop_in_the_middle_leaves_no_process(start: Start, job: Path, ray_folder: Path) -> None:
    demo = start(str(job))
    wait_until(lambda: any("raylet" in process.name() for process in left_in(ray_folder)), "a node", PATIENCE)
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 128 + signal.SIGTERM
    assert not left_in(ray_folder)
    assert not list(ray_folder.iterdir())
