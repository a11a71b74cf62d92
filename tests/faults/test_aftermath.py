"""A command that is killed cannot tell MLflow and its webhook: its parent does, in bounded time, or says who does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optinfer.commands.aftermath import put_in_order
from optinfer.commands.sync import Where, sync
from optinfer.data.output import Output
from optinfer.errors import OptinferError
from optinfer.system import will
from optinfer.system.guard import Death
from optinfer.system.will import Note
from optinfer.tracking.journal import read
from tests.conftest import REPO, WriteTable, wait_until
from tests.faults.conftest import Driver
from tests.tracking.endpoint import NEVER, endpoint
from tests.tracking.mlflow_server import runs_at

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a command runs without a parent of ours")

SECRET = "sh-it-is-a-s3cret"
# `optinfer run` without Ray, of a variant that waits after so many micro-batches, in the command's own process.
_PROGRAM = """
import json, sys
from optinfer.__main__ import program

faults = json.loads(sys.argv.pop(1))

def command():
    from optinfer.cli import main
    from optinfer.commands import resolved
    from optinfer.execution.in_process import InProcess
    from optinfer.execution.placement import Node
    from optinfer.optimization.trial import HERE
    from optinfer.optimization.variants import VARIANTS, Step, Variant

    resolved.APART = HERE
    VARIANTS["faulty"] = Variant(name="faulty", steps=(Step("fault", faults),), backend="faulty", about="for tests")
    main(None, lambda address: InProcess([Node(cpus=2)]))

program(command)
"""
HOLD_AFTER = 45


@pytest.fixture
def kill_half_way(
    tmp_path: Path, write_table: WriteTable, write_job: Callable[..., Path], meeting: Path
) -> Iterator[Callable[..., tuple[int, str, dict[str, Any]]]]:
    """Return a function that kills a run's process when parts are committed: to exit code, stderr, its JSON."""
    started: list[subprocess.Popen[str]] = []

    def kill(**changes: Any) -> tuple[int, str, dict[str, Any]]:
        source, output = write_table(tmp_path / "table.parquet", rows=400), Output(str(tmp_path / "out"))
        job = write_job(source, tmp_path / "out", variant="faulty", **changes)
        faults = json.dumps({"folder": str(meeting), "hold_after": HOLD_AFTER})
        command = [sys.executable, "-c", _PROGRAM, faults, "run", str(job), "--json"]
        process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)

        def held() -> bool:
            assert process.poll() is None, process.communicate()[1]
            return len(list((meeting / "calls").iterdir())) > HOLD_AFTER and bool(output.sink.committed())

        wait_until(held, "a part, and a replica that waits", 240.0)
        Driver(process).part("command").kill()
        out, err = process.communicate(timeout=120)
        return process.returncode, err, json.loads(out.splitlines()[-1])

    yield kill
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_mlflow_and_the_webhook_hear_of_a_run_that_was_killed(
    kill_half_way: Callable[..., tuple[int, str, dict[str, Any]]],
    own_store: str,
    tmp_path: Path,
    last_journal: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with endpoint() as hook:
        code, err, told = kill_half_way(
            tracking={"uri": own_store, "experiment": "tests"}, notify={"url": hook.url, "secret_env": "HOOK_SECRET"}
        )
    assert code == 1
    assert "warning: " not in err

    ((headers, body),) = hook.arrived
    posted, run_id = json.loads(body), last_journal().parent.name
    assert posted == {**told, "run_id": run_id, "job": "test", "output": str(tmp_path / "out")}
    assert "was killed by SIGKILL" in posted["message"]
    assert headers["webhook-id"] == f"{run_id}-failed"
    assert headers["webhook-signature"].startswith("v1,")

    (run,) = runs_at(own_store)
    assert (run["status"], run["tags"]["optinfer.run_id"]) == ("FAILED", run_id)
    assert "was killed by SIGKILL" in run["tags"]["optinfer.error"]
    assert run["metrics"]["progress/rows"]
    (again,) = sync(str(last_journal()), Where()).runs
    assert again.status == "complete", "nothing is left for it to do"


def test_neither_is_waited_for_in_vain_and_both_are_said(
    kill_half_way: Callable[..., tuple[int, str, dict[str, Any]]], last_journal: Callable[[], Path]
) -> None:
    with endpoint(NEVER) as silent:
        code, err, _ = kill_half_way(
            tracking={"uri": silent.url, "experiment": "tests"}, notify={"url": silent.url.replace("hook", "post")}
        )
    assert code == 1
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("warning: ")]
    (mlflow,) = (line for line in lines if "MLflow at" in line)
    assert "(it does not answer)" in mlflow
    assert mlflow.endswith(f"`optinfer sync {last_journal()}` brings it there")
    (hook,) = (line for line in lines if "the record of this run did not reach" in line)
    assert hook.endswith(f"kept in {last_journal()}")
    events = list(read(last_journal()))
    assert [event["event"] for event in events][-2:] == ["finish", "undelivered"]
    assert json.loads(events[-1]["body"])["status"] == "failed"


NEWS = {"run_id": "r1", "job": "j", "output": "/o", "secret_env": "", "on": "done failed"}


@pytest.mark.parametrize(
    ("told", "arrived"),
    [
        ([], ["r1-failed"]),
        ([{"end": "done", "record": '{"status": "done"}'}], ["r1-done"]),  # as it may not have arrived
        ([{"end": "interrupted", "record": "{}"}], []),  # which nobody asked for
        ([{"end": "done", "record": "{}"}, {}], []),  # it has
    ],
)
def test_an_end_that_was_told_is_not_told_as_another(told: list[dict[str, str]], arrived: list[str]) -> None:
    with endpoint() as hook:
        notes = [Note(will.NEWS, {**NEWS, "url": hook.url}), *(Note(will.TOLD, about) for about in told)]
        put_in_order(Death(-9, False, notes, ""), OptinferError("killed"), print)
    assert [headers["webhook-id"] for headers, _ in hook.arrived] == arrived


def test_an_end_that_nobody_waits_for_loads_nothing_heavy() -> None:
    asked = (
        "import sys; from optinfer.commands.aftermath import put_in_order; from optinfer.system.guard import Death\n"
        "put_in_order(Death(-9, False, (), ''), KeyboardInterrupt(), print)\n"
        "print(sorted({'mlflow', 'requests', 'ray', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, cwd=REPO)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
