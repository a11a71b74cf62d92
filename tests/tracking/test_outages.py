"""MLflow away: at the start, in the middle, at the end, answering with errors, or never. The real servers are real.

What each costs in seconds is not for a test to say: `python -m tests.benchmarks.outages` prints the table.
"""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optinfer.records.run import MlflowRun
from optinfer.tracking.events import Event
from optinfer.tracking.mlflow_tracker import MlflowTracker
from optinfer.tracking.recorder import Recorder
from optinfer.tracking.replay import story
from tests.conftest import free_ports, wait_until
from tests.deployment.proxy import Proxy, between, closed
from tests.tracking.endpoint import DRIPPING, NEVER, endpoint
from tests.tracking.mlflow_server import MlflowServer, mlflow_server, runs_at
from tests.tracking.test_mlflow_tracker import FINISH, START, committed

Record = Callable[..., Recorder]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("server"), *free_ports(1)) as started:
        yield started


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def record(tmp_path: Path, said: list[str]) -> Record:
    """Return a function that makes a recorder: a store's address, an experiment, seconds to the next try."""

    def make(uri: str, experiment: str = "tests", again: float = 0.05) -> Recorder:
        return Recorder(tmp_path / "run", MlflowTracker(uri, experiment, again), time.time, said.append)

    return make


def to_the_end(recorder: Recorder, *events: Event) -> MlflowRun:
    with recorder:
        for event in (START, *events, committed(0)):
            recorder.event(event)
        return recorder.finish(FINISH)


@pytest.mark.parametrize("answer", [NEVER, DRIPPING])
def test_one_that_never_answers_is_waited_for_only_as_long_as_a_silence_may_be(record: Record, answer: str) -> None:
    with endpoint(answer) as silent:
        where = to_the_end(record(silent.url))
        assert silent.arrived
        assert not silent.released.is_set()
    assert "(it does not answer)" in where.warning


def test_one_that_answers_with_errors_is_named_with_them(record: Record) -> None:
    with endpoint(500) as broken:
        where = to_the_end(record(broken.url))
    assert "500" in where.warning


class Losing(Proxy):
    """Loses the answers to what makes a run, each once it is made: `lost` counts them, `left` may still be lost."""

    lost, left = 0, 0

    def _forward(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(2**16):
                if b"/runs/create" in data:
                    self.asked = one
                if self.left and data.startswith(b"HTTP/1.1") and other is getattr(self, "asked", None):
                    self.left, self.lost = self.left - 1, self.lost + 1
                    break
                other.sendall(data)
        for end in (one, other):
            closed(end)


@pytest.mark.parametrize("lost", [1, 2], ids=["asked again by MLflow's own client", "and by us"])
def test_a_run_that_was_made_without_an_answer_is_not_made_twice(
    record: Record, server: MlflowServer, lost: int
) -> None:
    with contextlib.closing(Losing(int(server.url.rpartition(":")[2]))) as proxy:
        proxy.left = lost
        where = to_the_end(record(f"http://127.0.0.1:{proxy.port}", f"lost {lost}"))
    assert proxy.lost == lost
    assert where.warning == ""
    (run,) = runs_at(server.url, f"lost {lost}")
    assert (run["status"], run["metrics"]["rows_in"][0][2]) == ("FINISHED", 10.0)


def test_one_that_was_away_at_the_start_and_in_the_middle_has_all_of_it_in_the_end(
    record: Record, server: MlflowServer, said: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with between(int(server.url.rpartition(":")[2])) as proxy:
        proxy.cut()
        with record(f"http://127.0.0.1:{proxy.port}", "away") as recorder:
            recorder.event(START)
            wait_until(lambda: recorder.mlflow_run().warning, "a refused connection")
            proxy.mend()
            wait_until(lambda: recorder.mlflow_run().run_id, "the run")
            proxy.cut()
            recorder.event(committed(0))
            wait_until(lambda: recorder.mlflow_run().warning, "a cut connection")
            proxy.mend()
            where = recorder.finish(FINISH)
    assert (where.warning, said) == ("", [])
    assert capfd.readouterr().out == ""  # which belongs to `--json`
    (run,) = runs_at(server.url, "away")
    assert run["status"] == "FINISHED"
    assert [value for _, _, value in run["metrics"]["progress/rows"]] == [10.0, 10.0]
    assert set(run["artifacts"]) == {"manifest.json"}


def test_one_that_goes_away_at_the_end_is_said_with_what_brings_the_rest_there(
    record: Record, server: MlflowServer, said: list[str]
) -> None:
    with between(int(server.url.rpartition(":")[2])) as proxy:
        with record(f"http://127.0.0.1:{proxy.port}", "the end") as recorder:
            recorder.event(START)
            run_id = wait_until(lambda: recorder.mlflow_run().run_id, "the run")
            proxy.cut()
            where = recorder.finish(FINISH)
    assert where.run_id == run_id
    assert said == [f"warning: {where.warning}"]
    assert f"`optinfer sync {recorder.journal.path}` brings it there" in where.warning
    told = story(recorder.journal.path)
    assert told.tracked is not None
    assert (told.tracked.mlflow_run_id, told.tracked.experiment) == (run_id, "the end")


class TestSqlite:
    def test_one_that_is_locked_in_the_middle_and_free_again_has_all_of_it(
        self, record: Record, tmp_path: Path, own_store: str, said: list[str]
    ) -> None:
        uri = own_store
        with record(uri) as recorder, contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
            recorder.event(START)
            wait_until(lambda: recorder.mlflow_run().run_id, "the run")
            other.execute("BEGIN EXCLUSIVE")
            recorder.event(committed(0))
            other.rollback()
            where = recorder.finish(FINISH)
        assert (where.warning, said) == ("", [])
        assert runs_at(uri)[0]["status"] == "FINISHED"

    def test_one_that_stays_locked_is_not_waited_for(self, record: Record, tmp_path: Path) -> None:
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
            other.execute("BEGIN EXCLUSIVE")
            where = to_the_end(record(uri))
            assert "(it does not answer)" in where.warning

    def test_one_that_may_only_be_read_is_named(self, tmp_path: Path) -> None:
        """As another user, since root may write what others may only read."""
        (tmp_path / "mlflow.db").touch(mode=0o444)
        for folder in (tmp_path, *tmp_path.parents[:-1]):
            folder.chmod(folder.stat().st_mode | 0o055)
        script = f"""
import os
from optinfer.tracking.mlflow_store import Silence, Store
if os.getuid() == 0:
    os.seteuid(65534)
Store("sqlite:///{tmp_path}/mlflow.db", "tests", Silence())
"""
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert ended.stderr.strip().endswith("attempt to write a readonly database")


def test_what_mlflow_refuses_is_left_out_and_said_and_the_rest_is_there(record: Record, own_store: str) -> None:
    with record(own_store) as recorder:
        recorder.event(START)
        recorder.params({"p1": "another value than MLflow has already"})
        where = recorder.finish(FINISH)
    assert "Changing param values is not allowed" in where.warning
    (run,) = runs_at(own_store)
    assert (run["status"], run["params"]["p1"]) == ("FINISHED", "1")
